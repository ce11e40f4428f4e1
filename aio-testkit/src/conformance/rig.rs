//! What the checks stand on: memory and files of known content, and a queue whose every answer is held against the
//! contract.

use std::alloc::{self, Layout};
use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::{Context, loud};
use aio_core::backend::{Completion, IoBackend, IoBlock, IoQueue, QueueConfig, RegionMemory};
use aio_core::op::Direction;

/// What blocks are multiples of, so that every file system with direct I/O takes them.
pub(super) const PAGE: usize = 4096;

/// A queue with the memory that its blocks use, and the rules that every check relies on.
pub(super) struct Rig {
    // Before the memory, so that it is dropped first also while a failed check unwinds.
    pub(super) queue: Box<dyn IoQueue>,
    pub(super) memory: Arc<Memory>,
    config: QueueConfig,
    tokens: HashSet<u64>,
}

impl Rig {
    /// A queue of this depth and `bytes` of memory.
    pub(super) fn new(backend: &dyn IoBackend, depth: usize, bytes: usize) -> Self {
        Self::with(backend, &QueueConfig::new(depth), bytes)
    }

    pub(super) fn with(backend: &dyn IoBackend, config: &QueueConfig, bytes: usize) -> Self {
        let queue = backend.open_queue(config).expect("a queue of a backend that was probed");
        let capacity = queue.capacity();
        let most = config.depth.clamp(1, 32768);
        assert!((1..=most).contains(&capacity), "capacity {capacity} of a queue of depth {}", config.depth);
        assert_eq!(queue.in_flight(), 0, "in flight in a new queue");
        Self { queue, memory: Arc::new(Memory::new(bytes)), config: config.clone(), tokens: HashSet::new() }
    }

    /// A block of `len` bytes whose memory starts at byte `at` of the rig's memory.
    pub(super) fn block(
        &self,
        direction: Direction,
        file: &impl AsRawFd,
        token: u64,
        at: usize,
        len: usize,
        offset: u64,
    ) -> IoBlock {
        let ptr = self.memory.at(at, len);
        IoBlock { token, ..IoBlock::new(direction, file.as_raw_fd(), ptr, len, offset) }
    }

    /// Takes the queue out, with whatever is in flight in it, and opens another one like it. The caller drops the old
    /// one before the rig.
    pub(super) fn replace_queue(&mut self, backend: &dyn IoBackend) -> Box<dyn IoQueue> {
        let fresh = backend.open_queue(&self.config).expect("a queue of a backend that was probed");
        self.tokens.clear();
        std::mem::replace(&mut self.queue, fresh)
    }

    /// `IoQueue::submit`, where "not now" is 0.
    pub(super) fn submit(&mut self, blocks: &[IoBlock]) -> usize {
        let before = self.queue.in_flight();
        // SAFETY: blocks come from `block`, so their memory belongs to this rig, which drops its queue first, or they
        // point to a page that is never accessible. No check touches memory in flight; files outlive the rig.
        let accepted = match unsafe { self.queue.submit(blocks) } {
            Ok(accepted) => accepted,
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => {
                assert!(before > 0, "\"not now\" with nothing in flight: {error}");
                0
            }
            Err(error) => panic!("submit of {} blocks: {error}", blocks.len()),
        };
        assert!(accepted <= blocks.len(), "submit accepted {accepted} of {} blocks", blocks.len());
        assert_eq!(
            self.queue.in_flight(),
            before + accepted,
            "in flight after {accepted} accepted on top of {before}"
        );
        assert!(self.queue.in_flight() <= self.queue.capacity(), "more in flight than the capacity");
        for block in &blocks[..accepted] {
            assert!(self.tokens.insert(block.token), "the check used token {} twice", block.token);
        }
        accepted
    }

