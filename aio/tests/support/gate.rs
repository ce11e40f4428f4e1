//! A backend around a real one: a gate that keeps blocks back, so that "in flight" lasts for as long as a test likes,
//! and rules by which a test makes queues misbehave.

use std::collections::HashSet;
use std::fmt::Debug;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aio_core::{
    Capabilities, Completion, Direction, FileId, IoBackend, IoBlock, IoQueue, QueueConfig, Region, Unavailable, Wake,
};

/// What becomes of a block.
#[derive(Debug)]
pub enum Fate {
    /// The real queue gets it.
    Transfer,
    /// Only this many bytes are transferred, through the page cache, and that is what its completion says.
    Cut(usize),
    /// Nothing is transferred, and its completion says this.
    End(io::Result<usize>),
}

/// What a test changes about queues, which are numbered in the order in which they were opened. The defaults change
/// nothing.
pub trait Rules: Send + Sync + Debug {
    /// How many of the blocks on offer the queue takes.
    fn submit(&self, queue: usize, offered: usize) -> io::Result<usize> {
        let _ = queue;
        Ok(offered)
    }

    /// For each block that the queue takes.
    fn block(&self, queue: usize, block: &IoBlock) -> Fate {
        let _ = (queue, block);
        Fate::Transfer
    }

    /// Before and after each reap: whether the queue is broken.
    fn reap(&self, queue: usize) -> io::Result<()> {
        let _ = queue;
        Ok(())
    }

    /// After each reap, with the completions it is about to report.
    fn reaped(&self, queue: usize, done: &mut Vec<Completion>) {
        let _ = (queue, done);
    }

    /// Each time a queue is woken.
    fn woken(&self, queue: usize) {
        let _ = queue;
    }

    /// A file got a slot in a queue, or gave it back.
    fn registered(&self, queue: usize, file: FileId, there: bool) {
        let _ = (queue, file, there);
    }
}

/// Changes nothing.
#[derive(Debug, Default)]
pub struct Plain;

impl Rules for Plain {}

/// What a test sees and steers of all queues of one backend.
#[derive(Default)]
pub struct Gate {
    closed: AtomicBool,
    kept: AtomicUsize,
    wakers: Mutex<Vec<Arc<dyn Wake>>>,
    offences: Mutex<Vec<String>>,
}

impl Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("closed", &self.closed).field("kept", &self.kept).finish_non_exhaustive()
    }
}

impl Gate {
    /// From now on queues accept blocks, and do nothing with them.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Lets all blocks through.
    pub fn open(&self) {
        self.closed.store(false, Ordering::SeqCst);
        self.wakers.lock().unwrap().iter().for_each(|waker| waker.wake());
    }

    /// Wakes one queue.
    pub fn wake(&self, queue: usize) {
        let waker = self.wakers.lock().unwrap()[queue].clone();
        waker.wake();
    }

    /// How many blocks are kept back.
    pub fn kept(&self) -> usize {
        self.kept.load(Ordering::SeqCst)
    }

    /// Waits until this many blocks are kept back, so that they are in flight until the gate opens.
    pub fn wait_for(&self, blocks: usize) {
        while self.kept() < blocks {
            std::thread::yield_now();
        }
    }

    /// What the engine did to a queue that it must not do.
    pub fn offences(&self) -> Vec<String> {
        self.offences.lock().unwrap().clone()
    }
}

/// A backend whose queues obey a [`Gate`] and [`Rules`].
#[derive(Debug)]
pub struct GateBackend<R> {
    inner: Arc<dyn IoBackend>,
    rules: Arc<R>,
    gate: Arc<Gate>,
    queues: AtomicUsize,
}

impl<R: Rules> GateBackend<R> {
    pub fn new(inner: Arc<dyn IoBackend>, rules: Arc<R>) -> Self {
        Self { inner, rules, gate: Arc::default(), queues: AtomicUsize::new(0) }
    }

    pub fn gate(&self) -> Arc<Gate> {
        self.gate.clone()
    }
}

impl<R: Rules + 'static> IoBackend for GateBackend<R> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn probe(&self) -> Result<Capabilities, Unavailable> {
        self.inner.probe()
    }

    fn open_queue(&self, config: &QueueConfig) -> Result<Box<dyn IoQueue>, Unavailable> {
        let inner = self.inner.open_queue(config)?;
        let id = self.queues.fetch_add(1, Ordering::SeqCst);
        let waker: Arc<dyn Wake> = Arc::new(Woken { id, inner: inner.waker(), rules: self.rules.clone() });
        self.gate.wakers.lock().unwrap().push(waker.clone());
        let (rules, gate) = (self.rules.clone(), self.gate.clone());
        let (kept, ready, tokens) = (Vec::new(), Vec::new(), HashSet::new());
        Ok(Box::new(GateQueue { id, inner, rules, gate, waker, kept, ready, tokens }))
    }

    unsafe fn transfer(&self, block: &IoBlock) -> io::Result<usize> {
        // SAFETY: the caller makes the same promise.
        unsafe { self.inner.transfer(block) }
    }
}

struct Woken<R> {
    id: usize,
    inner: Arc<dyn Wake>,
    rules: Arc<R>,
}

impl<R: Rules> Wake for Woken<R> {
    fn wake(&self) {
        self.rules.woken(self.id);
        self.inner.wake();
    }
}

struct GateQueue<R> {
    id: usize,
    inner: Box<dyn IoQueue>,
    rules: Arc<R>,
    gate: Arc<Gate>,
    waker: Arc<dyn Wake>,
    /// Accepted, and kept from the real queue.
    kept: Vec<IoBlock>,
    /// Completed without the real queue.
    ready: Vec<Completion>,
    /// Of the blocks in flight.
    tokens: HashSet<u64>,
}

