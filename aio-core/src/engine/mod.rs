//! The engine: generic over backends, it knows of I/O only what [`crate::backend`] says.
//!
//! [`Shared`] is what everybody holds: users through a handle, tickets, worker threads. It has no reference to the
//! threads, so it can be held for as long as anybody likes.

mod completion;
pub(crate) mod file_jobs;
mod file_tasks;
mod finish;
mod in_flight;
#[cfg(all(test, loom))]
mod models;
mod new_edges;
#[cfg(test)]
mod no_queues;
pub(crate) mod on_caller;
pub(crate) mod op_queue;
mod prepare;
pub(crate) mod promise;
mod registered;
pub(crate) mod running;
mod staging;
mod system_call;
pub(crate) mod transfer;
pub(crate) mod worker;

use std::sync::Arc;
use std::time::Instant;

use crate::backend::IoBackend;
use crate::config::AioConfig;
use crate::error::{Error, Result};
use crate::file::routes::Route;
use crate::file::slots::FileTable;
use crate::inbox::Inbox;
use crate::memory::Arena;
use crate::op::desc::IoOpDesc;
use crate::process::Generation;
use crate::stats::Counters;
use crate::sync::{AtomicBool, Ordering, thread};
use crate::threads::{OnWorker, on_any_worker};

pub(crate) use self::file_tasks::{FileCommand, FileOp, FileOps};
use self::on_caller::Bounce;
use self::prepare::Paths;
use self::promise::Promise;
use self::transfer::{Op, OpOptions, OpState, Transfer};

use self::op_queue::{Full, Waiting, Work, wait_for_pass};

/// Slots in each queue's table of registered files.
pub(crate) const FILE_SLOTS: u32 = 1024;
/// Slots in each queue's table of registered regions; the most the kernel takes.
pub(crate) const REGION_SLOTS: u32 = 16384;

/// How often a thread steps aside for others on its only CPU before it sleeps.
const YIELDS: u32 = 2;

/// What users, tickets and workers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) backend: Arc<dyn IoBackend>,
    pub(crate) config: AioConfig,
    pub(crate) arena: Arena,
    pub(crate) bounce: Bounce,
    pub(crate) work: Work,
    pub(crate) counters: Counters,
    pub(crate) inboxes: Arc<[Inbox]>,
    pub(crate) files: Arc<FileTable>,
    pub(crate) file_ops: FileOps,
    pub(crate) paths: Paths,
    made_in: Generation,
    /// Spinning makes sense: the thread waited for may run on another CPU, and workers that look for something to do do
    /// not keep others from doing it.
    pub(crate) may_spin: bool,
    closed: AtomicBool,
}

