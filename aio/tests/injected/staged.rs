//! A descriptor of memory that only its callbacks know, some of which panic.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aio::{Direction, Extent, IoOpDesc, Outcome, Target};

/// Which callback panics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Panics {
    Never,
    Gather,
    Scatter,
    Fini,
}

/// What is known of a staged op from outside.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The memory of each extent.
    pub(crate) memory: Mutex<Vec<Vec<u8>>>,
    pub(crate) finished: AtomicUsize,
    pub(crate) dropped: AtomicUsize,
}

pub(crate) struct Staged {
    direction: Direction,
    target: Target,
    extents: Vec<Extent>,
    panics: Panics,
    validate: bool,
    seen: Arc<Seen>,
}

impl Staged {
    pub(crate) fn new(
        direction: Direction,
        target: Target,
        memory: Vec<(Range<usize>, Vec<u8>)>,
        panics: Panics,
        validate: bool,
    ) -> (Self, Arc<Seen>) {
        let extent = |range: &Range<usize>| Extent { offset: range.start as u64, len: range.len(), memory: None };
        let extents = memory.iter().map(|(range, _)| extent(range)).collect();
        let memory = Mutex::new(memory.into_iter().map(|(_, bytes)| bytes).collect());
        let seen = Arc::new(Seen { memory, finished: AtomicUsize::new(0), dropped: AtomicUsize::new(0) });
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
        for (byte, from) in into.iter_mut().zip(&memory[extent][at..]) {
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

    fn fini(&self, _outcome: &Outcome) {
        self.seen.finished.fetch_add(1, Ordering::SeqCst);
        assert_ne!(self.panics, Panics::Fini, "on purpose");
    }
}
