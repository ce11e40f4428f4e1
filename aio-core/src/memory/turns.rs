//! The order in which waiting allocations are served: that in which they came, unless the first one has to wait anyhow.
//!
//! Without an order, small allocations, each of which finds room at once, would starve a large one. But one that waits for
//! much must not stop all others: as long as buffers that are older than its being the first take what it needs, it has to
//! wait for these anyhow, and whatever fits goes ahead. When they are gone, nothing passes it any more.
//!
//! Threads that hold buffers while they wait for more can still make an order impossible: the first one waits for memory
//! that the second took when it passed, and the second waits for its turn. So when nothing was given back for [`LULL`],
//! whatever fits goes ahead.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long nothing has to come back before the order does not matter.
const LULL: Duration = Duration::from_secs(1);

/// The line of allocations that wait.
#[derive(Debug, Default)]
pub(super) struct Turns {
    line: VecDeque<Waiting>,
    next: u64,
    /// Counts what a waiting allocation has to look at.
    changes: u64,
    /// When memory last came back, or the line moved on.
    moved: Option<Instant>,
    /// The first in line, as last seen; 0: there was none yet.
    first: u64,
    /// Bytes of buffers that were cut before it was.
    older: u64,
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    need: u64,
    /// It does not wait for buffers, and so not for those that do.
    is_brief: bool,
}

impl Turns {
    /// The end of the line.
    pub(super) fn enter(&mut self, need: u64, is_brief: bool) -> u64 {
        if self.line.is_empty() {
            self.moved = Some(Instant::now());
        }
        self.next += 1;
        self.line.push_back(Waiting { ticket: self.next, need, is_brief });
        self.next
    }

    /// Leaves the line, served or not.
    pub(super) fn leave(&mut self, ticket: u64) {
        if self.first() == Some(ticket) {
            self.moved = Some(Instant::now());
        }
        self.line.retain(|waiting| waiting.ticket != ticket);
        self.changes += 1;
    }

    /// Whether it is the turn of that ticket, or of an allocation that has none, where buffers take `in_use` of `limit`.
    pub(super) fn is_turn_of(&mut self, ticket: Option<u64>, in_use: u64, limit: u64) -> bool {
        self.delays_nobody(in_use, limit)
            || self.first() == ticket
            || self.lull_begins().is_none_or(|begins| begins <= Instant::now())
    }

    /// Whether the first in line, if there is one, has to wait whatever else is allocated and dropped.
    pub(super) fn delays_nobody(&mut self, in_use: u64, limit: u64) -> bool {
        let Some(&Waiting { ticket, need, .. }) = self.line.front() else { return true };
        // Before anything is cut behind it: cutting asks here first.
        if self.first != ticket {
            (self.first, self.older) = (ticket, in_use);
        }
        need.saturating_add(self.older) > limit
    }

    /// Which is the first in line while a buffer is cut, for [`dropped`](Self::dropped).
    pub(super) fn first_seen(&self) -> u64 {
        self.first
    }

    /// A buffer that was cut behind that ticket takes `len` bytes less.
    pub(super) fn dropped(&mut self, behind: u64, len: u64) {
        if behind < self.first {
            self.older -= len;
        }
    }

    fn first(&self) -> Option<u64> {
        self.line.front().map(|waiting| waiting.ticket)
    }

    /// Whether those before that ticket, or before the end of the line, wait for buffers.
    pub(super) fn wait_for_buffers_before(&self, ticket: Option<u64>) -> bool {
        self.line.iter().take_while(|waiting| Some(waiting.ticket) != ticket).any(|waiting| !waiting.is_brief)
    }

    /// From when on the order does not matter, if nothing changes until then.
    pub(super) fn lull_begins(&self) -> Option<Instant> {
        self.moved.map(|moved| moved + LULL)
    }

    /// Memory came back.
    pub(super) fn changed(&mut self) {
        if !self.line.is_empty() {
            self.changes += 1;
            self.moved = Some(Instant::now());
        }
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.line.len()
    }
}
