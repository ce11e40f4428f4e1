//! The FIFOs of a priority each, and what a worker claims from their front at once.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::queued_op::{QueuedOp, Step};
use crate::engine::in_flight::Run;
use crate::engine::transfer::Transfer;
use crate::file::routes::{Route, RoutePermit};

/// What a worker asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) worker: usize,
    /// Blocks that it has room for.
    pub(crate) room: usize,
    /// How many of those may be of background ops.
    pub(crate) background: usize,
    /// Whether the worker will block if there is nothing.
    pub(crate) sleep: bool,
}

/// What a worker or a copier got. It keeps this from one claim to the next, and empties it in between.
#[derive(Debug, Default)]
pub(crate) struct Claimed {
    /// Blocks to be issued.
    pub(crate) runs: Vec<Run>,
    /// Ops that were stopped and have no block left, to be ended.
    pub(crate) ended: Vec<Arc<Transfer>>,
    /// Another worker, to be woken.
    pub(crate) wake: Option<usize>,
    /// A copier is to be started.
    pub(crate) new_copier: bool,
    /// Room that is left, by [`Priority`](crate::engine::transfer::Priority).
    left: [usize; 2],
    /// Bytes of blocks that may still be claimed, if that matters.
    bytes: Option<u64>,
    /// Ops that were stopped. What becomes of them is decided when the lock is free: drops of ops are foreign code.
    stopped: Vec<QueuedOp>,
}

/// How many ops of a priority a claim looks at, from the front. Workers take the first.
const LOOKED_AT: usize = 256;
/// A claim that is measured in bytes takes this for the least that an op has, so that it does not take many small ones.
const LEAST_BYTES: u64 = 16 << 10;

/// How many ops are near the front.
const NEAR_FRONT: usize = 16;

/// The kind of work that a claim found.
#[derive(Debug)]
pub(crate) enum Found {
    /// Runs, to be issued.
    Blocks,
    /// This op is to be opened and planned; then it goes back to the front. It may have waited for the permit.
    Unprepared(Arc<Transfer>, Option<RoutePermit>),
    /// None; ops may have ended.
    Nothing,
    /// None at all. The worker, which wanted to sleep, counts as sleeping.
    Asleep,
}

impl Claimed {
    pub(super) fn begin(&mut self, wanted: Wanted) {
        self.left = [wanted.room, wanted.background.min(wanted.room)];
        self.bytes = None;
    }

    /// Blocks of together about so many bytes, and one at least.
    pub(super) fn begin_by_bytes(&mut self, bytes: u64) {
        self.left = [usize::MAX; 2];
        self.bytes = Some(bytes);
    }

    pub(super) fn room(&self) -> usize {
        self.left[0]
    }

    pub(super) fn has_stopped(&self) -> bool {
        !self.stopped.is_empty()
    }

    /// Accounts for what was left of stopped ops. Not under the queue's lock.
    pub(crate) fn give_up_stopped(&mut self) {
        self.ended.extend(self.stopped.drain(..).filter_map(QueuedOp::give_up));
    }

    /// How many blocks of `op` may be taken.
    fn room_for(&self, class: usize, op: &Transfer) -> usize {
        let Some((bytes, plan)) = self.bytes.zip(op.state.plan()) else { return self.left[class] };
        usize::try_from(bytes / plan.block_bytes()).unwrap_or(usize::MAX).max(1)
    }

    fn add(&mut self, run: Option<Run>, blocks: usize) {
        self.left = self.left.map(|room| room.saturating_sub(blocks));
        if let Some((bytes, plan)) = self.bytes.zip(run.as_ref().and_then(|run| run.op.state.plan())) {
            let left = bytes.saturating_sub((blocks as u64 * plan.block_bytes()).max(LEAST_BYTES));
            (self.bytes, self.left) = (Some(left), if left == 0 { [0; 2] } else { self.left });
        }
        self.runs.extend(run);
    }
}

/// The ops that wait for a worker.
#[derive(Debug, Default)]
pub(super) struct Fifos {
    /// By [`Priority`](crate::engine::transfer::Priority).
    queues: [VecDeque<QueuedOp>; 2],
    /// Blocks in them; an op that is not planned yet counts as one.
    blocks: usize,
    claims: usize,
}

impl Fifos {
    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    pub(super) fn push_back(&mut self, queued: QueuedOp) {
        self.blocks += queued.blocks();
        self.queues[class_of(&queued)].push_back(queued);
    }

