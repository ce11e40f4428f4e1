//! The engine: generic over backends, it knows of I/O only what [`crate::backend`] says.
//!
//! [`Shared`] is what handles, tickets and worker threads hold. It is wiring: the parts, and how they are made. It
//! has no reference to the threads, so a ticket may hold it for longer than they run.

mod at_once;
mod bounce;
pub(crate) mod callers_pages;
mod checks;
mod completion;
pub(crate) mod copiers;
pub(crate) mod file_jobs;
mod file_op;
mod file_tasks;
mod file_threads;
mod finish;
mod in_flight;
#[cfg(all(test, loom))]
mod models;
mod new_edges;
#[cfg(test)]
mod no_queues;
pub(crate) mod on_caller;
pub(crate) mod op_queue;
pub(crate) mod op_state;
mod open_paths;
mod prepare;
pub(crate) mod promise;
mod registered;
pub(crate) mod running;
mod spin;
mod staging;
mod submit;
mod system_call;
pub(crate) mod transfer;
pub(crate) mod worker;

use std::sync::Arc;

use self::bounce::Bounce;
use self::callers_pages::CallersPages;
use self::copiers::CopyThreads;
use self::file_threads::FileThreads;
use self::op_queue::OpQueue;
use self::spin::Spin;
use crate::backend::IoBackend;
use crate::config::AioConfig;
use crate::file::slots::FileTable;
use crate::inbox::Inbox;
use crate::memory::Arena;
use crate::process::Generation;
use crate::stats::Counters;
use crate::sync::{AtomicBool, Ordering};

pub(crate) use self::file_op::{FileCommand, FileOp};

/// Slots in each queue's table of registered files.
pub(crate) const FILE_SLOTS: u32 = 1024;
/// Slots in each queue's table of registered regions; the most the kernel takes.
pub(crate) const REGION_SLOTS: u32 = 16384;

/// What users, tickets and workers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) backend: Arc<dyn IoBackend>,
    pub(crate) config: AioConfig,
    pub(crate) arena: Arena,
    pub(crate) bounce: Bounce,
    pub(crate) callers_pages: CallersPages,
    pub(crate) op_queue: OpQueue,
    pub(crate) counters: Counters,
    pub(crate) inboxes: Arc<[Inbox]>,
    pub(crate) files: Arc<FileTable>,
    pub(crate) copy_threads: CopyThreads,
    pub(crate) file_threads: FileThreads,
    pub(crate) spin: Spin,
    made_in: Generation,
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
            callers_pages: CallersPages::default(),
            arena,
            op_queue: OpQueue::new(workers, config.queue_depth, config.copy_threads, config.max_pending_ops),
            counters: Counters::default(),
            files: FileTable::new(inboxes.clone(), slots),
            inboxes,
            copy_threads: CopyThreads::default(),
            file_threads: FileThreads::default(),
            spin: Spin::new(config.spin, workers),
            made_in: Generation::now(),
            closed: AtomicBool::new(false),
            backend,
            config,
        })
    }

    /// Accepts nothing more; the workers go when all that was accepted has ended.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.op_queue.close();
        self.wake_all();
        self.file_threads.wake_all();
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
}
