//! The shared queues of ops, and who is woken to work on them.
//!
//! Ops wait in one FIFO per priority. A worker claims runs of blocks from the front op by moving a cursor, so one
//! large op spreads over all workers and small ops follow each other without a gap. One lock covers queues, cursors
//! and sleepers: it is taken once per batch of blocks, not per block, and it makes the parking protocol plain. A worker
//! announces that it will block under the lock under which it saw that there is nothing to claim; whoever adds work
//! afterwards sees the announcement.

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_utils::CachePadded;
use smallvec::SmallVec;

use crate::engine::Shared;
use crate::engine::in_flight::Run;
use crate::engine::transfer::{Entered, Priority, Transfer};
use crate::epochs::Epochs;
use crate::error::{Error, Failures};
use crate::file::routes::{Pass, Route};
use crate::foreign::report_drop;
use crate::op::plan::Plan;
use crate::sync::{AtomicU64, AtomicUsize, MutexGuard, Ordering, ThreadSync};

/// Everything that waits, and the accounts of what was accepted.
#[derive(Debug)]
pub(crate) struct Work {
    state: ThreadSync<State>,
    /// Blocks waiting, for those who spin.
    waiting: CachePadded<AtomicUsize>,
    /// Ops accepted ever; written under the lock only.
    ops: AtomicU64,
    limit: usize,
    depth: usize,
}

#[derive(Debug)]
struct State {
    /// By [`Priority`].
    queues: [VecDeque<Waiting>; 2],
    /// Accepted and not ended, by priority.
    accepted: [usize; 2],
    /// Blocks in the queues; an op that is not planned yet counts as one.
    blocks: usize,
    /// Workers that said they would block and were not woken since.
    sleeping: Vec<usize>,
    /// How many blocks each worker that is awake could take when it last looked; 0 for the others.
    rooms: Vec<usize>,
    workers: usize,
    /// Why no worker is left.
    dead: Option<String>,
    closed: bool,
    epochs: Epochs,
    /// Ends since the last wait; failures of ops with a ticket are not among them.
    since: Failures,
    claims: usize,
}

/// An op with blocks to be claimed.
#[derive(Debug)]
pub(crate) struct Waiting {
    op: Arc<Transfer>,
    /// The first block that is not claimed.
    next: usize,
    /// Only that block, which direct I/O does not take: through the page cache.
    through_cache: bool,
    /// What it had to wait for.
    pass: Option<Pass>,
}

impl State {
    fn is_finished(&self) -> bool {
        self.closed && self.accepted == [0; 2]
    }

    /// A sleeper to wake, if there is more than those who are awake have room for. They look here before they sleep.
    fn wake_one(&mut self, depth: usize) -> Option<usize> {
        if self.blocks <= self.rooms.iter().sum() {
            return None;
        }
        let worker = self.sleeping.pop()?;
        self.rooms[worker] = depth;
        Some(worker)
    }
}

impl Waiting {
    /// An op of which nothing is claimed.
    pub(crate) fn new(op: Arc<Transfer>) -> Self {
        Self { next: op.state.first_block(), op, through_cache: false, pass: None }
    }

    /// A block of an op to be done again, through the page cache.
    pub(crate) fn again(op: Arc<Transfer>, block: usize) -> Self {
        Self { op, next: block, through_cache: true, pass: None }
    }

    /// With what it waited for.
    fn with(self, pass: Pass) -> Self {
        Self { pass: Some(pass), ..self }
    }

    /// Whether no worker has begun the op.
    fn is_unbegun(&self) -> bool {
        self.next == 0 && !self.through_cache && !self.op.state.is_verifying()
    }

    /// Blocks that it waits with: one until it is planned.
    fn blocks(&self) -> usize {
        match self.op.state.plan() {
            Some(plan) if !self.through_cache => plan.blocks - self.next,
            _ => 1,
        }
    }

    /// The end of the blocks that the next run may have, and the route of a write on which they go.
    fn stretch(&self, plan: &Plan) -> (usize, Route) {
        match self.next {
            next if self.through_cache => (next + 1, Route::Cached),
            next if next < plan.cached => (plan.cached, Route::Cached),
            _ => (plan.blocks, Route::Direct),
        }
    }
}

/// What must not be dropped under the lock. Ops that other workers end: by the time these references go they may be the
/// last, and a descriptor's drop is foreign code. Passes: an op that waits for one comes back to a queue.
#[derive(Debug, Default)]
struct DroppedLater {
    ops: Vec<Arc<Transfer>>,
    passes: Vec<Pass>,
}

impl Drop for DroppedLater {
    fn drop(&mut self) {
        self.ops.drain(..).for_each(report_drop);
    }
}

