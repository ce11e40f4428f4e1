//! A backend that does what a test's script says, one block at a time, on the worker's own thread.
#![allow(unreachable_pub, dead_code, reason = "each test file uses its part")]

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use aio_core::backend::{Capabilities, Completion, IoBackend, IoBlock, IoQueue, QueueConfig, Unavailable, Wake};
use aio_core::op::Direction;

/// What happens in a queue.
pub trait Script: Send + Sync + Debug {
    /// A reap, with these blocks in flight, at least one: takes a block out and says how it ended, or breaks the
    /// queue.
    fn reap(&self, in_flight: &mut VecDeque<IoBlock>) -> io::Result<Completion>;

    /// Whether the kernel may keep what is in flight when the queue ends.
    fn loses(&self) -> bool {
        false
    }
}

/// Transfers a block, through whatever its descriptor is.
///
/// # Safety
///
/// As for [`IoQueue::submit`].
pub unsafe fn transfer(block: &IoBlock) -> Completion {
    let offset = i64::try_from(block.offset).expect("the engine checks");
    // SAFETY: the caller vouches for memory and descriptor.
    let moved = unsafe {
        match block.direction {
            Direction::Read => libc::pread(block.fd, block.ptr.cast(), block.len, offset),
            Direction::Write => libc::pwrite(block.fd, block.ptr.cast(), block.len, offset),
        }
    };
    Completion { token: block.token, result: usize::try_from(moved).map_err(|_| io::Error::last_os_error()) }
}

/// A backend of scripted queues.
#[derive(Debug)]
pub struct Scripted<S>(pub Arc<S>);

impl<S: Script + 'static> IoBackend for Scripted<S> {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn probe(&self) -> Result<Capabilities, Unavailable> {
        Ok(Capabilities::default())
    }

    fn open_queue(&self, config: &QueueConfig) -> Result<Box<dyn IoQueue>, Unavailable> {
        let (script, capacity) = (self.0.clone(), config.depth);
        Ok(Box::new(ScriptedQueue { script, capacity, in_flight: VecDeque::new(), woken: Arc::default() }))
    }
}

struct ScriptedQueue<S> {
    script: Arc<S>,
    capacity: usize,
    in_flight: VecDeque<IoBlock>,
    woken: Arc<Woken>,
}

#[derive(Default)]
struct Woken {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Woken {
    fn wake(&self) {
        *self.woken.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }
}

impl<S: Script> IoQueue for ScriptedQueue<S> {
    fn capacity(&self) -> usize {
        self.capacity
    }

    fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    unsafe fn submit(&mut self, blocks: &[IoBlock]) -> io::Result<usize> {
        let takes = blocks.len().min(self.capacity - self.in_flight.len());
        self.in_flight.extend(&blocks[..takes]);
        Ok(takes)
    }

    fn reap(&mut self, min: usize, timeout: Option<Duration>, done: &mut Vec<Completion>) -> io::Result<()> {
        let mut woken = self.woken.woken.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.in_flight.is_empty() && min > 0 && timeout != Some(Duration::ZERO) {
            *woken = false;
            drop(woken);
            done.push(self.script.reap(&mut self.in_flight)?);
            return Ok(());
        }
        if self.in_flight.is_empty() {
            let limit = timeout.unwrap_or(Duration::MAX);
            woken = self
                .woken
                .changed
                .wait_timeout_while(woken, limit, |woken| !*woken)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        *woken = false;
        Ok(())
    }

    fn drain(&mut self) -> usize {
        if self.script.loses() {
            return self.in_flight.len();
        }
        self.in_flight.clear();
        0
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.woken.clone()
    }
}
