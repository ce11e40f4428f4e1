//! A descriptor of memory that only its callbacks know; they count, and may panic.
#![allow(unreachable_pub, dead_code, reason = "each test file uses its part")]

use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aio::op::{Direction, Extent, IoOpDesc, Outcome, Target};

/// Which callback panics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Panics {
    Never,
    Gather,
    Scatter,
    Fini,
}

/// What is known of a staged op from outside.
#[derive(Debug, Default)]
pub struct Seen {
    /// The memory of each extent.
    pub memory: Mutex<Vec<Vec<u8>>>,
    pub finished: AtomicUsize,
    pub finished_well: AtomicUsize,
    pub dropped: AtomicUsize,
}

pub struct Staged {
    direction: Direction,
    target: Target,
    extents: Vec<Extent>,
    panics: Panics,
    validate: bool,
    seen: Arc<Seen>,
}

impl Staged {
    pub fn new(
        direction: Direction,
        target: Target,
        memory: Vec<(Range<usize>, Vec<u8>)>,
        panics: Panics,
        validate: bool,
    ) -> (Self, Arc<Seen>) {
        let extent = |range: &Range<usize>| Extent { offset: range.start as u64, len: range.len(), memory: None };
        let extents = memory.iter().map(|(range, _)| extent(range)).collect();
        let memory = Mutex::new(memory.into_iter().map(|(_, bytes)| bytes).collect());
        let seen = Arc::new(Seen { memory, ..Seen::default() });
        (Self { direction, target, extents, panics, validate, seen: seen.clone() }, seen)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.seen.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

// SAFETY: the getters return fields that nothing changes, and the extents name no memory.
unsafe impl IoOpDesc for Staged {
    fn direction(&self) -> Direction {
        self.direction
    }

    fn target(&self) -> &Target {
        &self.target
    }

    fn extents(&self) -> &[Extent] {
        &self.extents
    }

    fn gather(&self, extent: usize, at: usize, into: &mut [MaybeUninit<u8>]) {
        assert_ne!(self.panics, Panics::Gather, "on purpose");
        let memory = self.seen.memory.lock().unwrap();
        let len = into.len();
        for (byte, from) in into.iter_mut().zip(&memory[extent][at..at + len]) {
            byte.write(*from);
        }
    }

    fn scatter(&self, extent: usize, at: usize, from: &[u8]) {
        assert_ne!(self.panics, Panics::Scatter, "on purpose");
        self.seen.memory.lock().unwrap()[extent][at..at + from.len()].copy_from_slice(from);
    }

    fn validate(&self) -> bool {
        self.validate
    }

    fn fini(&self, outcome: &Outcome) {
        self.seen.finished.fetch_add(1, Ordering::SeqCst);
        self.seen.finished_well.fetch_add(usize::from(outcome.is_ok()), Ordering::SeqCst);
        assert_ne!(self.panics, Panics::Fini, "on purpose");
    }
}
