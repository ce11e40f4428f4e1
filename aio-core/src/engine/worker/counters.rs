//! What a worker counts by itself, and adds to the counters of all threads now and then.

use std::cmp::Ordering::{Equal, Greater, Less};

use crate::stats::{Counters, Stats};
use crate::sync::Ordering;

/// The counts of one worker.
#[derive(Debug, Default)]
pub(super) struct WorkerCounters {
    /// Since they were last added.
    stats: Stats,
    /// What this worker added to the shared count of blocks in flight.
    in_flight: u64,
}

impl WorkerCounters {
    pub(super) fn stats(&mut self) -> &mut Stats {
        &mut self.stats
    }

    /// Brings the shared counters up to date; `in_flight` is how many blocks the worker has in flight.
    pub(super) fn add_to(&mut self, counters: &Counters, in_flight: usize) {
        let before = std::mem::replace(&mut self.in_flight, in_flight as u64);
        match self.in_flight.cmp(&before) {
            Greater => drop(counters.in_flight.fetch_add(self.in_flight - before, Ordering::Relaxed)),
            Less => drop(counters.in_flight.fetch_sub(before - self.in_flight, Ordering::Relaxed)),
            Equal => {}
        }
        counters.add(&mut self.stats);
    }
}
