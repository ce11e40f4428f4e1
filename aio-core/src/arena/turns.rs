//! The order in which waiting allocations are served: the order in which they came.
//!
//! Otherwise small allocations, each of which finds room at once, would starve a large one. But threads that hold buffers
//! while they wait for more can make an order impossible: the first one waits for memory of the second, which waits for
//! its turn. So when nothing was given back for [`LULL`], whatever fits goes ahead.

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
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    /// It does not wait for buffers, and so not for those that do.
    is_brief: bool,
}

impl Turns {
    /// The end of the line.
    pub(super) fn enter(&mut self, is_brief: bool) -> u64 {
        if self.line.is_empty() {
            self.moved = Some(Instant::now());
        }
        self.next += 1;
        self.line.push_back(Waiting { ticket: self.next, is_brief });
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

    /// Whether it is the turn of that ticket, or of an allocation that has none.
    pub(super) fn is_turn_of(&self, ticket: Option<u64>) -> bool {
        match self.first() {
            None => true,
            first if first == ticket => true,
            _ => self.lull_begins().is_none_or(|begins| begins <= Instant::now()),
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
