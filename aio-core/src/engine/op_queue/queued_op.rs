//! An op in the queue: a cursor over the blocks that no worker or copier has claimed.

use std::ops::Range;
use std::sync::Arc;

use crate::engine::in_flight::Run;
use crate::engine::transfer::Transfer;
use crate::error::Error;
use crate::file::routes::{Route, RouteBusy, RoutePermit};
use crate::foreign::report_drop;

/// An op with blocks to be claimed. A permit is not dropped under the queue's lock: an op that waits for it comes back
/// to the queue.
#[derive(Debug)]
pub(crate) struct QueuedOp {
    pub(super) op: Arc<Transfer>,
    /// The first block that is not claimed.
    next: usize,
    /// Only that block, which direct I/O does not take: through the page cache.
    through_cache: bool,
    /// What it had to wait for.
    permit: Option<RoutePermit>,
    /// Of a copy that is written: what names the inode.
    written_inode: Option<usize>,
}

/// What a worker does with the op at the front.
#[derive(Debug)]
pub(super) enum Step {
    /// It is stopped: its blocks are accounted for as they are.
    GiveUp,
    /// It is opened and planned first.
    Prepare,
    /// These blocks can be issued.
    Issue(Range<usize>, Option<RoutePermit>),
    /// Writes on the other route are in flight.
    WaitFor(Route),
}

impl QueuedOp {
    /// An op of which nothing is claimed.
    pub(crate) fn new(op: Arc<Transfer>) -> Self {
        let written_inode = if is_copy(&op) { op.state.written_inode() } else { None };
        Self { next: op.state.first_block(), op, through_cache: false, permit: None, written_inode }
    }

    /// A block of an op to be done again, through the page cache.
    pub(crate) fn block_through_cache(op: Arc<Transfer>, block: usize) -> Self {
        Self { op, next: block, through_cache: true, permit: None, written_inode: None }
    }

    /// With what it waited for.
    pub(crate) fn with(self, permit: RoutePermit) -> Self {
        Self { permit: Some(permit), ..self }
    }

    pub(crate) fn op(&self) -> &Arc<Transfer> {
        &self.op
    }

    /// Whether it is a copy.
    pub(super) fn is_copy(&self) -> bool {
        is_copy(&self.op)
    }

    /// Whether it is planned, or was opened and waited for a permit.
    pub(super) fn may_hold_file(&self) -> bool {
        self.op.state.plan().is_some() || self.has_permit()
    }

    /// The one block of a copy, if nothing stops it and its route is open; or the op as it was.
    pub(crate) fn into_whole_run(mut self) -> Result<Run, Self> {
        if !(self.is_copy() && self.is_unbegun() && self.blocks() == 1) {
            return Err(self);
        }
        match self.step(1) {
            Step::Issue(blocks, permit) => Ok(self.into_run(blocks, permit)),
            _ => Err(self),
        }
    }

    /// Of a copy that is written: what names the inode.
    pub(super) fn written_inode(&self) -> Option<usize> {
        self.written_inode
    }

    /// Whether it has waited for its route, and other writes of the inode may wait for it.
    pub(super) fn has_permit(&self) -> bool {
        self.permit.is_some()
    }

    /// Whether it may make its file.
    pub(super) fn makes_file(&self) -> bool {
        self.op.state.makes_file()
    }

    pub(super) fn is_background(&self) -> bool {
        self.op.state.options.is_background()
    }

    /// Whether no worker has begun the op.
    pub(crate) fn is_unbegun(&self) -> bool {
        self.next == 0 && !self.through_cache && !self.op.state.is_verifying()
    }

    /// Blocks that it has in the queue: one until it is planned.
    pub(super) fn blocks(&self) -> usize {
        match self.op.state.plan() {
            Some(plan) if !self.through_cache => plan.blocks - self.next,
            _ => 1,
        }
    }

    /// What to do with the op, of which at most `room` blocks can be taken.
    pub(super) fn step(&mut self, room: usize) -> Step {
        let state = &self.op.state;
        if state.is_stopped() {
            return Step::GiveUp;
        }
        let Some(plan) = state.plan() else { return Step::Prepare };
        let (mut end, mut permit) = (plan.blocks, None);
        if state.is_accepted_write() {
            // Blocks of a run go one route; those through the page cache come first.
            let (same_route, route) = match self.next {
                next if self.through_cache => (next + 1, Route::Cached),
                next if next < plan.cached => (plan.cached, Route::Cached),
                _ => (plan.blocks, Route::Direct),
            };
            match self.permit.take().map_or_else(|| state.try_enter_route(route), |permit| Ok(Some(permit))) {
                Ok(None) => {}
                Ok(given) => (end, permit) = (same_route, given),
                Err(RouteBusy) => return Step::WaitFor(route),
            }
        }
        Step::Issue(self.next..end.min(self.next + room), permit)
    }

    /// Moves the cursor past these blocks, which [`step`](Self::step) gave. False if they were the last.
    pub(super) fn advance(&mut self, blocks: &Range<usize>) -> bool {
        self.next = blocks.end;
        !self.through_cache && self.op.state.plan().is_some_and(|plan| blocks.end < plan.blocks)
    }

    /// Some of its blocks.
    pub(super) fn run(&self, blocks: Range<usize>, permit: Option<RoutePermit>) -> Run {
        Run::new(self.op.clone(), blocks, permit, self.through_cache)
    }

    /// Its last blocks.
    pub(super) fn into_run(self, blocks: Range<usize>, permit: Option<RoutePermit>) -> Run {
        Run::new(self.op, blocks, permit, self.through_cache)
    }

    /// An op that waited for nothing.
    pub(crate) fn into_op(self) -> Arc<Transfer> {
        self.op
    }

    /// An op to be prepared, and what it waited for.
    pub(super) fn into_parts(self) -> (Arc<Transfer>, Option<RoutePermit>) {
        (self.op, self.permit)
    }

    /// Fails what is left of the op because no worker is; gives the op if it is to be ended. Not under the queue's
    /// lock.
    pub(super) fn fail(self, reason: &str) -> Option<Arc<Transfer>> {
        self.op.state.fail(u64::MAX, Error::WorkerDied { reason: reason.to_owned() });
        self.give_up()
    }

    /// Accounts for the blocks that no worker will claim; gives the op if it is to be ended. Not under the queue's
    /// lock.
    pub(super) fn give_up(self) -> Option<Arc<Transfer>> {
        let left = self.op.state.plan().map(|_| self.blocks());
        let Self { op, permit, .. } = self;
        drop(permit);
        if left.is_none_or(|left| op.state.account(left, 0)) {
            return Some(op);
        }
        // Another worker ends it. By now this may be the last reference, and the descriptor's drop is foreign code.
        report_drop(op);
        None
    }
}

fn is_copy(op: &Transfer) -> bool {
    op.state.plan().is_some_and(|plan| plan.is_copy)
}
