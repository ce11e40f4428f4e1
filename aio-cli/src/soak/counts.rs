//! What has happened in one lane.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// How many sentences are kept.
const KEPT: usize = 10;

/// Counts that the live line reads while the lane writes.
#[derive(Debug, Default)]
pub(crate) struct Counts(Mutex<(Seen, Vec<String>)>);

/// The counts at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Seen {
    pub(crate) ops: u64,
    pub(crate) bytes_written: u64,
    pub(crate) bytes_verified: u64,
    pub(crate) cancelled: u64,
    pub(crate) failed_as_planned: u64,
    pub(crate) faults: u64,
    pub(crate) handles: u64,
    pub(crate) mismatches: u64,
    pub(crate) errors: u64,
}

impl Counts {
    /// Updates the counts.
    pub(crate) fn count(&self, count: impl FnOnce(&mut Seen)) {
        count(&mut self.lock().0);
    }

    /// Notes wrong bytes.
    pub(crate) fn mismatch(&self, sentence: String) {
        self.count(|seen| seen.mismatches += 1);
        self.keep(sentence);
    }

    /// Notes an op that ended in a way it must not.
    pub(crate) fn error(&self, sentence: String) {
        self.count(|seen| seen.errors += 1);
        self.keep(sentence);
    }

    fn keep(&self, sentence: String) {
        let sentences = &mut self.lock().1;
        if sentences.len() < KEPT {
            sentences.push(sentence);
        }
    }

    /// The first errors.
    pub(crate) fn sentences(&self) -> Vec<String> {
        self.lock().1.clone()
    }

    pub(crate) fn seen(&self) -> Seen {
        self.lock().0
    }

    fn lock(&self) -> MutexGuard<'_, (Seen, Vec<String>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::iter::Sum for Seen {
    fn sum<I: Iterator<Item = Self>>(lanes: I) -> Self {
        lanes.fold(Self::default(), |sum, seen| Self {
            ops: sum.ops + seen.ops,
            bytes_written: sum.bytes_written + seen.bytes_written,
            bytes_verified: sum.bytes_verified + seen.bytes_verified,
            cancelled: sum.cancelled + seen.cancelled,
            failed_as_planned: sum.failed_as_planned + seen.failed_as_planned,
            faults: sum.faults + seen.faults,
            handles: sum.handles + seen.handles,
            mismatches: sum.mismatches + seen.mismatches,
            errors: sum.errors + seen.errors,
        })
    }
}
