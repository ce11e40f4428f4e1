//! What an op queue knows of its copiers: how many there are, how many sleep, and what they hold.

use smallvec::SmallVec;

use super::fifos::Fifos;
use super::queued_op::QueuedOp;
use crate::engine::in_flight::Run;
use crate::epochs::Epochs;

/// The copiers of an op queue, which are started as they are needed.
#[derive(Debug)]
pub(super) struct Copiers {
    /// How many there may be: as configured, or those that could be started.
    most: usize,
    started: usize,
    asleep: usize,
    /// Of those asleep, how many were woken and did not run yet.
    woken: usize,
    /// Each copier enters with a claim, and leaves with the next.
    pub(super) claims: Epochs,
    /// The inodes that copiers write to. The kernel lets one thread at a time write to an inode through the page cache,
    /// and others would spin until it is their turn.
    written: SmallVec<[usize; 4]>,
}

/// What a copier holds from one claim to the next.
#[derive(Debug)]
pub(crate) struct Holding {
    epoch: u64,
    written: SmallVec<[usize; 1]>,
}

/// How one more copier comes to work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Another {
    /// There is nothing to do for it, or there are no more.
    None,
    /// One that sleeps is to be notified.
    Sleeping,
    /// One is to be started.
    New,
}

impl Copiers {
    pub(super) fn new(most: usize) -> Self {
        Self { most, started: 0, asleep: 0, woken: 0, claims: Epochs::default(), written: SmallVec::new() }
    }

    /// Whether there are copiers, or may be.
    pub(super) fn exist(&self) -> bool {
        self.most > 0
    }

    /// What brings one more copier to work, if there are copies for it; the caller sees to it.
    pub(super) fn another(&mut self, copies: &Fifos) -> Another {
        if self.asleep <= self.woken && self.started == self.most {
            return Another::None;
        }
        if !copies.has_any(|queued| self.may_claim(queued)) {
            return Another::None;
        }
        if self.asleep > self.woken {
            self.woken += 1;
            return Another::Sleeping;
        }
        self.started += 1;
        Another::New
    }

    /// Whether no copier writes to the inode of this op.
    pub(super) fn may_claim(&self, queued: &QueuedOp) -> bool {
        self.written.is_empty() || queued.written_inode().is_none_or(|inode| !self.written.contains(&inode))
    }

    /// A copier has claimed these runs.
    pub(super) fn hold(&mut self, runs: &[Run]) -> Holding {
        let written: SmallVec<_> = runs.iter().filter_map(|run| run.op.state.written_inode()).collect();
        self.written.extend_from_slice(&written);
        Holding { epoch: self.claims.enter(), written }
    }

    /// The copier is done with them.
    pub(super) fn let_go(&mut self, Holding { epoch, written }: Holding) {
        self.claims.leave(epoch, 1);
        for inode in written {
            if let Some(index) = self.written.iter().position(|held| *held == inode) {
                self.written.swap_remove(index);
            }
        }
    }

    pub(super) fn sleep(&mut self) {
        self.asleep += 1;
    }

    /// The copier runs again, woken or not.
    pub(super) fn awake(&mut self) {
        self.asleep -= 1;
        self.woken = self.woken.saturating_sub(1);
    }

    /// The one that was to be started could not be, so no more are asked for.
    pub(super) fn not_started(&mut self) {
        self.started -= 1;
        self.most = self.started;
    }
}
