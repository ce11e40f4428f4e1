//! What happened so far in one lane.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// Sentences that are kept of each kind.
const KEPT: usize = 10;

/// Counts that the live line reads while the lane writes.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    ops: AtomicU64,
    bytes_written: AtomicU64,
    bytes_verified: AtomicU64,
    cancelled: AtomicU64,
    failed_as_planned: AtomicU64,
    faults: AtomicU64,
    handles: AtomicU64,
    mismatches: AtomicU64,
    errors: AtomicU64,
    sentences: Mutex<Vec<String>>,
}

/// The counts at one time.
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
    pub(crate) fn wrote(&self, bytes: usize) {
        self.bytes_written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn verified(&self, bytes: usize) {
        self.bytes_verified.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn op(&self) {
        self.ops.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn handle(&self) {
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn cancelled(&self) {
        self.cancelled.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failed_as_planned(&self) {
        self.failed_as_planned.fetch_add(1, Ordering::Relaxed);
    }

    /// How many faults were injected until now.
    pub(crate) fn faults(&self, injected: u64) {
        self.faults.store(injected, Ordering::Relaxed);
    }

    /// Bytes are not what they should be.
    pub(crate) fn mismatch(&self, sentence: String) {
        self.mismatches.fetch_add(1, Ordering::Relaxed);
        self.keep(sentence);
    }

    /// Something ended as it must not.
    pub(crate) fn error(&self, sentence: String) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        self.keep(sentence);
    }

    fn keep(&self, sentence: String) {
        let mut sentences = self.sentences.lock().unwrap_or_else(PoisonError::into_inner);
        if sentences.len() < KEPT {
            sentences.push(sentence);
        }
    }

    /// The first of what was not as it must be.
    pub(crate) fn sentences(&self) -> Vec<String> {
        self.sentences.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn seen(&self) -> Seen {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Seen {
            ops: of(&self.ops),
            bytes_written: of(&self.bytes_written),
            bytes_verified: of(&self.bytes_verified),
            cancelled: of(&self.cancelled),
            failed_as_planned: of(&self.failed_as_planned),
            faults: of(&self.faults),
            handles: of(&self.handles),
            mismatches: of(&self.mismatches),
            errors: of(&self.errors),
        }
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