    /// At the front, or if it may hold no file yet, behind those that may.
    pub(super) fn push_front(&mut self, queued: QueuedOp) {
        if queued.may_hold_file() {
            self.blocks += queued.blocks();
            self.queues[class_of(&queued)].push_front(queued);
        } else {
            self.push_behind_prepared(queued);
        }
    }

    /// Behind those at the front that were prepared, or are to go on with a permit.
    pub(super) fn push_behind_prepared(&mut self, queued: QueuedOp) {
        self.blocks += queued.blocks();
        let queue = &mut self.queues[class_of(&queued)];
        let at = queue.iter().take_while(|queued| queued.has_permit() || queued.op.state.is_prepared()).count();
        queue.insert(at, queued);
    }

    /// Takes out an op that no worker has begun.
    pub(super) fn remove(&mut self, op: &Arc<Transfer>) -> Option<QueuedOp> {
        let queue = &mut self.queues[op.state.options.priority as usize];
        let index = queue.iter().position(|queued| queued.is_unbegun() && Arc::ptr_eq(&queued.op, op))?;
        let removed = queue.remove(index)?;
        self.blocks -= removed.blocks();
        Some(removed)
    }

    /// Takes out an op that no thread has begun and that is near the front.
    pub(super) fn take_near_front(&mut self, op: &Arc<Transfer>) -> Option<QueuedOp> {
        let class = op.state.options.priority as usize;
        let mut near = self.queues[class].iter().take(NEAR_FRONT);
        let index = near.position(|queued| Arc::ptr_eq(&queued.op, op) && queued.is_unbegun())?;
        self.take(class, index)
    }

    pub(super) fn into_ops(self) -> impl Iterator<Item = QueuedOp> {
        self.queues.into_iter().flatten()
    }

    /// Whether [`claim`](Self::claim) would find an op that may be claimed.
    pub(super) fn has_any(&self, may_claim: impl Fn(&QueuedOp) -> bool) -> bool {
        self.queues.iter().any(|queue| queue.iter().take(LOOKED_AT).any(&may_claim))
    }

    /// Claims blocks of the first ops that may be claimed until there is no room for more, or one op to be prepared.
    pub(super) fn claim(
        &mut self,
        claimed: &mut Claimed,
        may_claim: impl Fn(&QueuedOp) -> bool,
        mut wait_for_route: impl FnMut(Route, QueuedOp) -> Option<QueuedOp>,
    ) -> Found {
        self.claims = self.claims.wrapping_add(1);
        // Mostly the normal queue goes first; now and then the other one, so that it never starves.
        let order = if self.claims.is_multiple_of(16) { [1, 0] } else { [0, 1] };
        let mut found = Found::Nothing;
        for class in order {
            while claimed.left[class] > 0 {
                let queue = &mut self.queues[class];
                let Some(index) = queue.iter().take(LOOKED_AT).position(&may_claim) else { break };
                let first = &mut queue[index];
                match first.step(claimed.room_for(class, &first.op)) {
                    Step::Issue(blocks, permit) => {
                        let count = blocks.len();
                        claimed.add(self.take_blocks(class, index, blocks, permit), count);
                        found = Found::Blocks;
                    }
                    // The blocks are issued first.
                    Step::Prepare if matches!(found, Found::Blocks) => break,
                    Step::Prepare => {
                        if let Some(queued) = self.take(class, index) {
                            let (op, permit) = queued.into_parts();
                            return Found::Unprepared(op, permit);
                        }
                    }
                    Step::WaitFor(route) => {
                        let waiting = self.take(class, index);
                        if let Some(queued) = waiting.and_then(|queued| wait_for_route(route, queued)) {
                            self.push_front(queued);
                        }
                    }
                    Step::GiveUp => claimed.stopped.extend(self.take(class, index)),
                }
            }
        }
        found
    }

    /// These blocks of an op, which leaves the queue with its last.
    fn take_blocks(
        &mut self,
        class: usize,
        index: usize,
        blocks: Range<usize>,
        permit: Option<RoutePermit>,
    ) -> Option<Run> {
        self.blocks -= blocks.len();
        let queued = self.queues[class].get_mut(index)?;
        if queued.advance(&blocks) {
            return Some(queued.run(blocks, permit));
        }
        // The queue's reference to the op goes with its last blocks.
        self.queues[class].remove(index).map(|last| last.into_run(blocks, permit))
    }

    fn take(&mut self, class: usize, index: usize) -> Option<QueuedOp> {
        let taken = self.queues[class].remove(index)?;
        self.blocks -= taken.blocks();
        Some(taken)
    }
}

