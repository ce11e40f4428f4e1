//! How ops get into the op queue, and out of it: submission, what comes back to the front, claims, cancels.

use std::sync::Arc;

use crate::engine::op_queue::{Claimed, Found, Helpers, QueuedOp, Wanted, WhenFull};
use crate::engine::op_state::OpState;
use crate::engine::promise::Promise;
use crate::engine::transfer::{Op, OpOptions, Transfer};
use crate::engine::{Shared, prepare};
use crate::error::Result;
use crate::file::routes::Route;
use crate::op::desc::{IoOpDesc, Target};

impl Shared {
    /// An op with this descriptor, planned if that is easy.
    pub(crate) fn op<D: IoOpDesc>(&self, desc: D, promise: Promise, options: OpOptions) -> Arc<Op<D>> {
        let plan = prepare::plan_if_easy(self, &desc, options.validate);
        let mut state = OpState::new(promise, options, plan);
        if let Target::Path(_, mode) = desc.target() {
            state = state.by_path(*mode);
        }
        Arc::new(Op { state, desc })
    }

    /// Takes an op in. An error means that it was not accepted and nothing of it was done.
    pub(crate) fn submit<D: IoOpDesc + 'static>(
        self: &Arc<Self>,
        op: &Arc<Op<D>>,
        when_full: WhenFull,
    ) -> Result<()> {
        let op: Arc<Transfer> = op.clone();
        self.submit_transfer(op, when_full)
    }

    pub(crate) fn submit_transfer(self: &Arc<Self>, op: Arc<Transfer>, when_full: WhenFull) -> Result<()> {
        self.check_process()?;
        prepare::check(&op)?;
        let file = prepare::file_to_write(&op);
        let accepted = || file.iter().for_each(|file| prepare::accept(&op, file));
        let helpers = self.op_queue.push(&op, self.on_this_thread(when_full), accepted)?;
        self.call(helpers);
        Ok(())
    }

    /// A worker that waited for room would wait for itself.
    pub(super) fn on_this_thread(&self, when_full: WhenFull) -> WhenFull {
        if when_full == WhenFull::Wait && self.on_worker() { WhenFull::Refuse } else { when_full }
    }

    /// Claims work for a worker.
    pub(crate) fn claim(self: &Arc<Self>, wanted: Wanted, claimed: &mut Claimed) -> Found {
        let found = self.op_queue.claim(wanted, claimed, |route, queued| self.wait_for_route(route, queued));
        self.wake(claimed.wake.take());
        if std::mem::take(&mut claimed.new_copier) {
            self.start_copier();
        }
        claimed.give_up_stopped();
        found
    }

    /// Puts an op that a worker has in hand back to the front of its FIFO, where all workers can get at it.
    pub(super) fn requeue(self: &Arc<Self>, op: Arc<Transfer>) {
        self.push_front(QueuedOp::new(op));
    }

    /// As [`requeue`](Self::requeue), once the op may go through the page cache, and with a permit for that.
    pub(super) fn requeue_with_permit(self: &Arc<Self>, op: Arc<Transfer>) {
        if let Some(queued) = self.wait_for_route(Route::Cached, QueuedOp::new(op)) {
            self.push_front(queued);
        }
    }

    /// Puts one block of an op back to the front, to be done again through the page cache.
    pub(super) fn requeue_through_cache(self: &Arc<Self>, op: Arc<Transfer>, block: usize) {
        self.push_front(QueuedOp::block_through_cache(op, block));
    }

    fn push_front(self: &Arc<Self>, queued: QueuedOp) {
        self.pushed(self.op_queue.push_front(queued));
    }

    /// Puts an op that was prepared by another thread than a worker where workers or copiers claim it next.
    pub(super) fn push_prepared(self: &Arc<Self>, queued: QueuedOp) {
        self.pushed(self.op_queue.push_prepared(queued));
    }

    fn pushed(self: &Arc<Self>, pushed: Result<Helpers, Option<Arc<Transfer>>>) {
        match pushed {
            Ok(helpers) => self.call(helpers),
            Err(op) => {
                // No worker is left, and this may be a user's thread: as in `cancel`.
                let _on_worker = self.enter_worker();
                self.end(op);
            }
        }
    }

    /// Brings those to work that are to work on what was added.
    pub(super) fn call(self: &Arc<Self>, helpers: Helpers) {
        self.wake(helpers.worker);
        if helpers.new_copier {
            self.start_copier();
        }
    }

    /// Lets an op come back to the front with its permit when its route is open. If it need not wait, gives it back,
    /// with its permit if it has to have one.
    #[cold]
    pub(super) fn wait_for_route(self: &Arc<Self>, route: Route, queued: QueuedOp) -> Option<QueuedOp> {
        let Some(routes) = queued.op().state.routes() else { return Some(queued) };
        let key = queued.is_unbegun().then(|| withdrawal_key(queued.op()));
        let engine = self.clone();
        let then = move |queued: QueuedOp, permit| engine.push_front(queued.with(permit));
        routes.enter(route, key, queued, then).map(|(queued, permit)| queued.with(permit))
    }

    /// Asks an op to stop. One that no worker has begun ends at once, on this thread.
    pub(crate) fn cancel(self: &Arc<Self>, op: &Arc<Transfer>) {
        op.state.cancel();
        if self.op_queue.remove(op) || withdraw(op) {
            // Its callbacks run here, and must no more wait for the engine than on a worker.
            let _on_worker = self.enter_worker();
            self.end([op.clone()]);
        }
    }
}

/// Takes back an op that waits for its route and that no worker has begun; true if it was there. An op that a claim
/// moved there is found, since the claim did so under the queue's lock.
fn withdraw(op: &Arc<Transfer>) -> bool {
    op.state.routes().is_some_and(|routes| routes.withdraw(withdrawal_key(op)))
}

/// By which an op that waits for its route can be withdrawn.
fn withdrawal_key(op: &Arc<Transfer>) -> usize {
    Arc::as_ptr(op).addr()
}
