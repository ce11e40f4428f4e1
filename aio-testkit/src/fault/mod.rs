//! A backend that misbehaves on purpose, around a real one.
//!
//! [`FaultBackend`] wraps any backend. What its queues do to blocks and calls is up to [`Rules`]: a test writes its own,
//! or takes a [`Plan`], which injects faults of many kinds by chance from a seed. Its [`Gate`] keeps blocks back for as
//! long as a test likes, so that "in flight" is a state to be in and not a race.
//!
//! Whatever the rules do, the real queue sees only calls that keep its contract, and the engine sees what a broken
//! kernel, device or driver could show it.
#![allow(unsafe_code)]

mod gate;
mod plan;
mod queue;
mod rules;

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aio_core::backend::{Capabilities, IoBackend, IoBlock, IoQueue, QueueConfig, Unavailable, Wake};

pub use self::gate::Gate;
pub use self::plan::{Faults, Injected, Plan};
pub use self::rules::{Delay, Fate, Plain, Rules};

use self::queue::{FaultQueue, Woken};

/// A backend whose queues obey [`Rules`] and a [`Gate`].
#[derive(Debug)]
pub struct FaultBackend<R> {
    inner: Arc<dyn IoBackend>,
    rules: Arc<R>,
    gate: Arc<Gate>,
    queues: AtomicUsize,
}

impl<R: Rules> FaultBackend<R> {
    /// Around `inner`, whose name it keeps.
    pub fn new(inner: Arc<dyn IoBackend>, rules: Arc<R>) -> Self {
        Self { inner, rules, gate: Arc::default(), queues: AtomicUsize::new(0) }
    }

    /// The gate of all its queues.
    pub fn gate(&self) -> Arc<Gate> {
        self.gate.clone()
    }
}

impl<R: Rules + 'static> IoBackend for FaultBackend<R> {
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
        self.gate.add(&waker);
        Ok(Box::new(FaultQueue::new(id, inner, self.rules.clone(), self.gate.clone(), waker)))
    }

    unsafe fn transfer(&self, block: &IoBlock) -> io::Result<usize> {
        match self.rules.transfer(block) {
            // SAFETY: the caller makes the same promise.
            Fate::Transfer => unsafe { self.inner.transfer(block) },
            // SAFETY: the caller vouches for the memory.
            Fate::Cut(len) => unsafe { queue::through_cache(block, len) },
            Fate::End(result) => result,
        }
    }

    unsafe fn read_at_once(&self, block: &IoBlock) -> io::Result<usize> {
        match self.rules.at_once(block) {
            // SAFETY: the caller makes the same promise.
            Fate::Transfer => unsafe { self.inner.read_at_once(block) },
            // SAFETY: the caller vouches for the memory.
            Fate::Cut(len) => unsafe { queue::through_cache(block, len) },
            Fate::End(result) => result,
        }
    }
}

/// Locks, poisoned or not: every critical section here leaves the state whole.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