    /// `IoQueue::reap`, into an empty vector.
    pub(super) fn reap(&mut self, min: usize, timeout: Option<Duration>) -> Vec<Completion> {
        let before = self.queue.in_flight();
        let mut done = Vec::new();
        self.queue.reap(min, timeout, &mut done).expect("reap");
        for completion in &done {
            assert!(self.tokens.remove(&completion.token), "completed but not in flight: {completion:?}");
        }
        assert_eq!(
            self.queue.in_flight(),
            before - done.len(),
            "in flight after {} of {before} came back",
            done.len()
        );
        done
    }

    /// Reaps until nothing is in flight.
    pub(super) fn finish(&mut self) -> Results {
        let mut results = Results::default();
        while self.queue.in_flight() > 0 {
            results.extend(self.reap(1, None));
        }
        assert!(self.tokens.is_empty(), "accepted but never completed: {:?}", self.tokens);
        results
    }

    /// Submits everything, keeping the queue as full as it lets itself be, and reaps everything.
    pub(super) fn run(&mut self, blocks: &[IoBlock]) -> Results {
        let mut results = Results::default();
        let mut rest = blocks;
        while !rest.is_empty() {
            let accepted = self.submit(rest);
            rest = &rest[accepted..];
            assert!(self.queue.in_flight() > 0, "submit accepts nothing with nothing in flight");
            results.extend(self.reap(1, None));
        }
        for (token, result) in self.finish().0 {
            results.add(token, result);
        }
        assert_eq!(results.0.len(), blocks.len(), "completions of {} blocks", blocks.len());
        results
    }

    /// [`run`](Self::run) of blocks that must all move in full.
    pub(super) fn run_all(&mut self, blocks: &[IoBlock]) {
        let mut results = self.run(blocks);
        for block in blocks {
            results.expect_moved(block.token, block.len);
        }
    }
}

/// How each token ended.
#[derive(Debug, Default)]
pub(super) struct Results(HashMap<u64, io::Result<usize>>);

impl Results {
    pub(super) fn extend(&mut self, completions: Vec<Completion>) {
        for completion in completions {
            self.add(completion.token, completion.result);
        }
    }

    fn add(&mut self, token: u64, result: io::Result<usize>) {
        assert!(self.0.insert(token, result).is_none(), "token {token} completed twice");
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn take(&mut self, token: u64) -> io::Result<usize> {
        self.0.remove(&token).unwrap_or_else(|| panic!("token {token} did not complete"))
    }

    pub(super) fn expect_moved(&mut self, token: u64, bytes: usize) {
        match self.take(token) {
            Ok(moved) => assert_eq!(moved, bytes, "bytes moved by token {token}"),
            Err(error) => panic!("token {token}: {error}, expected {bytes} bytes"),
        }
    }

    /// [`expect_moved`](Self::expect_moved) for every token.
    pub(super) fn expect_all_moved(&self, bytes: usize) {
        for (token, result) in &self.0 {
            assert!(
                matches!(result, Ok(moved) if *moved == bytes),
                "token {token}: {result:?}, expected {bytes} bytes"
            );
        }
    }
}

/// Page-aligned memory that is only ever looked at through copies.
#[derive(Debug)]
pub(super) struct Memory {
    ptr: NonNull<u8>,
    layout: Layout,
}

// SAFETY: plain memory behind a pointer; who touches which part when is up to the check, as the methods say.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    pub(super) fn new(len: usize) -> Self {
        let layout = Layout::from_size_align(len.max(1), PAGE).expect("a sane size");
        // SAFETY: the size is not zero.
        let ptr = unsafe { alloc::alloc_zeroed(layout) };
        Self { ptr: NonNull::new(ptr).expect("memory"), layout }
    }

    /// The address of byte `at`, with `len` bytes behind it.
    pub(super) fn at(&self, at: usize, len: usize) -> *mut u8 {
        assert!(at.checked_add(len).is_some_and(|end| end <= self.layout.size()), "the check left its memory");
        self.ptr.as_ptr().wrapping_add(at)
    }

    /// Copies in; the checks do so only where nothing is in flight.
    pub(super) fn put(&self, at: usize, bytes: &[u8]) {
        let to = self.at(at, bytes.len());
        // SAFETY: `at` checked the range; `bytes` is a reference to other memory.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
    }

    /// Copies out; the checks do so only where nothing is being read into.
    pub(super) fn get(&self, at: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let from = self.at(at, len);
        // SAFETY: `at` checked the range; the vector is other memory.
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(from, len) }
        bytes
    }
}