impl<R: Rules> GateQueue<R> {
    fn offence(&self, what: String) {
        self.gate.offences.lock().unwrap().push(what);
    }

    fn is_closed(&self) -> bool {
        self.gate.closed.load(Ordering::SeqCst)
    }

    /// Passes on what was kept back, as much as there is room for.
    ///
    /// # Safety
    ///
    /// As for [`IoQueue::submit`].
    unsafe fn let_through(&mut self) -> io::Result<()> {
        while !self.kept.is_empty() {
            // SAFETY: the blocks were accepted by `submit` and are in flight until they are reaped here.
            let accepted = match unsafe { self.inner.submit(&self.kept) } {
                Ok(accepted) => accepted,
                Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => 0,
                Err(error) => return Err(error),
            };
            self.kept.drain(..accepted);
            self.gate.kept.fetch_sub(accepted, Ordering::SeqCst);
            if accepted == 0 {
                break;
            }
        }
        Ok(())
    }
}

impl<R: Rules> IoQueue for GateQueue<R> {
    fn capacity(&self) -> usize {
        self.inner.capacity()
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight() + self.kept.len() + self.ready.len()
    }

    unsafe fn submit(&mut self, blocks: &[IoBlock]) -> io::Result<usize> {
        let (in_flight, capacity) = (self.in_flight(), self.capacity());
        if in_flight + blocks.len() > capacity {
            self.offence(format!("{} blocks on top of {in_flight} of {capacity}", blocks.len()));
        }
        let takes = self.rules.submit(self.id, blocks.len())?.min(blocks.len()).min(capacity - in_flight);
        for block in &blocks[..takes] {
            if !self.tokens.insert(block.token) {
                self.offence(format!("token {:#x} is in flight twice", block.token));
            }
            match self.rules.block(self.id, block) {
                Fate::End(result) => self.ready.push(Completion { token: block.token, result }),
                Fate::Cut(len) => {
                    // SAFETY: the caller vouches for the memory.
                    let result = unsafe { through_cache(block, len) };
                    self.ready.push(Completion { token: block.token, result });
                }
                Fate::Transfer => {
                    self.kept.push(*block);
                    self.gate.kept.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
        if !self.is_closed() {
            // SAFETY: the caller vouches for the memory.
            unsafe { self.let_through()? };
        }
        Ok(takes)
    }

    fn reap(&mut self, min: usize, timeout: Option<Duration>, done: &mut Vec<Completion>) -> io::Result<()> {
        self.rules.reap(self.id)?;
        let before = done.len();
        if !self.is_closed() {
            // SAFETY: accepted by `submit`, so the caller vouches for the memory until they are reaped.
            unsafe { self.let_through()? };
        }
        let have = self.ready.len();
        done.append(&mut self.ready);
        let min = min.saturating_sub(have);
        let timeout = if have > 0 && min == 0 { Some(Duration::ZERO) } else { timeout };
        // If all that is in flight is kept back, this waits for the waker, which opening the gate fires. It may return
        // with less than was asked for; then the engine looks around and comes back.
        let reaped = self.inner.reap(min, timeout, done);
        let mut fresh = done.split_off(before);
        for completion in &fresh {
            if !self.tokens.remove(&completion.token) {
                self.offence(format!("token {:#x} was not in flight", completion.token));
            }
        }
        self.rules.reaped(self.id, &mut fresh);
        done.append(&mut fresh);
        reaped.and_then(|()| self.rules.reap(self.id))
    }

    fn drain(&mut self) -> usize {
        self.gate.kept.fetch_sub(self.kept.len(), Ordering::SeqCst);
        self.kept.clear();
        self.ready.clear();
        self.inner.drain()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.waker.clone()
    }

    fn add_region(&mut self, region: &Region) -> io::Result<()> {
        self.inner.add_region(region)
    }

    fn add_file(&mut self, id: FileId, fd: BorrowedFd<'_>) -> io::Result<()> {
        let added = self.inner.add_file(id, fd);
        if added.is_ok() {
            self.rules.registered(self.id, id, true);
        }
        added
    }

    fn remove_file(&mut self, id: FileId) -> io::Result<()> {
        self.rules.registered(self.id, id, false);
        self.inner.remove_file(id)
    }
}

impl<R> Drop for GateQueue<R> {
    fn drop(&mut self) {
        if !self.kept.is_empty() {
            self.gate.offences.lock().unwrap().push(format!("dropped with {} blocks in flight", self.kept.len()));
        }
    }
}

/// Transfers the first `len` bytes of a block, whatever alignment its descriptor would ask for.
///
/// # Safety
///
/// The memory of the block is valid for the call.
unsafe fn through_cache(block: &IoBlock, len: usize) -> io::Result<usize> {
    let len = len.min(block.len);
    let file = reopen(block.fd, block.direction)?;
    match block.direction {
        Direction::Read => {
            // SAFETY: `len` is at most the block's, whose memory is valid for writes and nobody else's.
            file.read_at(unsafe { std::slice::from_raw_parts_mut(block.ptr, len) }, block.offset)
        }
        Direction::Write => {
            // SAFETY: likewise for reads.
            file.write_at(unsafe { std::slice::from_raw_parts(block.ptr, len) }, block.offset)
        }
    }
}

fn reopen(fd: RawFd, direction: Direction) -> io::Result<std::fs::File> {
    let write = direction == Direction::Write;
    OpenOptions::new().read(!write).write(write).open(format!("/proc/self/fd/{fd}"))
}
