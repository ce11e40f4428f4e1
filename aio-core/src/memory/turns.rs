//! The order in which waiting allocations are served: that in which they came, unless the first one has to wait anyhow.
//!
//! Without an order, small allocations, each of which finds room at once, would starve a large one. But one that
//! waits for much must not stop all others: as long as buffers that are older than its being the first take what it
//! needs, it has to wait for these anyhow, and whatever fits goes ahead. When they are gone, nothing passes it any
//! more.
//!
//! Threads that hold buffers while they wait for more can still make an order impossible: the first one waits for memory
//! that the second took when it passed, and the second waits for its turn. So when nothing was given back for [`LULL`],
//! whatever fits goes ahead.
//!
//! A thread that is woken looks; a task may not. So a task that was woken and has not looked for as long loses its place
//! when memory comes back, and gets in line anew if it looks after all. Only tasks that can be served are woken.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

/// How long nothing has to come back before the order does not matter.
pub(super) const LULL: Duration = Duration::from_secs(1);

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
    /// How many of those that wait are tasks.
    tasks: usize,
    /// Those that wait have to be woken when the pool's lock is let go of.
    is_changed: bool,
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    need: u64,
    /// It does not wait for buffers, and so not for those that do.
    is_brief: bool,
    /// A task, which cannot wake up by itself.
    task: Option<Task>,
}

#[derive(Debug)]
struct Task {
    /// What to call when it can be served, unless that was done since it last looked.
    waker: Option<Waker>,
    /// When that was done, if it has not looked since.
    woken: Option<Instant>,
    since: Instant,
    /// Its long wait was logged.
    is_told: bool,
}

impl Turns {
    /// The end of the line.
    pub(super) fn enter(&mut self, need: u64, is_brief: bool) -> u64 {
        self.enter_as(need, is_brief, None)
    }

    /// The end of the line, for a task.
    pub(super) fn enter_task(&mut self, need: u64) -> u64 {
        self.tasks += 1;
        self.enter_as(need, false, Some(Task { waker: None, woken: None, since: Instant::now(), is_told: false }))
    }

    fn enter_as(&mut self, need: u64, is_brief: bool, task: Option<Task>) -> u64 {
        if self.line.is_empty() {
            self.moved = Some(Instant::now());
        }
        self.next += 1;
        self.line.push_back(Waiting { ticket: self.next, need, is_brief, task });
        self.next
    }

    /// Leaves the line, served or not. Gives the waker of a task, to be dropped without the lock.
    #[must_use]
    pub(super) fn leave(&mut self, ticket: u64) -> Option<Waker> {
        if self.first() == Some(ticket) {
            self.moved = Some(Instant::now());
        }
        let index = self.find(ticket)?;
        let task = self.line.remove(index)?.task;
        self.tasks -= usize::from(task.is_some());
        self.look_again();
        task.and_then(|task| task.waker)
    }

    fn find(&self, ticket: u64) -> Option<usize> {
        self.line.binary_search_by_key(&ticket, |waiting| waiting.ticket).ok()
    }

    fn task(&mut self, ticket: u64) -> Option<&mut Task> {
        let index = self.find(ticket)?;
        self.line.get_mut(index)?.task.as_mut()
    }

    /// How many tasks wait.
    pub(super) fn tasks(&self) -> usize {
        self.tasks
    }

    /// A task looks. False if it has lost its place.
    pub(super) fn looks(&mut self, ticket: u64) -> bool {
        let task = self.task(ticket);
        task.map(|task| task.woken = None).is_some()
    }

    /// What to call when the task can be served; gives the waker that is to be dropped without the lock.
    #[must_use]
    pub(super) fn set_waker(&mut self, ticket: u64, waker: Waker) -> Option<Waker> {
        match self.task(ticket) {
            Some(task) => {
                // It looks, so it has heard of an earlier waking.
                task.woken = None;
                task.waker.replace(waker)
            }
            None => Some(waker),
        }
    }

    /// Notes that those that wait have to look again.
    pub(super) fn look_again(&mut self) {
        self.changes += 1;
        self.is_changed = true;
    }

    /// Whether those that wait have to be woken; once.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.is_changed)
    }

    /// The wakers of the tasks that can be served now, to be called without the lock. Without a timekeeper (`is_timed`),
    /// also of those whose turn it is not, since no lull would wake them.
    #[must_use]
    pub(super) fn take_wakers(&mut self, in_use: u64, limit: u64, is_timed: bool) -> SmallVec<[Waker; 1]> {
        let now = Instant::now();
        while self.tasks > 0 && self.line.front().is_some_and(|first| first.is_late(now)) {
            self.line.pop_front();
            self.tasks -= 1;
        }
        if self.tasks == 0 {
            return SmallVec::new();
        }
        let looking = if is_timed && self.is_ordered(in_use, limit, now) { 1 } else { self.line.len() };
        let fitting =
            self.line.iter_mut().take(looking).filter(|waiting| waiting.need <= limit.saturating_sub(in_use));
        let tasks = fitting.filter_map(|waiting| waiting.task.as_mut());
        tasks
            .filter_map(|task| {
                let waker = task.waker.take()?;
                task.woken = Some(now);
                Some(waker)
            })
            .collect()
    }

    /// What a task needs that has waited for `long`; each is given once.
    pub(super) fn take_long_wait(&mut self, now: Instant, long: Duration) -> Option<u64> {
        self.line.iter_mut().find_map(|waiting| {
            let task = waiting.task.as_mut().filter(|task| !task.is_told && task.since + long <= now)?;
            task.is_told = true;
            Some(waiting.need)
        })
    }

    /// When the next task will have waited for `long`.
    pub(super) fn next_long_wait(&self, long: Duration) -> Option<Instant> {
        let tasks = self.line.iter().filter_map(|waiting| waiting.task.as_ref());
        tasks.filter(|task| !task.is_told).map(|task| task.since + long).min()
    }

    /// Lets what fits go ahead until something changes.
    pub(super) fn ignore_order(&mut self) {
        self.moved = None;
    }

    /// Whether it is the turn of that ticket, or of an allocation that has none, where buffers take `in_use` of `limit`.
    pub(super) fn is_turn_of(&mut self, ticket: Option<u64>, in_use: u64, limit: u64) -> bool {
        // Asked first: it looks who the first in line is.
        !self.is_ordered(in_use, limit, Instant::now()) || self.first() == ticket
    }

    /// Whether nothing may pass the first in line.
    fn is_ordered(&mut self, in_use: u64, limit: u64, now: Instant) -> bool {
        !self.delays_nobody(in_use, limit) && self.lull_begins().is_some_and(|begins| begins > now)
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
            self.moved = Some(Instant::now());
            self.look_again();
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

impl Waiting {
    /// Whether it is a task that was woken and has not looked for long.
    fn is_late(&self, now: Instant) -> bool {
        let woken = self.task.as_ref().and_then(|task| task.woken);
        woken.is_some_and(|woken| woken + LULL <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_moved_to_another_waker_keeps_its_place() {
        let mut turns = Turns::default();
        let ticket = turns.enter_task(1);
        assert!(turns.set_waker(ticket, Waker::noop().clone()).is_none());
        assert_eq!(turns.take_wakers(0, 1, false).len(), 1);
        let later = Instant::now() + 2 * LULL;
        assert!(turns.line[0].is_late(later), "it was woken and has not looked");
        assert!(turns.set_waker(ticket, Waker::noop().clone()).is_none());
        assert!(!turns.line[0].is_late(later));
    }
}
