//! Spinning: looking for a while whether something has happened before a thread sleeps until it is woken.

use std::time::{Duration, Instant};

use crate::sync::thread;

/// How often a thread steps aside for others on its only CPU before it sleeps.
const YIELDS: u32 = 2;

/// How an engine's workers, and the threads that wait for its ops, spin.
#[derive(Debug)]
pub(crate) struct Spin {
    /// For as long as waking another thread would take; zero: not at all.
    limit: Duration,
    /// The thread waited for may run on another CPU, and workers that look for something to do do not keep others from
    /// doing it.
    has_cpus: bool,
}

impl Spin {
    /// For an engine of so many workers.
    pub(crate) fn new(limit: Duration, workers: usize) -> Self {
        let has_cpus = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1 && cpus.get() >= workers);
        Self { limit, has_cpus }
    }

    /// Spins until `ready`, or `deadline`, or for long enough; true if `ready` came true.
    pub(crate) fn until(&self, deadline: Option<Instant>, ready: impl Fn() -> bool) -> bool {
        if self.limit.is_zero() {
            return ready();
        }
        if self.has_cpus { self.look_around(deadline, ready) } else { step_aside(deadline, ready) }
    }

    fn look_around(&self, deadline: Option<Instant>, ready: impl Fn() -> bool) -> bool {
        let end = Instant::now() + self.limit;
        let end = deadline.map_or(end, |deadline| deadline.min(end));
        loop {
            if ready() {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            std::hint::spin_loop();
        }
    }
}

/// With fewer CPUs than threads, what is waited for runs if this thread steps aside; then no thread has to be woken.
fn step_aside(deadline: Option<Instant>, ready: impl Fn() -> bool) -> bool {
    for _ in 0..YIELDS {
        if ready() {
            return true;
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return false;
        }
        thread::yield_now();
    }
    ready()
}
