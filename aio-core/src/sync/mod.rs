//! The one door through which the engine gets its locks, atomics and threads.
//!
//! Op queue, tickets and parking import from here and never from `std` directly, so that the versions of a model checker
//! can stand in for these without touching the code under test: built with `--cfg loom`, they come from loom, and the
//! models in `engine/models/` run. [`Arc`](std::sync::Arc) and [`OnceLock`](std::sync::OnceLock) stay `std`'s: loom has
//! no `Arc<dyn Trait>`, and nothing here rests on the order in which references are dropped.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

#[cfg(not(loom))]
mod primitives {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, mpsc};
    pub(crate) use std::{thread, thread_local};
}

#[cfg(loom)]
#[path = "modeled.rs"]
mod primitives;

pub(crate) use primitives::*;

/// For `static` items, which live longer than one execution of a model.
pub(crate) mod process {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize};
    pub(crate) use std::sync::{Mutex, MutexGuard};
}

/// Locks, poisoned or not: no user code runs under the engine's locks, and every critical section leaves the state
/// whole.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A mutex and a condition variable: the meeting point of threads that wait for a change and threads that make one.
#[derive(Debug, Default)]
pub(crate) struct ThreadSync<T> {
    state: Mutex<T>,
    changed: Condvar,
    /// Changes under the lock only; a notification without a waiting thread is a system call saved.
    waiting: AtomicUsize,
}

impl<T> ThreadSync<T> {
    /// A meeting point around `state`.
    pub(crate) fn new(state: T) -> Self {
        Self { state: Mutex::new(state), changed: Condvar::new(), waiting: AtomicUsize::new(0) }
    }

    /// Locks the state.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        lock(&self.state)
    }

    /// Waits until `ready` says so or `deadline` has passed; the second value is what `ready` said last.
    pub(crate) fn wait_until<'a>(
        &self,
        mut state: MutexGuard<'a, T>,
        deadline: Option<Instant>,
        mut ready: impl FnMut(&mut T) -> bool,
    ) -> (MutexGuard<'a, T>, bool) {
        loop {
            if ready(&mut state) {
                return (state, true);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return (state, false);
            }
            self.waiting.fetch_add(1, Ordering::Relaxed);
            state = match left {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) => self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Waits for `other`, with the lock, for at most so long.
    pub(crate) fn wait_for<'a>(
        &'a self,
        other: &Condvar,
        state: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> MutexGuard<'a, T> {
        // Time means nothing to a model, so there it is always over at once.
        if cfg!(loom) {
            drop(state);
            thread::yield_now();
            return self.lock();
        }
        other.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Wakes all that wait. The change they wait for was made under the lock before.
    pub(crate) fn notify_all(&self) {
        if self.is_waited_for() {
            self.changed.notify_all();
        }
    }

    /// Wakes one that waits. The change it waits for was made under the lock before.
    pub(crate) fn notify_one(&self) {
        if self.is_waited_for() {
            self.changed.notify_one();
        }
    }

    /// Who began to wait before the change has counted itself under the lock that the change was made under; who comes
    /// later sees the change.
    fn is_waited_for(&self) -> bool {
        self.waiters() > 0
    }

    /// How many wait.
    pub(crate) fn waiters(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}
