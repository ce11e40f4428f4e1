//! A pool of threads as an [`IoQueue`].
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::process;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aio_core::{Completion, IoBlock, IoQueue, QueueConfig, Wake};

use crate::pool::Pool;

/// Most blocks in flight at once.
const MAX_DEPTH: usize = 32768;

/// Counts blocks in and out; everything else happens in the [`Pool`].
///
/// Descriptors and addresses are used as the blocks give them: there is no registered memory and no file table.
pub(crate) struct PoolQueue {
    pool: Arc<Pool>,
    capacity: usize,
    in_flight: usize,
    /// The process that the threads belong to.
    owner: u32,
}

impl PoolQueue {
    pub(crate) fn new(config: &QueueConfig, pool: Arc<Pool>) -> Self {
        Self { pool, capacity: config.depth.clamp(1, MAX_DEPTH), in_flight: 0, owner: process::id() }
    }

    pub(crate) fn threads(&self) -> usize {
        self.pool.threads()
    }
}

impl IoQueue for PoolQueue {
    fn capacity(&self) -> usize {
        self.capacity
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    unsafe fn submit(&mut self, blocks: &[IoBlock]) -> io::Result<usize> {
        let accepted = blocks.len().min(self.capacity - self.in_flight);
        if accepted > 0 {
            // SAFETY: the caller vouches for the memory until the completions are reaped or `drain` returned 0, and
            // these are the two ways in which this queue gets rid of a block.
            unsafe { self.pool.push(&blocks[..accepted]) };
            self.in_flight += accepted;
        }
        Ok(accepted)
    }

    fn reap(&mut self, min: usize, timeout: Option<Duration>, done: &mut Vec<Completion>) -> io::Result<()> {
        // With nothing in flight only the waker or the timeout can end the wait.
        let min = if self.in_flight == 0 { usize::MAX } else { min.min(self.in_flight) };
        // A timeout that ends beyond what a clock can show is none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let before = done.len();
        self.pool.wait(min, deadline, true, done);
        self.in_flight -= done.len() - before;
        Ok(())
    }

    /// Blocks that no thread has taken yet are dropped, not transferred: nobody would learn of it.
    fn drain(&mut self) -> usize {
        self.in_flight -= self.pool.discard();
        let mut done = Vec::new();
        self.pool.wait(self.in_flight, None, false, &mut done);
        self.in_flight = 0;
        0
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.pool.clone()
    }
}

impl Drop for PoolQueue {
    fn drop(&mut self) {
        if self.owner != process::id() {
            // A fork copies neither threads nor whoever held the lock: there is nobody to wait for, and nothing that
            // could be touched.
            mem::forget(Arc::clone(&self.pool));
            return;
        }
        self.drain();
        self.pool.close();
    }
}
