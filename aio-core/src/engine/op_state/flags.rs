//! What has happened to an op.

use crate::sync::{AtomicU8, Ordering};

/// What has happened to an op, one bit each. But for [`SYNC_DUE`](Self::SYNC_DUE), a bit that is set stays set.
#[derive(Debug)]
pub(super) struct Flags(AtomicU8);

impl Flags {
    /// Set by the op's ticket, at any time.
    pub(super) const CANCELLED: u8 = 1;
    /// A failure is recorded; set by the thread that recorded it.
    pub(super) const FAILED: u8 = 1 << 1;
    /// The second pass of `validate` has begun; set by the worker that ended the first.
    pub(super) const VERIFYING: u8 = 1 << 2;
    /// The kernel may use the op's memory for ever; set by a worker whose queue broke.
    pub(super) const LOST: u8 = 1 << 3;
    /// The op is a write that syncs wait for, or have waited for; set when it is accepted, or its path opened.
    pub(super) const ACCEPTED_WRITE: u8 = 1 << 4;
    /// The op is durable; if it is a write, a sync is still to be done. Set from the start, cleared by the thread
    /// that hands the op to a sync.
    pub(super) const SYNC_DUE: u8 = 1 << 5;
    /// The op has a path to be opened. Set from the start.
    pub(super) const BY_PATH: u8 = 1 << 6;
    /// The path is opened to be written, and may be made. Set from the start.
    pub(super) const MAKES_FILE: u8 = 1 << 7;

    pub(super) fn new(bits: u8) -> Self {
        Self(AtomicU8::new(bits))
    }

    /// Whether any of these is set.
    #[inline]
    pub(super) fn has(&self, bits: u8) -> bool {
        self.0.load(Ordering::Acquire) & bits != 0
    }

    pub(super) fn set(&self, bits: u8) {
        self.0.fetch_or(bits, Ordering::AcqRel);
    }

    /// Whether one was set.
    pub(super) fn clear(&self, bits: u8) -> bool {
        self.0.fetch_and(!bits, Ordering::AcqRel) & bits != 0
    }
}