/// What [`Work::claim`] found.
#[derive(Debug)]
pub(crate) enum Claim {
    /// Runs were added.
    Blocks,
    /// This op must be opened and planned first; then it goes [back to the front](Work::push_front). It may have waited
    /// for the pass.
    Prepare(Arc<Transfer>, Option<Pass>),
    /// There is nothing; the worker counts as sleeping if it asked for that.
    Nothing,
}

/// How ops ended, for the accounts.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// By [`Priority`].
    accepted: [usize; 2],
    /// Ops by epoch; hardly ever more than one.
    epochs: SmallVec<[(u64, usize); 2]>,
    completed: usize,
    /// Failures that nobody else will hear of.
    pub(crate) unclaimed: Vec<Error>,
}

impl Ended {
    /// One more op.
    pub(crate) fn add(&mut self, priority: Priority, epoch: u64, ok: bool, unclaimed: Option<Error>) {
        self.accepted[priority as usize] += 1;
        self.completed += usize::from(ok);
        self.unclaimed.extend(unclaimed);
        match self.epochs.last_mut() {
            Some((last, ops)) if *last == epoch => *ops += 1,
            _ => self.epochs.push((epoch, 1)),
        }
    }
}

/// What a full queue does with an op.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// The caller waits for room.
    Wait,
    Refuse,
    /// It is accepted beyond the limit.
    Exceed,
}

impl Work {
    pub(crate) fn new(workers: usize, depth: usize, limit: usize) -> Self {
        let state = State {
            queues: Default::default(),
            accepted: [0; 2],
            blocks: 0,
            sleeping: Vec::new(),
            rooms: vec![depth; workers],
            workers,
            dead: None,
            closed: false,
            epochs: Epochs::default(),
            since: Failures::none(),
            claims: 0,
        };
        Self {
            state: ThreadSync::new(state),
            waiting: CachePadded::new(AtomicUsize::new(0)),
            ops: AtomicU64::new(0),
            limit,
            depth,
        }
    }

    /// Takes responsibility for an op: returns its epoch. Every op accepted is [ended](Self::ended) exactly once.
    pub(crate) fn accept(&self, priority: Priority, full: Full) -> Result<u64, Error> {
        self.accept_locked(priority, full).map(|(_, epoch)| epoch)
    }

