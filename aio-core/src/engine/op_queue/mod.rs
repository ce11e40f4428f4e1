//! The shared queue of ops, and which worker is woken to work on them.
//!
//! Ops wait in one FIFO per priority. A worker claims runs of blocks from the front op by moving a cursor, so one
//! large op spreads over all workers and small ops follow each other without a gap. One lock covers the FIFOs, the
//! workers that sleep and the accounts: it is taken once per batch of blocks, not per block, and it makes the parking
//! protocol plain. A worker announces that it will block under the lock under which it saw that there is nothing to
//! claim; a thread that adds work afterwards sees the announcement.
//!
//! Ops that are [copies](crate::engine::copiers) wait in FIFOs of their own, for copiers, under the same lock; so do
//! those by path, until a copier or a worker with nothing else to do prepares them.

mod accounts;
mod copiers;
mod fifos;
mod queued_op;
mod workers;

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crossbeam_utils::CachePadded;

use self::accounts::Accounts;
use self::copiers::{Another, Copiers, Holding};
use self::fifos::Fifos;
use self::workers::Workers;
use crate::engine::open_paths::OpenPaths;
use crate::engine::transfer::{Priority, Transfer};
use crate::error::{Error, Failures};
use crate::file::routes::Route;
use crate::sync::{AtomicU64, AtomicUsize, Condvar, MutexGuard, Ordering, ThreadSync};

pub(crate) use self::accounts::EndedOps;
pub(crate) use self::fifos::{Claimed, Found, Wanted};
pub(crate) use self::queued_op::QueuedOp;

/// About how many bytes a copier claims at once: little enough that a large op spreads over all of them.
const COPIED_AT_ONCE: u64 = 256 << 10;

/// When a copier looks again that finds that threads take back what they submit. The longest that an op waits that is
/// the only one and is not taken back.
const WATCH: Duration = Duration::from_micros(250);

/// Most files that are opened beyond what workers and copiers have use for at once. A copier opens so many in a row.
const GO_ON_WITH: usize = 32;

/// All ops that wait for workers or copiers, and the accounts of what was accepted.
#[derive(Debug)]
pub(crate) struct OpQueue {
    state: ThreadSync<State>,
    /// Copiers sleep on it, with the lock of `state`.
    copies_added: Condvar,
    /// Blocks in the FIFOs, for workers that spin.
    queued: CachePadded<AtomicUsize>,
    /// Ops accepted ever; written under the lock only.
    ops: AtomicU64,
    /// Ops by path that hold a file.
    pub(crate) open_paths: OpenPaths,
}

#[derive(Debug)]
struct State {
    fifos: Fifos,
    /// Ops for copiers.
    copies: Fifos,
    /// Ops by path, to be prepared: those that may make their file, and others.
    creations: Fifos,
    paths: Fifos,
    /// Claims of copiers.
    claims: usize,
    workers: Workers,
    copiers: Copiers,
    accounts: Accounts,
}

/// What a full queue does with a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// The caller waits for room.
    Wait,
    Refuse,
    /// The op is accepted beyond the limit.
    Exceed,
}

/// Who is to work on what is in the queue; the caller sees to it.
#[derive(Debug)]
#[must_use]
pub(crate) struct Helpers {
    /// A worker to wake.
    pub(crate) worker: Option<usize>,
    /// A copier to [start](Shared::start_copier).
    pub(crate) new_copier: bool,
}

impl State {
    fn push_back(&mut self, queued: QueuedOp) {
        let fifos = match () {
            () if !self.copiers.exist() => &mut self.fifos,
            () if queued.is_copy() => &mut self.copies,
            () if queued.makes_file() => &mut self.creations,
            () if queued.op().state.is_by_path() => &mut self.paths,
            () => &mut self.fifos,
        };
        fifos.push_back(queued);
    }

    /// A copy that a worker has prepared waits behind others, as those that are prepared later would otherwise go
    /// first.
    fn push_front(&mut self, queued: QueuedOp) {
        match queued.is_copy() && self.copiers.exist() {
            true if queued.has_permit() => self.copies.push_front(queued),
            true => self.copies.push_back(queued),
            // It found no descriptor, and those that find none later must not go before it.
            false if self.copiers.exist() && queued.op().state.is_by_path() && !queued.may_hold_file() => {
                self.fifos.push_back(queued);
            }
            false => self.fifos.push_front(queued),
        }
    }

