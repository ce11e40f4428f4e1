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
use std::task::Waker;
use std::time::{Duration, Instant};

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
    /// Tasks to be woken when the pool's lock is let go of.
    woken: Vec<Waker>,
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
    /// What to call when something changes, unless that was done since it last looked.
    waker: Option<Waker>,
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
        self.enter_as(need, false, Some(Task { waker: None, since: Instant::now(), is_told: false }))
    }

    fn enter_as(&mut self, need: u64, is_brief: bool, task: Option<Task>) -> u64 {
        if self.line.is_empty() {
            self.moved = Some(Instant::now());
        }
        self.next += 1;
        self.line.push_back(Waiting { ticket: self.next, need, is_brief, task });
        self.next
    }

    /// Leaves the line, served or not. Gives the waker of a task.
    pub(super) fn leave(&mut self, ticket: u64) -> Option<Waker> {
        if self.first() == Some(ticket) {
            self.moved = Some(Instant::now());
        }
        let index = self.line.iter().position(|waiting| waiting.ticket == ticket)?;
        let task = self.line.remove(index)?.task;
        self.tasks -= usize::from(task.is_some());
        self.changes += 1;
        self.wake_tasks();
        task.and_then(|task| task.waker)
    }

    /// How many tasks wait.
    pub(super) fn tasks(&self) -> usize {
        self.tasks
    }

    /// What to call when something changes; gives the waker that it replaces.
    pub(super) fn set_waker(&mut self, ticket: u64, waker: Waker) -> Option<Waker> {
        let waiting = self.line.iter_mut().find(|waiting| waiting.ticket == ticket)?;
        waiting.task.as_mut()?.waker.replace(waker)
    }

    /// Notes that tasks have to look again.
    pub(super) fn wake_tasks(&mut self) {
        if self.tasks > 0 {
            let tasks = self.line.iter_mut().filter_map(|waiting| waiting.task.as_mut());
            self.woken.extend(tasks.filter_map(|task| task.waker.take()));
        }
    }

    /// The wakers of these tasks, to be called without the lock.
    pub(super) fn take_woken(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.woken)
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
            self.wake_tasks();
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
