//! The suite of all backends, and what it cannot see: each four times, with and without the user-space ring, with and
//! without the poll request.

mod completion_ring;
mod dropping;
mod limits;
mod probe;
mod refusal;
mod submitting;
mod waiting;
mod waking;

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::thread;
use std::time::{Duration, Instant};

use aio_core::backend::parts::EventWaker;
use aio_core::backend::{Completion, Direction, IoBackend, IoBlock, IoQueue, QueueConfig, Wake};
use aio_testkit::conformance::{self, require};

use crate::abi::io_event;
use crate::queue::LibaioQueue;
use crate::wait::Wait;
use crate::{Avoid, LibaioBackend};

/// Long enough to never pass in a test that works; a test that hangs ends with a failure by it.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(60));

/// The ways a queue can take.
const WAYS: [Avoid; 4] = [
    Avoid { ring: false, poll: false },
    Avoid { ring: true, poll: false },
    Avoid { ring: false, poll: true },
    Avoid { ring: true, poll: true },
];

/// Runs `test` with an open queue of `config`, each way that there is here; [`require`] says which are not.
fn each_way(config: &QueueConfig, mut test: impl FnMut(LibaioQueue)) {
    for avoid in WAYS.into_iter().filter(|avoid| require(&LibaioBackend { avoid: *avoid })) {
        let queue = open(config, avoid);
        assert!(avoid.ring || queue.context.has_ring(), "this kernel's ring has a layout we do not know");
        assert_eq!(avoid.poll, matches!(queue.wait, Wait::Resfd(_)));
        test(queue);
    }
}

fn open(config: &QueueConfig, avoid: Avoid) -> LibaioQueue {
    LibaioQueue::open(config, avoid).expect("the way was probed")
}

// For the usual way it is in `tests/conformance.rs`.

#[test]
fn conforms_without_the_ring() {
    conforms(WAYS[1]);
}

#[test]
fn conforms_without_poll_requests() {
    conforms(WAYS[2]);
}

#[test]
fn conforms_without_either() {
    conforms(WAYS[3]);
}

fn conforms(avoid: Avoid) {
    conformance::queue(&LibaioBackend { avoid });
}

/// A file of `len` patterned bytes, open for direct I/O if its file system has that.
struct Fixture {
    file: File,
    len: usize,
    _folder: tempfile::TempDir,
}

impl Fixture {
    fn new(len: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        std::fs::write(&path, pattern(0, len)).unwrap();
        let open = |flags| OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path);
        let file = open(libc::O_DIRECT).unwrap_or_else(|error| {
            println!("SKIPPED direct I/O: {} cannot be opened for it: {error}", path.display());
            open(0).unwrap()
        });
        file.sync_all().unwrap();
        Self { file, len, _folder: folder }
    }

    /// A block of the file at `at`, into or out of the same place in `memory`.
    fn block(&self, token: u64, direction: Direction, memory: &mut Memory, at: usize, len: usize) -> IoBlock {
        assert!(at + len <= memory.len);
        let ptr = memory.ptr.wrapping_add(at);
        IoBlock { token, ..IoBlock::new(direction, self.file.as_raw_fd(), ptr, len, at as u64) }
    }

    /// The whole file as blocks of `len` bytes, numbered from 0.
    fn blocks(&self, direction: Direction, memory: &mut Memory, len: usize) -> Vec<IoBlock> {
        (0..self.len / len).map(|n| self.block(n as u64, direction, memory, n * len, len)).collect()
    }
}

/// Bytes that tell where in a file they belong: each eight say which they are. Both numbers are multiples of 8.
fn pattern(start: usize, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    (start / 8..(start + len) / 8).for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
    bytes
}

/// Page-aligned memory that the kernel may write to behind the compiler's back: only raw pointers to it are kept.
struct Memory {
    ptr: *mut u8,
    len: usize,
}

impl Memory {
    fn new(len: usize) -> Self {
        let layout = Self::layout(len);
        // SAFETY: no test asks for 0 bytes.
        let ptr = unsafe { alloc_zeroed(layout) };
        if ptr.is_null() {
            handle_alloc_error(layout);
        }
        Self { ptr, len }
    }

    fn copy(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        // SAFETY: called with no block in flight on this memory.
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(self.ptr, self.len) };
        bytes
    }

    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len, 4096).unwrap()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout; tests drop their queue first.
        unsafe { dealloc(self.ptr, Self::layout(self.len)) };
    }
}

/// Submits all of `blocks`.
///
/// The tests keep memory and file until the queue is done: what [`IoQueue::submit`] demands.
fn submit(queue: &mut LibaioQueue, blocks: &[IoBlock]) {
    // SAFETY: see above.
    assert_eq!(unsafe { queue.submit(blocks) }.unwrap(), blocks.len());
}

/// Reaps until nothing is in flight, and returns the results in the order of their tokens.
fn reap_all(queue: &mut LibaioQueue) -> Vec<Result<usize, i32>> {
    let mut done = Vec::new();
    while queue.in_flight() > 0 {
        let before = done.len();
        queue.reap(1, PATIENCE, &mut done).unwrap();
        assert!(done.len() > before, "nothing completed for a minute");
    }
    results(done)
}

fn results(mut done: Vec<Completion>) -> Vec<Result<usize, i32>> {
    done.sort_by_key(|completion| completion.token);
    assert!(done.windows(2).all(|pair| pair[0].token != pair[1].token), "a block completed twice");
    done.into_iter().map(|completion| completion.result.map_err(|error| error.raw_os_error().unwrap_or(0))).collect()
}
