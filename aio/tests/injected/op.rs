//! Ops of a sequence, and how they may end.

use std::ops::Range;

use aio::Error;
use aio::op::Direction;
use aio_testkit::fault::{Faults, Plan};

use crate::support::Kind;
use crate::support::pattern;
use crate::support::staged::Panics;

pub(crate) const FILES: usize = 2;

/// Lengths of the spans that files are cut into. Hardly any ends on a page, so neighbours share pages.
pub(crate) const SPANS: [usize; 14] =
    [5000, 4096, 12288, 700, 20000, 8192, 30000, 16384, 3001, 4096, 9000, 40000, 500, 25000];

/// So many of them are there at first; writes of the others make the file longer.
pub(crate) const SPANS_AT_FIRST: usize = 10;

/// The first byte of a span.
pub(crate) fn start_of(span: usize) -> usize {
    SPANS[..span].iter().sum()
}

/// A part of a span.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub(crate) span: usize,
    /// Bytes left out at both ends, if there are that many.
    pub(crate) front: usize,
    pub(crate) back: usize,
}

impl Piece {
    pub(crate) fn range(&self) -> Range<usize> {
        let (start, len) = (start_of(self.span), SPANS[self.span]);
        let front = self.front.min(len / 3);
        start + front..start + len - self.back.min(len / 3)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// On memory that the op owns, or that is lent.
    Owned,
    /// With a descriptor of its own.
    Staged(Panics),
    /// A new file.
    New,
}

#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) id: usize,
    pub(crate) write: bool,
    pub(crate) file: usize,
    pub(crate) way: Way,
    pub(crate) pieces: Vec<Piece>,
    pub(crate) memory: Kind,
    pub(crate) background: bool,
    pub(crate) validate: bool,
}

impl Spec {
    pub(crate) fn direction(&self) -> Direction {
        if self.write { Direction::Write } else { Direction::Read }
    }

    /// Its extents. A new file has one.
    pub(crate) fn ranges(&self) -> Vec<Range<usize>> {
        let ranges = self.pieces.iter().map(Piece::range);
        match self.way {
            Way::New => std::iter::once(0..ranges.map(|range| range.len()).sum()).collect(),
            _ => ranges.collect(),
        }
    }

    /// What its memory holds at first: what it writes, or something that no file holds.
    pub(crate) fn content(&self, extent: usize) -> Vec<u8> {
        let len = self.ranges()[extent].len();
        if self.write { pattern((self.id * 10 + extent) as u64 + 1, len) } else { vec![0xDB; len] }
    }
}

/// How an op may end.
#[derive(Debug)]
pub(crate) struct Expected {
    /// Error numbers of bad pages that it touches.
    bad_pages: Vec<i32>,
    panics: Panics,
    must_panic: bool,
    pub(crate) cancelled: bool,
    worker_may_die: bool,
    /// For a read past the length that was certain when it began: how many bytes there are at least.
    may_end_after: Option<u64>,
}

impl Expected {
    /// Of an op that is submitted to files of which `len` bytes are certain.
    pub(crate) fn new(spec: &Spec, plan: &Plan, faults: &Faults, len: usize) -> Self {
        let errors = |direction| {
            let ranges = spec.ranges().into_iter();
            let errors = ranges.map(move |range| plan.errors(direction, range.start as u64, range.len() as u64));
            errors.flatten().collect::<Vec<_>>()
        };
        let mut bad_pages = errors(spec.direction());
        if spec.validate {
            bad_pages.extend(errors(Direction::Read));
        }
        let panics = if let Way::Staged(panics) = spec.way { panics } else { Panics::Never };
        let must_panic = match panics {
            Panics::Never => false,
            Panics::Gather => spec.write,
            Panics::Scatter => !spec.write,
            Panics::Fini => true,
        };
        let mut before = 0;
        let mut may_end_after = None;
        for range in spec.ranges().iter().filter(|_| !spec.write) {
            if range.end > len && may_end_after.is_none() {
                may_end_after = Some(before + len.saturating_sub(range.start) as u64);
            }
            before += range.len() as u64;
        }
        let worker_may_die = !faults.deaths.is_empty();
        Self { bad_pages, panics, must_panic, cancelled: false, worker_may_die, may_end_after }
    }

    pub(crate) fn must_fail(&self) -> bool {
        !self.bad_pages.is_empty() || self.must_panic
    }

    pub(crate) fn may_fail(&self) -> bool {
        self.must_fail()
            || self.cancelled
            || self.worker_may_die
            || self.may_end_after.is_some()
            || self.panics != Panics::Never
    }

    /// Whether the plan explains this error.
    pub(crate) fn allows(&self, error: &Error) -> bool {
        match error {
            Error::Io(error) => error.source.raw_os_error().is_some_and(|errno| self.bad_pages.contains(&errno)),
            Error::UnexpectedEof { read, .. } => self.may_end_after.is_some_and(|least| *read >= least),
            Error::Cancelled { .. } => self.cancelled,
            Error::WorkerDied { reason } => self.worker_may_die && reason.contains("that the plan broke"),
            Error::Panicked { callback: "fini", message } => {
                self.panics == Panics::Fini && self.bad_pages.is_empty() && message.contains("on purpose")
            }
            Error::Panicked { message, .. } => self.panics != Panics::Never && message.contains("on purpose"),
            _ => false,
        }
    }
}