    /// How many ops are to be prepared now.
    fn unprepared(&self) -> usize {
        self.paths.blocks() + if self.copiers.may_make_file() { self.creations.blocks() } else { 0 }
    }

    /// Blocks for workers. Copiers may all be at work; then workers see to what is to be prepared.
    fn for_workers(&self) -> usize {
        self.fifos.blocks() + if self.copiers.are_all_awake() { self.unprepared() } else { 0 }
    }

    /// The FIFOs of ops that wait for copiers.
    fn all_for_copiers(&mut self) -> [&mut Fifos; 3] {
        [&mut self.copies, &mut self.creations, &mut self.paths]
    }

    fn all(&mut self) -> [&mut Fifos; 4] {
        [&mut self.fifos, &mut self.copies, &mut self.creations, &mut self.paths]
    }
}

impl OpQueue {
    /// A queue for so many workers with I/O queues of this depth, and at most so many copiers; `limit` ops of each
    /// priority may be pending.
    pub(crate) fn new(workers: usize, depth: usize, copiers: usize, limit: usize) -> Self {
        let state = State {
            fifos: Fifos::default(),
            copies: Fifos::default(),
            creations: Fifos::default(),
            paths: Fifos::default(),
            claims: 0,
            workers: Workers::new(workers, depth),
            copiers: Copiers::new(copiers),
            accounts: Accounts::new(limit),
        };
        Self {
            state: ThreadSync::new(state),
            copies_added: Condvar::new(),
            queued: CachePadded::new(AtomicUsize::new(0)),
            ops: AtomicU64::new(0),
            open_paths: OpenPaths::default(),
        }
    }

    /// Takes responsibility for an op that is not queued here: returns its epoch. Every op accepted
    /// [ends](Self::ops_ended) exactly once.
    pub(crate) fn accept(&self, priority: Priority, when_full: WhenFull) -> Result<u64, Error> {
        self.accept_locked(priority, when_full).map(|(_, epoch)| epoch)
    }

