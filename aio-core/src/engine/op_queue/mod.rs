//! The shared queue of ops, and which worker is woken to work on them.
//!
//! Ops wait in one FIFO per priority. A worker claims runs of blocks from the front op by moving a cursor, so one
//! large op spreads over all workers and small ops follow each other without a gap. One lock covers the FIFOs, the
//! workers that sleep and the accounts: it is taken once per batch of blocks, not per block, and it makes the parking
//! protocol plain. A worker announces that it will block under the lock under which it saw that there is nothing to
//! claim; a thread that adds work afterwards sees the announcement.

mod accounts;
mod fifos;
mod queued_op;
mod workers;

use std::sync::Arc;

use crossbeam_utils::CachePadded;

use self::accounts::Accounts;
use self::fifos::Fifos;
use self::workers::Workers;
use crate::engine::transfer::{Priority, Transfer};
use crate::error::{Error, Failures};
use crate::file::routes::Route;
use crate::sync::{AtomicU64, AtomicUsize, MutexGuard, Ordering, ThreadSync};

pub(crate) use self::accounts::EndedOps;
pub(crate) use self::fifos::{Claimed, Found, Wanted};
pub(crate) use self::queued_op::QueuedOp;

/// All ops that wait for workers, and the accounts of what was accepted.
#[derive(Debug)]
pub(crate) struct OpQueue {
    state: ThreadSync<State>,
    /// Blocks in the FIFOs, for workers that spin.
    queued: CachePadded<AtomicUsize>,
    /// Ops accepted ever; written under the lock only.
    ops: AtomicU64,
}

#[derive(Debug)]
struct State {
    fifos: Fifos,
    workers: Workers,
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

impl OpQueue {
    /// A queue for so many workers with I/O queues of this depth; `limit` ops of each priority may be pending.
    pub(crate) fn new(workers: usize, depth: usize, limit: usize) -> Self {
        let state =
            State { fifos: Fifos::default(), workers: Workers::new(workers, depth), accounts: Accounts::new(limit) };
        Self { state: ThreadSync::new(state), queued: CachePadded::new(AtomicUsize::new(0)), ops: AtomicU64::new(0) }
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
                WhenFull::Wait => state = self.state.wait_until(state, None, is_settled).0,
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

    /// Accepts an op and puts it at the end of its FIFO. Returns a worker to wake. `accepted` runs in between, under the
    /// lock: a write counts for syncs from then on, and not while it waits for room that a sync may have.
    pub(crate) fn push(
        &self,
        op: &Arc<Transfer>,
        when_full: WhenFull,
        accepted: impl FnOnce(),
    ) -> Result<Option<usize>, Error> {
        let (mut state, epoch) = self.accept_locked(op.state.options.priority, when_full)?;
        op.state.epoch.store(epoch, Ordering::Release);
        accepted();
        state.fifos.push_back(QueuedOp::new(op.clone()));
        Ok(self.wake_for_added(state))
    }

    /// Puts an op that was accepted before at the front; but if it is not prepared, because too many files are open,
    /// behind those that are and so may hold them. Returns a worker to wake. The caller keeps nothing of the op: the
    /// thread that ends it closes its file, and has to be the last to hold it. If no worker is left, the op fails;
    /// `Err` has it if it is to be ended.
    pub(crate) fn push_front(&self, queued: QueuedOp) -> Result<Option<usize>, Option<Arc<Transfer>>> {
        let mut state = self.state.lock();
        if let Some(reason) = state.workers.dead().map(str::to_owned) {
            drop(state);
            return Err(queued.fail(&reason));
        }
        state.fifos.push_front(queued);
        Ok(self.wake_for_added(state))
    }

    fn wake_for_added(&self, mut state: MutexGuard<'_, State>) -> Option<usize> {
        self.publish(&state);
        let queued = state.fifos.blocks();
        state.workers.wake_for(queued)
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
        wait_for_route: impl FnMut(Route, QueuedOp) -> Option<QueuedOp>,
    ) -> Found {
        let mut state = self.state.lock();
        let State { fifos, workers, .. } = &mut *state;
        claimed.begin(wanted);
        let mut found = fifos.claim(claimed, wait_for_route);
        // To prepare an op may take long, and what comes behind it need not wait.
        let room = if let Found::Unprepared(..) = found { 0 } else { claimed.room() };
        workers.set_room(wanted.worker, room);
        if !matches!(found, Found::Nothing) {
            claimed.wake = workers.wake_for(fifos.blocks());
        } else if wanted.sleep && !claimed.has_stopped() {
            workers.sleep(wanted.worker);
            found = Found::Asleep;
        }
        self.publish(&state);
        found
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
        let removed = state.fifos.remove(op);
        self.publish(&state);
        drop(state);
        // With the permit that it may have, not to be dropped under the lock: an op that waits for it comes back here.
        removed.is_some()
    }

    /// Ops have ended. True if that was the last of a closed handle, so that its workers can go.
    pub(crate) fn ops_ended(&self, ended: EndedOps) -> bool {
        let mut state = self.state.lock();
        state.accounts.end(ended);
        let finished = state.accounts.is_finished();
        drop(state);
        self.state.notify_all();
        finished
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
        let orphans = std::mem::take(&mut state.fifos);
        self.publish(&state);
        drop(state);
        self.state.notify_all();
        orphans.into_ops().filter_map(|queued| queued.fail(reason)).collect()
    }
}
