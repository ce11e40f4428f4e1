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
}

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
        Self { pending: [0; 2], limit, closed: false, epochs: Epochs::default(), report: Failures::none() }
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

    pub(super) fn end(&mut self, ended: EndedOps) {
        for (pending, ended) in self.pending.iter_mut().zip(ended.ops) {
            *pending -= ended;
        }
        self.report.completed += ended.completed;
        ended.unreported.into_iter().for_each(|error| self.report.add(error));
        for (epoch, ops) in ended.epochs {
            self.epochs.leave(epoch, ops);
        }
    }

    /// Whether everything that was accepted has ended, and nothing more will come.
    pub(super) fn is_finished(&self) -> bool {
        self.closed && self.pending == [0; 2]
    }
}
