//! How far an op got.

use crate::error::Error;
use crate::sync::{AtomicU64, AtomicUsize, Mutex, Ordering, lock};

/// How far the blocks of a pass got. Written by the workers that claimed them, once per run; reset before the
/// first pass by the worker that plans it, before the second by the worker that ended the first.
#[derive(Debug)]
pub(super) struct Progress {
    /// Blocks that are not accounted for. The run that brings it to zero ends the pass.
    pending: AtomicUsize,
    /// Bytes of those that are.
    moved: AtomicU64,
    /// The failure nearest to the start of the op, with its position. Any thread that works on the op records one.
    failure: Mutex<Option<Box<(u64, Error)>>>,
}

impl Progress {
    pub(super) fn new(pending: usize) -> Self {
        Self { pending: AtomicUsize::new(pending), moved: AtomicU64::new(0), failure: Mutex::default() }
    }

    pub(super) fn restart(&self, pending: usize, moved: u64) {
        self.moved.store(moved, Ordering::Release);
        self.pending.store(pending, Ordering::Release);
    }

    pub(super) fn account(&self, blocks: usize, bytes: u64) -> bool {
        if self.pending.load(Ordering::Acquire) == blocks {
            // No other worker has any of the op's blocks.
            self.moved.store(self.moved.load(Ordering::Relaxed) + bytes, Ordering::Release);
            self.pending.store(0, Ordering::Release);
            return true;
        }
        self.moved.fetch_add(bytes, Ordering::AcqRel);
        self.pending.fetch_sub(blocks, Ordering::AcqRel) == blocks
    }

    pub(super) fn is_over(&self) -> bool {
        self.pending.load(Ordering::Acquire) == 0
    }

    pub(super) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Acquire)
    }

    pub(super) fn record_failure(&self, position: u64, error: Error) {
        let mut failure = lock(&self.failure);
        if failure.as_ref().is_none_or(|first| position < first.0) {
            *failure = Some(Box::new((position, error)));
        }
    }

    pub(super) fn take_failure(&self) -> Option<Error> {
        lock(&self.failure).take().map(|failure| failure.1)
    }
}
