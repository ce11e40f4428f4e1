//! Tests of the queue on real files, on every rung of the ladder that the kernel takes.

mod dropping;
mod faults;
mod kernel_workers;
mod ladder;
mod refusal;
mod registered;
mod transfers;
mod waiting;
mod waking;

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::slice;
use std::sync::Arc;

use aio_core::backend::{Completion, IoBackend, IoBlock, IoQueue, QueueConfig, Region, RegionId, RegionMemory};
use aio_core::op::Direction;
use aio_testkit::conformance;

use crate::UringBackend;
use crate::queue::UringQueue;
use crate::setup::LADDER;

/// What direct I/O on every file system of these tests is aligned to.
const PAGE: usize = 4096;
/// Long enough that only a lost wake-up or completion reaches it.
const NEVER: std::time::Duration = std::time::Duration::from_secs(30);

/// One backend per rung that this kernel takes; none where it refuses io_uring, which is said.
fn rungs() -> Vec<UringBackend> {
    if !conformance::require(&UringBackend::default()) {
        return Vec::new();
    }
    let mut rungs: Vec<_> = (0..LADDER.len()).map(|rung| UringBackend { ladder: &LADDER[rung..=rung] }).collect();
    rungs.retain(|rung| match rung.probe() {
        Ok(_) => true,
        Err(refusal) => {
            skip(format_args!("rung {:?}: {refusal}", rung.ladder));
            false
        }
    });
    rungs
}

/// The rungs of kernels whose wait takes no limit, as their queues would be there.
fn rungs_without_ext_arg() -> impl Iterator<Item = UringBackend> {
    let defers = |rung: &UringBackend| rung.ladder[0].iter().any(|flag| flag.name == "DEFER_TASKRUN");
    rungs().into_iter().filter(move |rung| !defers(rung))
}

/// Printed past the output capture of the test harness.
fn skip(reason: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "SKIPPED {reason}");
}

fn config(depth: usize) -> QueueConfig {
    let mut config = QueueConfig::new(depth);
    config.regions = 4;
    config.files = 4;
    config
}

fn open(backend: &UringBackend, config: &QueueConfig) -> UringQueue {
    UringQueue::open(config, backend.ladder).expect("the rung was probed")
}

/// Page-aligned memory for transfers.
#[derive(Debug)]
struct Memory {
    ptr: *mut u8,
    layout: Layout,
}

// SAFETY: the tests share it between threads only while no transfer of it is in flight.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}
// SAFETY: an allocation stays where it is until it is dropped, readable and writable.
unsafe impl RegionMemory for Memory {
    fn ptr(&self) -> *mut u8 {
        self.ptr
    }

    fn len(&self) -> usize {
        self.layout.size()
    }
}

impl Memory {
    fn new(len: usize) -> Self {
        let layout = Layout::from_size_align(len, PAGE).unwrap();
        // SAFETY: no test asks for zero bytes.
        let ptr = unsafe { alloc_zeroed(layout) };
        if ptr.is_null() {
            handle_alloc_error(layout);
        }
        Self { ptr, layout }
    }

    /// The caller has nothing in flight there.
    fn bytes(&self) -> &[u8] {
        // SAFETY: allocated, initialised, and not being written, which callers take care of.
        unsafe { slice::from_raw_parts(self.ptr, self.layout.size()) }
    }

    fn fill(&self, byte: u8) {
        // SAFETY: as in `bytes`, and no slice of it is live: the tests take theirs for one statement.
        unsafe { self.ptr.write_bytes(byte, self.layout.size()) };
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and the tests reap or drop the queue before its memory.
        unsafe { dealloc(self.ptr, self.layout) };
    }
}

fn region_id(slot: u32) -> RegionId {
    RegionId { slot, generation: 1 }
}

fn region(id: u32, memory: &Arc<Memory>) -> Region {
    Region::new(region_id(id), Arc::clone(memory) as Arc<dyn RegionMemory>)
}

/// A file of `len` bytes, `pattern` at each, open for direct I/O.
fn direct_file(len: usize) -> File {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&pattern(0, len)).unwrap();
    file.as_file().sync_all().unwrap();
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(file.path()).unwrap()
}

/// The bytes that belong at `offset`: no two pages are alike.
fn pattern(offset: usize, len: usize) -> Vec<u8> {
    (offset..offset + len).map(|at| (at ^ (at / PAGE).wrapping_mul(31)) as u8).collect()
}

fn block(
    token: u64,
    direction: Direction,
    file: &File,
    memory: &Memory,
    at: usize,
    len: usize,
    offset: u64,
) -> IoBlock {
    assert!(at + len <= memory.layout.size());
    let ptr = memory.ptr.wrapping_add(at);
    IoBlock { token, ..IoBlock::new(direction, file.as_raw_fd(), ptr, len, offset) }
}

/// Blocks that read `count` pieces of `len` bytes from the start of the file to the same place of `memory`.
fn reads(file: &File, memory: &Memory, count: usize, len: usize) -> Vec<IoBlock> {
    (0..count).map(|i| block(i as u64, Direction::Read, file, memory, i * len, len, (i * len) as u64)).collect()
}

/// Submits all of `blocks`, whose memory and files outlive the test's queue.
fn submit(queue: &mut dyn IoQueue, blocks: &[IoBlock]) {
    // SAFETY: every test drops or drains its queue before the memory and files of the blocks.
    let accepted = unsafe { queue.submit(blocks) }.unwrap();
    assert_eq!(accepted, blocks.len());
}

/// Reaps everything in flight, by token.
fn reap_all(queue: &mut dyn IoQueue) -> Vec<(u64, Result<usize, i32>)> {
    let mut done = Vec::new();
    while queue.in_flight() > 0 {
        queue.reap(queue.in_flight(), Some(NEVER), &mut done).unwrap();
    }
    let mut done: Vec<_> = done.into_iter().map(outcome).collect();
    done.sort_unstable();
    done
}

fn outcome(completion: Completion) -> (u64, Result<usize, i32>) {
    (completion.token, completion.result.map_err(|error: io::Error| error.raw_os_error().unwrap()))
}