fn class_of(queued: &QueuedOp) -> usize {
    queued.op.state.options.priority as usize
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::{OpQueue, WhenFull};
    use super::*;
    use crate::backend::Direction;
    use crate::engine::op_state::OpState;
    use crate::engine::promise::Promise;
    use crate::engine::transfer::{Op, OpOptions};
    use crate::op::desc::{Extent, PathMode, Target};
    use crate::op::owned::Owned;
    use crate::op::plan::{Alignment, Plan};

    fn read(blocks: usize) -> Arc<Transfer> {
        let extent = Extent { offset: 0, len: blocks, memory: None };
        let plan = Plan::new(Direction::Read, &[extent], Alignment::NONE, 1);
        let desc = Owned::read(Target::at("t", PathMode::Read), vec![0_u8; blocks], 0);
        Arc::new(Op { state: OpState::new(Promise::new(None), OpOptions::default(), Some(plan)), desc })
    }

    fn by_path(mode: PathMode) -> Arc<Transfer> {
        let (target, state) = (Target::at("t", mode), OpState::new(Promise::new(None), OpOptions::default(), None));
        let desc = Owned::read(target, vec![0_u8; 1], 0);
        Arc::new(Op { state: state.by_path(mode), desc })
    }

    fn claim(queue: &OpQueue, worker: usize, room: usize) -> (Found, Claimed) {
        let mut claimed = Claimed::default();
        let wanted = Wanted { worker, room, background: room, sleep: true };
        let found = queue.claim(wanted, &mut claimed, |_, _| panic!("reads wait for no route"));
        claimed.give_up_stopped();
        (found, claimed)
    }

    fn blocks(claimed: &Claimed) -> Vec<usize> {
        claimed.runs.iter().flat_map(|run| run.progress.next..run.progress.end).collect()
    }

    #[test]
    fn what_a_worker_leaves_wakes_the_next() {
        let queue = OpQueue::new(2, 2, 0, 8);
        for worker in [1, 0] {
            assert!(matches!(claim(&queue, worker, 2).0, Found::Asleep));
        }
        assert_eq!(queue.push(&read(3), WhenFull::Refuse, || {}).unwrap().worker, Some(0));
        let (found, claimed) = claim(&queue, 0, 2);
        assert!(matches!(found, Found::Blocks));
        assert_eq!((blocks(&claimed), claimed.wake), (vec![0, 1], Some(1)));
        let (found, claimed) = claim(&queue, 1, 2);
        assert!(matches!(found, Found::Blocks));
        assert_eq!((blocks(&claimed), claimed.wake), (vec![2], None));
    }

    #[test]
    fn a_worker_with_an_op_to_end_does_not_sleep() {
        let queue = OpQueue::new(1, 2, 0, 8);
        let op = read(3);
        let _ = queue.push(&op, WhenFull::Refuse, || {}).unwrap();
        op.state.cancel();
        let (found, claimed) = claim(&queue, 0, 2);
        assert!(matches!(found, Found::Nothing), "{found:?}");
        assert!(claimed.runs.is_empty() && claimed.ended.iter().all(|ended| Arc::ptr_eq(ended, &op)));
        assert_eq!(claimed.ended.len(), 1);
        assert!(matches!(claim(&queue, 0, 2).0, Found::Asleep));
    }

    /// More would spin at the lock of the folder, or all wait for one that hangs.
    #[test]
    fn few_copiers_make_files_and_the_others_read() {
        let queue = OpQueue::new(1, 32, 16, 32);
        for mode in [[PathMode::WriteNew; 12], [PathMode::Read; 12]].concat() {
            let _ = queue.push(&by_path(mode), WhenFull::Refuse, || {}).unwrap();
        }
        let mut made = 0;
        for _ in 0..12 {
            let mut held = None;
            let found = queue.claim_copies(&mut held, &mut Claimed::default(), |_, _| panic!("no route is in use"));
            let Some((Found::Unprepared(op, None), _)) = found else { panic!("{found:?}") };
            made += usize::from(op.state.makes_file());
        }
        assert_eq!(made, 4);
    }

    /// An op in flight may take for ever, and what comes after it need not.
    #[test]
    fn a_file_that_is_open_keeps_no_other_from_being_opened() {
        let queue = OpQueue::new(1, 1, 16, 32);
        let read = || queue.push(&by_path(PathMode::Read), WhenFull::Refuse, || {}).unwrap();
        for open in 0..16 {
            assert!(read().new_copier, "{open} are open");
            queue.open_paths.begin().keep();
        }
    }
}
