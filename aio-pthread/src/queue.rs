//! A pool of threads as an [`IoQueue`].
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aio_core::backend::parts::ProcessGeneration;
use aio_core::backend::{Completion, IoBlock, IoQueue, QueueConfig, Wake};

use crate::pool::Pool;

/// An [`IoQueue`] on a pool of its own. Counts blocks in and out; everything else happens in the [`Pool`].
///
/// Descriptors and addresses are used as the blocks give them: there is no registered memory and no file table.
pub(crate) struct PthreadQueue {
    pool: Arc<Pool>,
    capacity: usize,
    in_flight: usize,
    /// A fork's copy has no threads, and its lock may stay locked.
    made_in: ProcessGeneration,
}

impl PthreadQueue {
    pub(crate) fn new(config: &QueueConfig, pool: Arc<Pool>) -> Self {
        Self { pool, capacity: config.clamped_depth(), in_flight: 0, made_in: ProcessGeneration::now() }
    }
}

impl IoQueue for PthreadQueue {
    fn capacity(&self) -> usize {
        self.capacity
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    unsafe fn submit(&mut self, blocks: &[IoBlock]) -> io::Result<usize> {
        self.made_in.check()?;
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
        self.made_in.check()?;
        // With nothing in flight only the waker or the timeout can end the wait.
        let min = if self.in_flight == 0 { usize::MAX } else { min.min(self.in_flight) };
        // A timeout that ends beyond what a clock can show is none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let before = done.len();
        self.pool.wait(min, deadline, true, done);
        self.in_flight -= done.len() - before;
        Ok(())
    }

    /// Blocks that no thread has taken yet are dropped, not transferred: their completions would not be reaped.
    fn drain(&mut self) -> usize {
        if self.made_in.is_forked() {
            self.in_flight = 0;
            return 0;
        }
        self.in_flight -= self.pool.discard();
        let mut done = Vec::new();
        self.pool.wait(self.in_flight, None, false, &mut done);
        self.in_flight = 0;
        0
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.pool) as Arc<dyn Wake>
    }
}

impl Drop for PthreadQueue {
    fn drop(&mut self) {
        if self.made_in.is_forked() {
            // There is no thread to wait for, and nothing that could be touched.
            mem::forget(Arc::clone(&self.pool));
            return;
        }
        self.drain();
        self.pool.close();
    }
}
