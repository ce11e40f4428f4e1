//! A backend that moves nothing: every block completes at once, with all of its bytes.
//!
//! The time of an op on it is the engine's own. Its waker is a condition variable, as in the thread pool; reads leave
//! memory unchanged.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use aio_core::backend::{Capabilities, Completion, IoBackend, IoBlock, IoQueue, QueueConfig, Unavailable, Wake};
use aio_core::{AioConfig, AioHandle};

/// An engine on this backend, with one worker.
pub(crate) fn engine(block_size: usize) -> AioHandle {
    let mut config = AioConfig::default();
    config.block_size = block_size;
    AioHandle::with_backend(Arc::new(NullBackend), config).expect("nothing that could be refused")
}

#[derive(Debug)]
struct NullBackend;

impl IoBackend for NullBackend {
    fn name(&self) -> &'static str {
        "null"
    }

    fn probe(&self) -> Result<Capabilities, Unavailable> {
        Ok(Capabilities::default())
    }

    fn open_queue(&self, config: &QueueConfig) -> Result<Box<dyn IoQueue>, Unavailable> {
        let capacity = config.clamped_depth();
        Ok(Box::new(NullQueue { capacity, complete: Vec::with_capacity(capacity), alarm: Arc::default() }))
    }
}

struct NullQueue {
    capacity: usize,
    complete: Vec<Completion>,
    alarm: Arc<Alarm>,
}

impl IoQueue for NullQueue {
    fn capacity(&self) -> usize {
        self.capacity
    }

    fn in_flight(&self) -> usize {
        self.complete.len()
    }

    unsafe fn submit(&mut self, blocks: &[IoBlock]) -> io::Result<usize> {
        let accepted = blocks.len().min(self.capacity - self.complete.len());
        let completions =
            blocks[..accepted].iter().map(|block| Completion { token: block.token, result: Ok(block.len) });
        self.complete.extend(completions);
        Ok(accepted)
    }

    fn reap(&mut self, _min: usize, timeout: Option<Duration>, done: &mut Vec<Completion>) -> io::Result<()> {
        let mut rung = self.alarm.rung.lock().unwrap_or_else(PoisonError::into_inner);
        if self.complete.is_empty() && timeout != Some(Duration::ZERO) {
            let limit = timeout.unwrap_or(Duration::MAX);
            let waited = self.alarm.changed.wait_timeout_while(rung, limit, |rung| !*rung);
            rung = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *rung = false;
        done.append(&mut self.complete);
        Ok(())
    }

    fn drain(&mut self) -> usize {
        self.complete.clear();
        0
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.alarm.clone()
    }
}

#[derive(Default)]
struct Alarm {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Alarm {
    fn wake(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }
}
