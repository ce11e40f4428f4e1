//! A custom backend: the shortest that keeps the contract.
//!
//! A backend opens queues. A queue accepts blocks, transfers them, and reports what became of each. This one transfers a
//! block by a plain call on the worker's thread when the engine reaps, so nothing is in the kernel between two calls. It
//! is never the fastest, but shows each rule of [`IoQueue`].
//!
//! The test `example_backend.rs` runs the conformance suite on it.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aio::backend::parts::{self, ProcessGeneration};
use aio::backend::{Capabilities, Completion, IoBackend, IoBlock, IoQueue, QueueConfig, Unavailable, Wake};
use aio::{AioConfig, AioHandle};

const NAME: &str = "plain";

fn main() -> aio::Result<()> {
    let aio = AioHandle::with_backend(Arc::new(PlainBackend), AioConfig::default())?;
    let path = std::env::temp_dir().join(format!("aio-example-{}", std::process::id()));

    let tensor: Vec<u8> = (0..10_000_000_u32).map(|at| at as u8).collect();
    let tensor = aio.write_new(&path, tensor).wait()?;
    let read = aio.read_path(&path, vec![0; tensor.len()]).wait()?;
    assert!(read == tensor);
    println!("{} bytes written and read back by the backend {:?}", read.len(), aio.backend_name());

    let _ = std::fs::remove_file(path);
    Ok(())
}

/// The factory of queues. [`IoBackend::transfer`], which moves one block by `pread(2)` or `pwrite(2)`, is the default.
#[derive(Debug)]
pub(crate) struct PlainBackend;

impl IoBackend for PlainBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    /// Opens a queue: only that shows whether the backend works on this machine.
    fn probe(&self) -> Result<Capabilities, Unavailable> {
        parts::round_trip(NAME, self.open_queue(&QueueConfig::new(1))?)
    }

    fn open_queue(&self, config: &QueueConfig) -> Result<Box<dyn IoQueue>, Unavailable> {
        Ok(Box::new(PlainQueue {
            capacity: config.clamped_depth(),
            accepted: VecDeque::new(),
            waker: Arc::default(),
            made_in: ProcessGeneration::now(),
        }))
    }
}

/// One worker's queue. It refuses registered memory and files, which is the default.
struct PlainQueue {
    capacity: usize,
    /// The blocks in flight, oldest first.
    accepted: VecDeque<IoBlock>,
    waker: Arc<Waker>,
    /// In a forked child every call must fail.
    made_in: ProcessGeneration,
}

impl IoQueue for PlainQueue {
    fn capacity(&self) -> usize {
        self.capacity
    }

    fn in_flight(&self) -> usize {
        self.accepted.len()
    }

    unsafe fn submit(&mut self, blocks: &[IoBlock]) -> io::Result<usize> {
        self.made_in.check()?;
        let room = self.capacity - self.accepted.len();
        let taken = &blocks[..blocks.len().min(room)];
        self.accepted.extend(taken);
        Ok(taken.len())
    }

    fn reap(&mut self, min: usize, timeout: Option<Duration>, done: &mut Vec<Completion>) -> io::Result<()> {
        self.made_in.check()?;
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        if self.accepted.is_empty() {
            // Nothing can complete: the waker or the timeout ends the wait.
            self.waker.wait(timeout);
        }
        // At least one block, so that a caller that never waits gets its blocks, too.
        let mut missing = min.max(1);
        while let Some(block) = self.accepted.pop_front() {
            done.push(Completion { token: block.token, result: transfer(&block) });
            missing -= 1;
            let late = deadline.is_some_and(|deadline| deadline <= Instant::now());
            if missing == 0 || late || self.waker.is_woken() {
                break;
            }
        }
        // Every return consumes the wake-up.
        self.waker.reset();
        Ok(())
    }

    /// None of the blocks has reached the kernel, so forgetting them is enough; dropping the queue does the same.
    fn drain(&mut self) -> usize {
        self.accepted.clear();
        0
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.waker.clone()
    }
}

/// Moves an accepted block. A short count or an error is the block's result; the queue does not act on it.
fn transfer(block: &IoBlock) -> io::Result<usize> {
    loop {
        // SAFETY: the caller of `submit` keeps the memory valid and the descriptor open until the block is reported.
        match unsafe { PlainBackend.transfer(block) } {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Keeps a wake-up that comes while no thread waits, so none is lost.
#[derive(Default)]
struct Waker {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Waker {
    fn wait(&self, timeout: Option<Duration>) {
        let woken = self.lock();
        // Poison does not matter: a bool is always valid.
        match timeout {
            None => drop(self.changed.wait_while(woken, |woken| !*woken)),
            Some(timeout) => drop(self.changed.wait_timeout_while(woken, timeout, |woken| !*woken)),
        }
    }

    fn is_woken(&self) -> bool {
        *self.lock()
    }

    fn reset(&self) {
        *self.lock() = false;
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Waker {
    fn wake(&self) {
        *self.lock() = true;
        self.changed.notify_one();
    }
}