    fn accept_locked(&self, priority: Priority, when_full: WhenFull) -> Result<(MutexGuard<'_, State>, u64), Error> {
        let is_settled = |state: &mut State| state.workers.dead().is_some() || !state.accounts.makes_wait(priority);
        let mut state = self.state.lock();
        if !is_settled(&mut state) {
            match when_full {
                WhenFull::Wait => {
                    state.accounts.waiting_for_room += 1;
                    state = self.state.wait_until(state, None, is_settled).0;
                    state.accounts.waiting_for_room -= 1;
                }
                WhenFull::Refuse => return Err(Error::QueueFull { limit: state.accounts.limit }),
                WhenFull::Exceed => {}
            }
        }
        if state.accounts.closed {
            return Err(Error::Closed);
        }
        if let Some(reason) = state.workers.dead() {
            return Err(Error::WorkerDied { reason: reason.to_owned() });
        }
        // Under the lock, so no other thread adds to it.
        self.ops.store(self.ops.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let epoch = state.accounts.accept(priority);
        Ok((state, epoch))
    }

    /// Accepts an op and puts it at the end of its FIFO. `accepted` runs in between, under the lock: a write counts for
    /// syncs from then on, and not while it waits for room that a sync may have.
    pub(crate) fn push(
        &self,
        op: &Arc<Transfer>,
        when_full: WhenFull,
        accepted: impl FnOnce(),
    ) -> Result<Helpers, Error> {
        let (mut state, epoch) = self.accept_locked(op.state.options.priority, when_full)?;
        op.state.epoch.store(epoch, Ordering::Release);
        accepted();
        let is_first = state.all_for_copiers().iter().all(|fifos| fifos.blocks() == 0);
        state.push_back(QueuedOp::new(op.clone()));
        if is_first && state.copiers.are_watching() && op.is_for_waiter() {
            return Ok(Helpers { worker: None, new_copier: false });
        }
        Ok(self.helpers(state))
    }

    /// Puts an op that was accepted before at the front; but if it is not prepared, because too many files are open, at
    /// the end, behind those that may hold them. The caller keeps nothing of the op: the thread that ends it closes
    /// its file, and has to be the last to hold it. If no worker is left, the op fails; `Err` has it if it is to be
    /// ended.
    pub(crate) fn push_front(&self, queued: QueuedOp) -> Result<Helpers, Option<Arc<Transfer>>> {
        self.push_again(queued, State::push_front)
    }

    /// As [`push_front`](Self::push_front), of an op that a copier, or the thread that waits for it, has prepared: a
    /// copy is claimed next, by this or another copier, and any other by workers, in the order of preparation.
    pub(crate) fn push_prepared(&self, queued: QueuedOp) -> Result<Helpers, Option<Arc<Transfer>>> {
        self.push_again(queued, |state, queued| match queued.is_copy() {
            true if state.copiers.exist() => state.copies.push_front(queued),
            _ => state.fifos.push_behind_prepared(queued),
        })
    }

    fn push_again(
        &self,
        queued: QueuedOp,
        push: impl FnOnce(&mut State, QueuedOp),
    ) -> Result<Helpers, Option<Arc<Transfer>>> {
        let mut state = self.state.lock();
        if let Some(reason) = state.workers.dead().map(str::to_owned) {
            drop(state);
            return Err(queued.fail(&reason));
        }
        push(&mut state, queued);
        Ok(self.helpers(state))
    }

    /// Those for what is in the queue now: it was added, or others may claim it by now.
    fn helpers(&self, state: MutexGuard<'_, State>) -> Helpers {
        let open = state.workers.capacity() + state.copiers.most();
        self.helpers_up_to(open, state)
    }

    /// As [`helpers`](Self::helpers), but for ops by path only if fewer than `open` files are.
    fn helpers_up_to(&self, open: usize, mut state: MutexGuard<'_, State>) -> Helpers {
        self.publish(&state);
        let queued = state.for_workers();
        Helpers { worker: state.workers.wake_for(queued), new_copier: self.call_copier(open, state) }
    }

    /// Brings one more copier to work, if there is something for it: ops by path, if fewer than `open` files are. True if
    /// it is to be started. The lock is free when a copier is woken, which would wait for it.
    fn call_copier(&self, open: usize, mut state: MutexGuard<'_, State>) -> bool {
        let may_open = self.open_paths.count() < open;
        let State { copiers, copies, creations, paths, .. } = &mut *state;
        let another = copiers.another(|copiers| {
            let may_claim = |queued: &QueuedOp| copiers.may_claim(queued);
            copies.has_any(may_claim)
                || may_open && (paths.has_any(may_claim) || copiers.may_make_file() && creations.has_any(may_claim))
        });
        drop(state);
        if another == Another::Sleeping {
            self.copies_added.notify_one();
        }
        another == Another::New
    }

    /// Whether the file of an op by path may be opened: as long as ops hold no more files than workers and copiers have
    /// use for at once, and a few to go on with.
    fn may_open(&self, state: &State) -> bool {
        let capacity = state.workers.capacity();
        self.open_paths.count() < capacity + capacity.min(GO_ON_WITH) + state.copiers.most()
    }

    /// Tells workers that spin how many blocks there are.
    fn publish(&self, state: &State) {
        self.queued.store(state.fifos.blocks(), Ordering::Release);
    }

    /// Claims what a worker wants, into `claimed`, which also gets another worker to wake for what this one leaves
    /// behind: so one large op reaches all. The caller wakes that one, then [gives up](Claimed::give_up_stopped) the
    /// ops that were stopped.
    ///
    /// A write whose route is not open leaves the queue for `wait_for_route`, which runs under the lock, so that no
    /// other write of the inode enters in between; it gives the op back if the route is open now.
    pub(crate) fn claim(
        &self,
        wanted: Wanted,
        claimed: &mut Claimed,
        mut wait_for_route: impl FnMut(Route, QueuedOp) -> Option<QueuedOp>,
    ) -> Found {
        let mut state = self.state.lock();
        let may_open = self.may_open(&state);
        let State { fifos, paths, creations, copiers, .. } = &mut *state;
        claimed.begin(wanted);
        let mut found = Found::Nothing;
        for (may_claim, fifos) in [(true, fifos), (may_open, paths), (may_open && copiers.may_make_file(), creations)]
        {
            if may_claim && matches!(found, Found::Nothing) && !claimed.has_stopped() {
                found = fifos.claim(claimed, |_| true, &mut wait_for_route);
            }
        }
        // To prepare an op may take long, and what comes behind it need not wait.
        let room = if let Found::Unprepared(..) = found { 0 } else { claimed.room() };
        state.workers.set_room(wanted.worker, room);
        if !matches!(found, Found::Nothing) {
            let queued = state.for_workers();
            claimed.wake = state.workers.wake_for(queued);
        } else if wanted.sleep && !claimed.has_stopped() {
            state.workers.sleep(wanted.worker);
            found = Found::Asleep;
        }
        self.publish(&state);
        let open = state.workers.capacity() + state.copiers.most();
        claimed.new_copier = self.call_copier(open, state);
        found
    }

    /// Waits for copies, or an op to be prepared, and claims some, as [`claim`](Self::claim) does for workers; also
    /// says who is to help. Nothing if no more will come. A copier keeps `held` from one claim
    /// to the next: by then it has let go of what it had from the one before.
    pub(crate) fn claim_copies(
        &self,
        held: &mut Option<Holding>,
        claimed: &mut Claimed,
        mut wait_for_route: impl FnMut(Route, QueuedOp) -> Option<QueuedOp>,
    ) -> Option<(Found, Helpers)> {
        let mut state = self.state.lock();
        if let Some(held) = held.take() {
            state.copiers.let_go(held);
            if state.copiers.waiting > 0 {
                self.state.notify_all();
            }
        }
        loop {
            let may_open = self.may_open(&state);
            let State { copies, paths, creations, copiers, claims, .. } = &mut *state;
            *claims = claims.wrapping_add(1);
            claimed.begin_by_bytes(COPIED_AT_ONCE);
            // What is prepared mostly goes first; now and then the others, in turns, so that none starves.
            let mut order = [(true, copies), (may_open, paths), (may_open && copiers.may_make_file(), creations)];
            if (*claims / 4).is_multiple_of(2) {
                order.swap(1, 2);
            }
            if claims.is_multiple_of(4) {
                order.rotate_left(1);
            }
            let mut found = Found::Nothing;
            for (may_claim, fifos) in order {
                if may_claim && matches!(found, Found::Nothing) && !claimed.has_stopped() {
                    found = fifos.claim(claimed, |queued| copiers.may_claim(queued), &mut wait_for_route);
                }
            }
            let unprepared = if let Found::Unprepared(op, _) = &found { Some(&**op) } else { None };
            if unprepared.is_some() || !claimed.runs.is_empty() || claimed.has_stopped() {
                *held = Some(copiers.hold(&claimed.runs, unprepared));
                return Some((found, self.helpers(state)));
            }
            if state.accounts.is_finished() {
                return None;
            }
            let watches = state.copiers.sleep();
            state = match watches {
                true => self.state.wait_for(&self.copies_added, state, WATCH),
                false => self.copies_added.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
            state.copiers.awake(watches);
        }
    }

    /// A copier has copied what it claimed, and is about to run callbacks. Says who is to work on what had to wait for it.
    pub(crate) fn copied(&self, held: &mut Option<Holding>) -> Option<Helpers> {
        let held = held.as_mut().filter(|held| held.excludes_others())?;
        let mut state = self.state.lock();
        state.copiers.copied(held);
        Some(self.helpers(state))
    }

    /// A copier could not be started. Where there is none, workers make the copies; gives one to wake.
    pub(crate) fn copier_not_started(&self) -> Option<usize> {
        let mut state = self.state.lock();
        state.copiers.not_started();
        if !state.copiers.exist() {
            let ops = state.all_for_copiers().map(std::mem::take);
            for queued in ops.into_iter().flat_map(Fifos::into_ops) {
                state.fifos.push_back(queued);
            }
        }
        // None is to be started: there are as many as there can be.
        self.helpers(state).worker
    }

    /// Waits until every copier has let go of what it holds now.
    pub(crate) fn wait_for_copiers(&self) {
        let mut state = self.state.lock();
        let claims = state.copiers.claims.close();
        state.copiers.waiting += 1;
        state = self.state.wait_until(state, None, |state| state.copiers.claims.is_drained(claims)).0;
        state.copiers.waiting -= 1;
    }

    /// The worker is not blocked any more.
    pub(crate) fn awake(&self, worker: usize) {
        self.state.lock().workers.awake(worker);
    }

    /// Ops that were ever accepted.
    pub(crate) fn ops(&self) -> u64 {
        self.ops.load(Ordering::Relaxed)
    }

    /// Whether there is something to claim, without the lock.
    pub(crate) fn has_queued(&self) -> bool {
        self.queued.load(Ordering::Acquire) > 0
    }

    /// Takes an op out that no worker has begun; true if it was there. The caller ends it.
    pub(crate) fn remove(&self, op: &Arc<Transfer>) -> bool {
        let mut state = self.state.lock();
        let removed = state.all().into_iter().find_map(|fifos| fifos.remove(op));
        self.publish(&state);
        drop(state);
        // With the permit that it may have, not to be dropped under the lock: an op that waits for it comes back here.
        removed.is_some()
    }

    /// Takes a read out that waits for copiers, near the front, and that no thread has begun.
    pub(crate) fn take_for_waiter(&self, op: &Arc<Transfer>) -> Option<QueuedOp> {
        let mut state = self.state.lock();
        let taken = state.copies.take_near_front(op).or_else(|| state.paths.take_near_front(op))?;
        state.copiers.taken_back();
        Some(taken)
    }

    /// Ops have ended, and closed their files. Says whether that was the last of a closed handle, so that its workers
    /// can go, and who may open a file now.
    pub(crate) fn ops_ended(&self, ended: EndedOps) -> (bool, Helpers) {
        let mut state = self.state.lock();
        let has_room = state.accounts.end(ended);
        let finished = state.accounts.is_finished();
        let wakes = has_room || finished || self.state.waiters() > state.accounts.waiting_for_room;
        // A copier that prepares goes on until enough files are open. If another came whenever an op ends, each would find
        // one file to open.
        let (capacity, most) = (state.workers.capacity(), state.copiers.most());
        let open = if state.copiers.prepare() { most.max(capacity / 2) } else { capacity + most };
        let helpers = self.helpers_up_to(open, state);
        if wakes {
            self.state.notify_all();
        }
        if finished {
            self.copies_added.notify_all();
        }
        (finished, helpers)
    }

    /// A failure that came to light after its op had ended: the next [`wait`](Self::wait) reports it.
    pub(crate) fn add_failure(&self, error: Error) {
        self.state.lock().accounts.report.add(error);
    }

    /// Waits for the ops accepted so far. Gives back how many ended well since the last time, or the failures that no
    /// ticket reports.
    pub(crate) fn wait(&self) -> Result<usize, Failures> {
        self.drained().accounts.report.take()
    }

    /// Waits for the ops accepted so far, and leaves the accounts alone.
    pub(crate) fn drain(&self) {
        drop(self.drained());
    }

    fn drained(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        let epoch = state.accounts.epochs.close();
        self.state.wait_until(state, None, |state| state.accounts.epochs.is_drained(epoch)).0
    }

    /// Accepts nothing more.
    pub(crate) fn close(&self) {
        self.state.lock().accounts.closed = true;
        self.state.notify_all();
        self.copies_added.notify_all();
    }

    /// Whether everything that was accepted has ended, and nothing more will come.
    pub(crate) fn is_finished(&self) -> bool {
        self.state.lock().accounts.is_finished()
    }

    /// A worker is gone. If it was the last one, all queued ops fail; gives those that are to be ended.
    pub(crate) fn worker_died(&self, worker: usize, reason: &str) -> Vec<Arc<Transfer>> {
        let mut state = self.state.lock();
        if !state.workers.died(worker, reason) {
            return Vec::new();
        }
        let orphans = state.all().map(std::mem::take);
        self.publish(&state);
        drop(state);
        self.state.notify_all();
        orphans.into_iter().flat_map(Fifos::into_ops).filter_map(|queued| queued.fail(reason)).collect()
    }
}