// SAFETY: allocated readable and writable in `new` and freed in `drop`; pointer and length never change.
unsafe impl RegionMemory for Memory {
    fn ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    fn len(&self) -> usize {
        self.layout.size()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // A failed check may mean that the kernel still writes here.
        if !thread::panicking() {
            // SAFETY: allocated with this layout, and the last owner is gone.
            unsafe { alloc::dealloc(self.ptr.as_ptr(), self.layout) }
        }
    }
}

/// The bytes that belong at `offset` of the file (or memory) number `seed`. No 64 bytes are like any others.
pub(super) fn pattern(seed: u64, offset: u64, len: usize) -> Vec<u8> {
    const LINE: u64 = 64;
    let mut bytes = Vec::with_capacity(len + 2 * LINE as usize);
    for line in offset / LINE..=(offset + len as u64) / LINE {
        let mut content = [0; LINE as usize];
        let number = line.wrapping_add(seed << 40).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        content[..8].copy_from_slice(&number.to_le_bytes());
        // The rest tells where in the line it belongs.
        content[8..].copy_from_slice(&SCALE);
        bytes.extend_from_slice(&content);
    }
    bytes.drain(..(offset % LINE) as usize);
    bytes.truncate(len);
    bytes
}

/// 56 different bytes.
const SCALE: [u8; 56] = *b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRST";

/// Panics with the first place where `bytes` is not the pattern.
#[track_caller]
pub(super) fn expect_pattern(what: &str, bytes: &[u8], seed: u64, offset: u64) {
    let expected = pattern(seed, offset, bytes.len());
    if bytes != expected {
        let at = bytes.iter().zip(&expected).position(|(byte, expected)| byte != expected);
        panic!("{what}: wrong from byte {at:?} of {} on", bytes.len());
    }
}

/// The two ways a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Buffered,
    Direct,
}

impl Context<'_> {
    /// Creates a file of `len` bytes of [`pattern`] `seed`, on disk already.
    pub(super) fn filled(&self, name: &str, seed: u64, len: usize) -> PathBuf {
        let path = self.folder.join(name);
        std::fs::write(&path, pattern(seed, 0, len)).expect("a file");
        // Not `fsync` for durability: a direct transfer over dirty pages would first have to flush them.
        File::open(&path).and_then(|file| file.sync_all()).expect("sync");
        path
    }

    /// The modes in which this folder's file system opens files.
    pub(super) fn modes(&self) -> Vec<Mode> {
        match open(&self.filled("probe", 0, PAGE), Mode::Direct) {
            Ok(_) => vec![Mode::Buffered, Mode::Direct],
            Err(error) => {
                let folder = self.folder.display();
                loud(format_args!("SKIPPED {} with direct I/O: {folder}: {error}", self.backend.name()));
                vec![Mode::Buffered]
            }
        }
    }

    /// Direct where there is direct I/O: transfers that really are in flight after they were submitted.
    pub(super) fn slowest_mode(&self) -> Mode {
        self.modes().pop().unwrap_or(Mode::Buffered)
    }
}

/// Opens for reading and writing, and creates.
pub(super) fn open(path: &Path, mode: Mode) -> io::Result<File> {
    let flags = if mode == Mode::Direct { libc::O_DIRECT } else { 0 };
    OpenOptions::new().read(true).write(true).create(true).truncate(false).custom_flags(flags).open(path)
}

/// A small generator of numbers that only have to be different (xorshift).
pub(super) struct Shuffle(pub(super) u64);

impl Shuffle {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}
