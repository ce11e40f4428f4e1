//! The one door through which the engine gets its locks, atomics and threads.
//!
//! Op queue, tickets and parking import from here and never from `std` directly, so that a model checker's versions
//! can stand in for these without touching the code under test.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};

/// A mutex and a condition variable: the meeting point of threads that wait for a change and threads that make one.
///
/// Poisoning is ignored: no user code runs under these locks, and every critical section leaves the state whole.
#[derive(Debug, Default)]
pub struct ThreadSync<T> {
    state: Mutex<T>,
    changed: Condvar,
}

impl<T> ThreadSync<T> {
    /// A meeting point around `state`.
    pub fn new(state: T) -> Self {
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Locks the state.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready` says so or `deadline` has passed; the second value is what `ready` said last.
    pub fn wait_until<'a>(
        &self,
        mut state: MutexGuard<'a, T>,
        deadline: Option<Instant>,
        mut ready: impl FnMut(&mut T) -> bool,
    ) -> (MutexGuard<'a, T>, bool) {
        loop {
            if ready(&mut state) {
                return (state, true);
            }
            state = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return (state, false),
                Some(left) => self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    /// Wakes all that wait.
    pub fn notify_all(&self) {
        self.changed.notify_all();
    }

    /// Wakes one that waits.
    pub fn notify_one(&self) {
        self.changed.notify_one();
    }
}