    fn accept_locked(&self, priority: Priority, full: Full) -> Result<(MutexGuard<'_, State>, u64), Error> {
        let class = priority as usize;
        let has_room = |state: &mut State| state.closed || state.dead.is_some() || state.accepted[class] < self.limit;
        let mut state = self.state.lock();
        if !has_room(&mut state) {
            match full {
                Full::Wait => state = self.state.wait_until(state, None, has_room).0,
                Full::Refuse => return Err(Error::QueueFull { limit: self.limit }),
                Full::Exceed => {}
            }
        }
        if state.closed {
            return Err(Error::Closed);
        }
        if let Some(reason) = &state.dead {
            return Err(Error::WorkerDied { reason: reason.clone() });
        }
        state.accepted[class] += 1;
        // Under the lock, so nobody else adds to it.
        self.ops.store(self.ops.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let epoch = state.epochs.enter();
        Ok((state, epoch))
    }

    /// Accepts an op and puts it at the end of its queue. Returns a worker to wake. `accepted` runs in between, under the
    /// lock: a write counts for syncs from then on, and not while it waits for room that a sync may have.
    pub(crate) fn push(
        &self,
        op: &Arc<Transfer>,
        full: Full,
        accepted: impl FnOnce(),
    ) -> Result<Option<usize>, Error> {
        let (mut state, epoch) = self.accept_locked(op.state.priority, full)?;
        op.state.epoch.store(epoch, Ordering::Release);
        accepted();
        let waiting = Waiting::new(op.clone());
        let blocks = waiting.blocks();
        state.queues[op.state.priority as usize].push_back(waiting);
        Ok(self.added(state, blocks))
    }

    /// Puts an op that was accepted before at the front; but if it is not prepared, because too many files are open, behind
    /// those that are and so may hold them. Returns a worker to wake. The caller keeps nothing of the op:
    /// whoever ends it closes its file, and has to be the last to hold it. If no worker is left, the op fails; `Err` has it
    /// if it is to be ended.
    pub(crate) fn push_front(&self, waiting: Waiting) -> Result<Option<usize>, Option<Arc<Transfer>>> {
        let mut later = DroppedLater::default();
        let mut state = self.state.lock();
        if let Some(reason) = &state.dead {
            let ended = fail(waiting, reason, &mut later);
            drop(state);
            return Err(ended);
        }
        let blocks = waiting.blocks();
        let queue = &mut state.queues[waiting.op.state.priority as usize];
        let prepared = || queue.iter().take_while(|waiting| waiting.op.state.is_prepared()).count();
        let at = if waiting.op.state.plan().is_some() { 0 } else { prepared() };
        queue.insert(at, waiting);
        Ok(self.added(state, blocks))
    }

    fn added(&self, mut state: MutexGuard<'_, State>, blocks: usize) -> Option<usize> {
        state.blocks += blocks;
        self.waiting.store(state.blocks, Ordering::Release);
        state.wake_one(self.depth)
    }

    /// Claims as many blocks as there is `room` for, of which as many of the lower priority as there is for those, into
    /// `runs`. Ops that need no more work because they were stopped go to `ended`. With `sleep`, a worker that finds
    /// nothing announces that it will block. Also gives another worker to wake, for what this one leaves behind: so one
    /// large op reaches all.
    ///
    /// A write whose route is not open leaves the queue, and comes back to the front of `engine`'s when it is.
    pub(crate) fn claim(
        &self,
        engine: &Arc<Shared>,
        room: [usize; 2],
        runs: &mut Vec<Run>,
        ended: &mut Vec<Arc<Transfer>>,
        worker: usize,
        sleep: bool,
    ) -> (Claim, Option<usize>) {
        // Declared before the lock, so dropped after it.
        let mut later = DroppedLater::default();
        let mut state = self.state.lock();
        state.claims = state.claims.wrapping_add(1);
        let mut left = [room[0], room[1].min(room[0])];
        let mut found = Claim::Nothing;
        // Mostly the normal queue goes first; now and then the other one, so that it never starves.
        let order = if state.claims.is_multiple_of(16) { [1, 0] } else { [0, 1] };
        for class in order {
            while left[class] > 0 {
                let Some(front) = state.queues[class].front_mut() else { break };
                let plan = front.op.state.plan();
                if front.op.state.is_stopped() {
                    let (skipped, planned) = (front.blocks(), plan.is_some());
                    let Some(Waiting { op, pass, .. }) = state.queues[class].pop_front() else { break };
                    later.passes.extend(pass);
                    state.blocks -= skipped;
                    if !planned || op.state.account(skipped, 0) {
                        ended.push(op);
                    } else {
                        later.ops.push(op);
                    }
                    continue;
                }
                let Some(plan) = plan else {
                    if matches!(found, Claim::Blocks) {
                        break;
                    }
                    let Some(Waiting { op, pass, .. }) = state.queues[class].pop_front() else { break };
                    state.blocks -= 1;
                    self.waiting.store(state.blocks, Ordering::Release);
                    // It may take long, and what comes behind it need not wait.
                    state.rooms[worker] = 0;
                    return (Claim::Prepare(op, pass), state.wake_one(self.depth));
                };
                let (next, through_cache) = (front.next, front.through_cache);
                let (mut end, mut pass) = (plan.blocks, None);
                if front.op.state.is_accepted_write() {
                    let (same_route, route) = front.stretch(plan);
                    match front.pass.take().map_or_else(|| front.op.state.try_enter(route), Entered::With) {
                        Entered::Free => {}
                        Entered::With(entered) => (end, pass) = (same_route, Some(entered)),
                        Entered::Busy => {
                            let Some(waiting) = state.queues[class].pop_front() else { break };
                            state.blocks -= waiting.blocks();
                            if let Some(waiting) = wait_for_pass(engine, route, waiting) {
                                state.blocks += waiting.blocks();
                                state.queues[class].push_front(waiting);
                            }
                            continue;
                        }
                    }
                }
                let take = left[class].min(end - next);
                let run = if !through_cache && next + take < plan.blocks {
                    front.next += take;
                    Some(front.op.clone())
                } else {
                    // The last of it: the queue's reference goes with them.
                    state.queues[class].pop_front().map(|waiting| waiting.op)
                };
                state.blocks -= take;
                left = left.map(|room| room.saturating_sub(take));
                runs.extend(run.map(|op| Run::new(op, next..next + take, pass, through_cache)));
                found = Claim::Blocks;
            }
        }
        state.rooms[worker] = left[0];
        if sleep && matches!(found, Claim::Nothing) && ended.is_empty() {
            state.sleeping.push(worker);
            state.rooms[worker] = 0;
        }
        self.waiting.store(state.blocks, Ordering::Release);
        let wake = if matches!(found, Claim::Blocks) { state.wake_one(self.depth) } else { None };
        (found, wake)
    }

    /// The worker is not blocked any more.
    pub(crate) fn awake(&self, worker: usize) {
        self.state.lock().sleeping.retain(|sleeper| *sleeper != worker);
    }

    /// Ops that were ever accepted.
    pub(crate) fn ops(&self) -> u64 {
        self.ops.load(Ordering::Relaxed)
    }

    /// Whether there is something to claim, without the lock.
    pub(crate) fn has_waiting(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Takes an op out that no worker has begun, here or while it waits for its pass; true if it was there. The caller ends it.
    pub(crate) fn remove(&self, op: &Arc<Transfer>) -> bool {
        let mut state = self.state.lock();
        let queue = &mut state.queues[op.state.priority as usize];
        let unbegun = |waiting: &Waiting| waiting.is_unbegun() && Arc::ptr_eq(&waiting.op, op);
        let Some(index) = queue.iter().position(unbegun) else {
            drop(state);
            return op.state.routes().is_some_and(|routes| routes.withdraw(key_of(op)));
        };
        let removed = queue.remove(index);
        state.blocks -= removed.as_ref().map_or(0, Waiting::blocks);
        self.waiting.store(state.blocks, Ordering::Release);
        // Before the pass that it may have.
        drop(state);
        drop(removed);
        true
    }

    /// Ops have ended. True if that was the last of a closed handle, so that its workers can go.
    pub(crate) fn ended(&self, ended: Ended) -> bool {
        let mut state = self.state.lock();
        for (accepted, ended) in state.accepted.iter_mut().zip(ended.accepted) {
            *accepted -= ended;
        }
        state.since.completed += ended.completed;
        ended.unclaimed.into_iter().for_each(|error| state.since.add(error));
        for (epoch, ops) in ended.epochs {
            state.epochs.leave(epoch, ops);
        }
        let finished = state.is_finished();
        drop(state);
        self.state.notify_all();
        finished
    }

    /// A failure that came to light after its op had ended.
    pub(crate) fn unclaimed(&self, error: Error) {
        self.state.lock().since.add(error);
    }

    /// Waits for the ops accepted so far. Gives back how many ended well since the last time, or the failures that
    /// nobody else heard of.
    pub(crate) fn wait(&self) -> Result<usize, Failures> {
        self.drained().since.take()
    }

    /// Waits for the ops accepted so far, and leaves the accounts alone.
    pub(crate) fn drain(&self) {
        drop(self.drained());
    }

    fn drained(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        let epoch = state.epochs.close();
        self.state.wait_until(state, None, |state| state.epochs.is_drained(epoch)).0
    }

    /// Accepts nothing more.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.state.notify_all();
    }

    /// Whether everything that was accepted has ended, and nothing more will come.
    pub(crate) fn is_finished(&self) -> bool {
        self.state.lock().is_finished()
    }

    /// A worker is gone. If it was the last one, all that waits is given out to be failed.
    pub(crate) fn worker_died(&self, worker: usize, reason: &str) -> Vec<Arc<Transfer>> {
        let mut later = DroppedLater::default();
        let mut state = self.state.lock();
        state.workers -= 1;
        state.sleeping.retain(|sleeper| *sleeper != worker);
        state.rooms[worker] = 0;
        if state.workers > 0 {
            return Vec::new();
        }
        state.dead = Some(reason.to_owned());
        state.blocks = 0;
        self.waiting.store(0, Ordering::Release);
        let waiting = state.queues.iter_mut().flat_map(std::mem::take);
        let orphans = waiting.filter_map(|waiting| fail(waiting, reason, &mut later)).collect();
        drop(state);
        self.state.notify_all();
        orphans
    }
}

/// Lets an op come back to the front of `engine`'s queue with its pass; or gives it back with it, if it need not wait any
/// more.
#[cold]
pub(crate) fn wait_for_pass(engine: &Arc<Shared>, route: Route, waiting: Waiting) -> Option<Waiting> {
    let Some(routes) = waiting.op.state.routes() else { return Some(waiting) };
    let engine = engine.clone();
    let later = move |waiting: Waiting, pass| engine.put_back(waiting.with(pass));
    routes
        .enter(route, waiting.is_unbegun().then(|| key_of(&waiting.op)), waiting, later)
        .map(|(waiting, pass)| waiting.with(pass))
}

/// By which an op that waits for a pass, and that no worker has begun, can be withdrawn.
fn key_of(op: &Arc<Transfer>) -> usize {
    Arc::as_ptr(op).addr()
}

/// Fails what is left of an op because no worker is; gives it back if it is to be ended.
fn fail(waiting: Waiting, reason: &str, later: &mut DroppedLater) -> Option<Arc<Transfer>> {
    let left = waiting.op.state.plan().map(|_| waiting.blocks());
    let Waiting { op, pass, .. } = waiting;
    later.passes.extend(pass);
    op.state.fail(u64::MAX, Error::WorkerDied { reason: reason.to_owned() });
    if left.is_none_or(|left| op.state.account(left, 0)) {
        return Some(op);
    }
    later.ops.push(op);
    None
}
