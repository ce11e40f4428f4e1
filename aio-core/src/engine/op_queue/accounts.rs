//! The accounts of an op queue: what was accepted, and how it ended.

use smallvec::SmallVec;

use crate::engine::transfer::Priority;
use crate::epochs::Epochs;
use crate::error::{Error, Failures};

/// What was accepted and has not ended, and what ended since the last report.
#[derive(Debug)]
pub(super) struct Accounts {
    /// Accepted and not ended, by [`Priority`].
    pending: [usize; 2],
    /// Most of one priority.
    pub(super) limit: usize,
    /// Nothing more is accepted.
    pub(super) closed: bool,
    pub(super) epochs: Epochs,
    /// Ends since the last report; failures that a ticket reports are not among them.
    pub(super) report: Failures,
    /// Threads that wait for room.
    pub(super) waiting_for_room: usize,
    /// Ends since those threads were last woken.
    ends: usize,
}

/// Most ends between two wake-ups of threads that wait for room.
const MOST_ENDS: usize = 16;

/// How ops ended.
#[derive(Debug, Default)]
pub(crate) struct EndedOps {
    /// By [`Priority`].
    ops: [usize; 2],
    /// Ops by epoch; hardly ever more than one.
    epochs: SmallVec<[(u64, usize); 2]>,
    completed: usize,
    /// Failures that no ticket reports.
    pub(crate) unreported: Vec<Error>,
}

impl EndedOps {
    /// One more op.
    pub(crate) fn add(&mut self, priority: Priority, epoch: u64, ok: bool, unreported: Option<Error>) {
        self.ops[priority as usize] += 1;
        self.completed += usize::from(ok);
        self.unreported.extend(unreported);
        match self.epochs.last_mut() {
            Some((last, ops)) if *last == epoch => *ops += 1,
            _ => self.epochs.push((epoch, 1)),
        }
    }
}

impl Accounts {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            pending: [0; 2],
            limit,
            closed: false,
            epochs: Epochs::default(),
            report: Failures::none(),
            waiting_for_room: 0,
            ends: 0,
        }
    }

    /// Whether an op of this priority has to wait for the end of another.
    pub(super) fn makes_wait(&self, priority: Priority) -> bool {
        !self.closed && self.pending[priority as usize] >= self.limit
    }

    /// One more op; gives its epoch.
    pub(super) fn accept(&mut self, priority: Priority) -> u64 {
        self.pending[priority as usize] += 1;
        self.epochs.enter()
    }

    /// Counts ends. True if threads that wait for room are to be woken: once per quarter of the limit, unless that is
    /// small, so that one that submits op after op does not wake up for each. As many will end, since so many were
    /// pending when it began to wait.
    pub(super) fn end(&mut self, ended: EndedOps) -> bool {
        for (pending, ended) in self.pending.iter_mut().zip(ended.ops) {
            *pending -= ended;
            self.ends += ended;
        }
        self.report.completed += ended.completed;
        ended.unreported.into_iter().for_each(|error| self.report.add(error));
        for (epoch, ops) in ended.epochs {
            self.epochs.leave(epoch, ops);
        }
        let enough = self.limit < 2 * MOST_ENDS || self.ends >= (self.limit / 4).min(MOST_ENDS);
        if enough {
            self.ends = 0;
        }
        enough
    }

    /// Whether everything that was accepted has ended, and nothing more will come.
    pub(super) fn is_finished(&self) -> bool {
        self.closed && self.pending == [0; 2]
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn ended(ops: usize) -> EndedOps {
        EndedOps { ops: [ops, 0], epochs: [(0, ops)].into_iter().collect(), ..EndedOps::default() }
    }

    #[test]
    fn threads_that_wait_for_room_are_woken_once_per_quarter_of_the_limit() {
        for (limit, ends) in [(1, 1), (7, 1), (31, 1), (32, 8), (1 << 16, MOST_ENDS)] {
            let mut accounts = Accounts::new(limit);
            (0..limit).for_each(|_| assert_eq!(accounts.accept(Priority::Normal), 0));
            let woken = (0..limit).filter(|_| accounts.end(ended(1))).count();
            assert_eq!(woken, limit / ends, "with a limit of {limit}");
        }
    }
}