impl Shared {
    pub(crate) fn new(backend: Arc<dyn IoBackend>, config: AioConfig) -> Arc<Self> {
        let workers = config.intra_op_parallelism;
        let inboxes: Arc<[Inbox]> = (0..workers).map(|_| Inbox::default()).collect();
        let slots = if config.register_files { FILE_SLOTS } else { 0 };
        let arena = config.arena_limit.map_or_else(Arena::of_process, Arena::new);
        Arc::new(Self {
            bounce: Bounce::new(arena.clone(), config.block_size),
            arena,
            work: Work::new(workers, config.queue_depth, config.max_pending_ops),
            counters: Counters::default(),
            files: FileTable::new(inboxes.clone(), slots),
            inboxes,
            file_ops: FileOps::default(),
            paths: Paths::default(),
            made_in: Generation::now(),
            may_spin: std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1 && cpus.get() >= workers),
            closed: AtomicBool::new(false),
            backend,
            config,
        })
    }

    /// An error in a forked child, whose engine stayed with the parent.
    pub(crate) fn check_process(&self) -> Result<()> {
        if self.is_forked() { Err(Error::Forked) } else { Ok(()) }
    }

    pub(crate) fn is_forked(&self) -> bool {
        self.made_in.is_forked()
    }

    /// An error once the handle is closed, or in a forked child.
    pub(crate) fn check_open(&self) -> Result<()> {
        self.check_process()?;
        if self.closed.load(Ordering::Acquire) { Err(Error::Closed) } else { Ok(()) }
    }

    /// Accepts nothing more; the workers go when all that was accepted has ended.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.work.close();
        self.wake_all();
        self.file_ops.wake_all();
    }

    /// Spins for as long as waking another thread would take; true if `ready` came true meanwhile.
    pub(crate) fn spin_until(&self, deadline: Option<Instant>, ready: impl Fn() -> bool) -> bool {
        if self.config.spin.is_zero() {
            return ready();
        }
        if !self.may_spin {
            // Fewer CPUs than threads: what is waited for runs if this thread steps aside, and then nobody has to be woken.
            for _ in 0..YIELDS {
                if ready() {
                    return true;
                }
                if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    return false;
                }
                thread::yield_now();
            }
            return ready();
        }
        let end = Instant::now() + self.config.spin;
        let end = deadline.map_or(end, |deadline| deadline.min(end));
        loop {
            if ready() {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            std::hint::spin_loop();
        }
    }

    /// Marks the current thread as one that completes ops of this engine.
    pub(crate) fn enter_worker(&self) -> OnWorker {
        OnWorker::of(std::ptr::from_ref(self).addr())
    }

    /// Whether the current thread completes ops of this engine, and so must not wait for one.
    pub(crate) fn on_worker(&self) -> bool {
        OnWorker::is_of(std::ptr::from_ref(self).addr())
    }

    /// An error where waiting for the threads of the engine could wait for itself: on a worker of any engine, since two
    /// that wait for each other's threads would never end.
    pub(crate) fn check_may_join(&self) -> Result<()> {
        self.check_process()?;
        if on_any_worker() { Err(Error::WaitOnWorker) } else { Ok(()) }
    }

    /// An error where waiting would wait for itself.
    pub(crate) fn check_may_wait(&self) -> Result<()> {
        self.check_process()?;
        if self.on_worker() { Err(Error::WaitOnWorker) } else { Ok(()) }
    }

    /// An op with this descriptor, planned if that is easy.
    pub(crate) fn op<D: IoOpDesc>(&self, desc: D, promise: Promise, options: OpOptions) -> Arc<Op<D>> {
        let plan = prepare::plan_if_easy(self, &desc, options.validate);
        Arc::new(Op { state: OpState::new(promise, options, plan), desc })
    }

    /// Takes an op in. An error means that it was not accepted and nothing of it was done.
    pub(crate) fn submit<D: IoOpDesc + 'static>(self: &Arc<Self>, op: &Arc<Op<D>>, full: Full) -> Result<()> {
        let op: Arc<Transfer> = op.clone();
        self.submit_transfer(op, full)
    }

    pub(crate) fn submit_transfer(self: &Arc<Self>, op: Arc<Transfer>, full: Full) -> Result<()> {
        self.check_process()?;
        prepare::check(&op)?;
        let full = self.on_this_thread(full);
        let file = prepare::file_to_write(&op);
        let wake = self.work.push(&op, full, || file.iter().for_each(|file| prepare::accept(&op, file)))?;
        self.wake(wake);
        Ok(())
    }

    /// A worker that waited for room would wait for itself.
    fn on_this_thread(&self, full: Full) -> Full {
        if full == Full::Wait && self.on_worker() { Full::Refuse } else { full }
    }

    /// Puts an op that a worker has in hand back to the front of its queue, where all workers can get at it.
    fn requeue(self: &Arc<Self>, op: Arc<Transfer>) {
        self.put_back(Waiting::new(op));
    }

    /// Puts what is left of an op back to the front of its queue.
    pub(crate) fn put_back(self: &Arc<Self>, waiting: Waiting) {
        match self.work.push_front(waiting) {
            Ok(worker) => self.wake(worker),
            Err(op) => self.end(op),
        }
    }

    /// As [`put_back`](Self::put_back), once it may go through the page cache.
    fn put_back_with_pass(self: &Arc<Self>, waiting: Waiting) {
        if let Some(waiting) = wait_for_pass(self, Route::Cached, waiting) {
            self.put_back(waiting);
        }
    }

    fn wake(&self, worker: Option<usize>) {
        if let Some(inbox) = worker.and_then(|worker| self.inboxes.get(worker)) {
            inbox.wake();
        }
    }

    /// Wakes every worker, to look at a change that concerns them all.
    pub(crate) fn wake_all(&self) {
        self.inboxes.iter().for_each(Inbox::wake);
    }

    /// Asks an op to stop. One that nobody has begun ends at once, on this thread.
    pub(crate) fn cancel(self: &Arc<Self>, op: &Arc<Transfer>) {
        op.state.cancel();
        if self.work.remove(op) {
            // Its callbacks run here, and must no more wait for the engine than on a worker.
            let _on_worker = self.enter_worker();
            self.end([op.clone()]);
        }
    }
}
