//! What the [threads for file operations](super::file_threads) do.
//!
//! To add a task: a variant, and what it does in [`Task::run`]. One that was accepted and has a promise ends with
//! [`Shared::end_file_task`].

use std::sync::Arc;

use crate::engine::Shared;
use crate::engine::file_jobs::Job;
use crate::engine::file_op::FileOp;
use crate::engine::finish::make_durable;
use crate::engine::op_queue::EndedOps;
use crate::engine::promise::Notify;
use crate::engine::transfer::{Priority, Transfer};
use crate::file::routes::RoutePermit;
use crate::foreign::{attempt, catch, report};

/// What is to be done on one of the threads.
#[derive(Debug)]
pub(crate) enum Task {
    /// An operation on a whole file, with a permit for the page cache if it waited for one.
    FileOp(Arc<FileOp>, Option<RoutePermit>),
    /// To end a write, which changes the length of its file.
    EndWrite(Arc<Transfer>, RoutePermit),
    /// To sync a durable write, and to end it.
    SyncWrite {
        op: Arc<Transfer>,
        /// The [key](crate::file::OpenFile::key) of an open file: its writes share a sync.
        file: Option<usize>,
    },
    /// To open a file, or to replace one.
    Job(Arc<dyn Job>),
}

impl Task {
    /// Whether it has a permit: then it waits for no other task, and direct writes wait for it.
    pub(super) fn has_permit(&self) -> bool {
        matches!(self, Self::FileOp(_, Some(_)) | Self::EndWrite(..))
    }

    /// Whether it opens a file: few of these run at once.
    pub(super) fn opens(&self) -> bool {
        matches!(self, Self::Job(job) if job.opens())
    }

    /// Does it. The caller holds no lock.
    pub(super) fn run(self, engine: &Arc<Shared>) {
        match self {
            Self::FileOp(op, permit) => engine.run_file_op(op, permit),
            Self::EndWrite(op, permit) => engine.end_with_permit(op, permit),
            Self::SyncWrite { op, file } => engine.sync_writes(op, file),
            Self::Job(job) => job.run(engine),
        }
    }
}

impl Shared {
    /// Syncs a durable write, and those of the same file that wait for a thread, and ends them.
    fn sync_writes(self: &Arc<Self>, first: Arc<Transfer>, file: Option<usize>) {
        let mut writes = vec![first];
        if let Some(file) = file {
            writes.extend(self.file_threads.take_writes_to_sync(file));
        }
        // All their blocks are done, so one sync is for all of them. If it fails, each of the others asks for a sync,
        // which reports the same loss.
        for op in &writes {
            // It asks the descriptor, which is foreign code.
            match attempt("a getter", || make_durable(op)) {
                Ok(()) => break,
                Err(error) => op.state.fail(0, error),
            }
        }
        self.end(writes);
        if file.is_none() {
            self.file_threads.path_synced();
        }
    }

    /// Ends a task whose promise is fulfilled: drops the task, counts it among what has ended, and wakes its waiters.
    pub(super) fn end_file_task<T>(
        self: &Arc<Self>,
        task: Arc<T>,
        notify: Notify,
        priority: Priority,
        epoch: u64,
        ok: bool,
    ) {
        let Notify { wakers, unreported } = notify;
        let mut ended = EndedOps::default();
        ended.add(priority, epoch, ok, unreported);
        // A call that closes the file waits for the accounts, and has to be the last to have the file.
        drop(task);
        self.account(ended);
        for waker in wakers {
            report(catch("wake", || waker.wake()));
        }
    }
}
