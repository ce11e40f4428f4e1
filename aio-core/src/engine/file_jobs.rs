//! Jobs that block on the file system, on the threads for operations on files: opening a file, replacing one.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::engine::Shared;
use crate::engine::file_tasks::Task;
use crate::engine::op_queue::WhenFull;
use crate::engine::promise::Promise;
use crate::engine::transfer::Priority;
use crate::error::{Error, OpKind, Result};
use crate::file::inode::Inode;
use crate::foreign::attempt;
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering, lock};

type Work<M> = Box<dyn FnOnce() -> Result<M> + Send>;

/// A job that makes an `M`. It holds no engine, so that its end on a thread of the engine is never the engine's end.
pub(crate) struct FileJob<M> {
    pub(crate) promise: Promise,
    kind: OpKind,
    path: PathBuf,
    priority: Priority,
    cancelled: AtomicBool,
    epoch: AtomicU64,
    /// Until it begins.
    work: Mutex<Option<Work<M>>>,
    made: Mutex<Option<M>>,
}

/// A job, whatever it makes.
pub(crate) trait Job: fmt::Debug + Send + Sync {
    fn run(self: Arc<Self>, shared: &Arc<Shared>);
    /// Whether it opens a file, which may take for ever: a FIFO, a server that is gone.
    fn opens(&self) -> bool;
}

impl<M: Send + 'static> FileJob<M> {
    pub(crate) fn new(
        (kind, path): (OpKind, &Path),
        priority: Priority,
        work: impl FnOnce() -> Result<M> + Send + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            promise: Promise::new(None),
            kind,
            path: path.to_owned(),
            priority,
            cancelled: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
            work: Mutex::new(Some(Box::new(work))),
            made: Mutex::default(),
        })
    }

    /// Asks it not to begin. If it waits for a thread it ends at once, on this one.
    pub(crate) fn cancel(&self, shared: &Arc<Shared>) {
        self.cancelled.store(true, Ordering::Release);
        let this = std::ptr::from_ref(self).addr();
        shared.end_cancelled_task(|task| matches!(task, Task::Job(job) if Arc::as_ptr(job).addr() == this));
    }

    /// What it made, once.
    pub(crate) fn take_made(&self) -> Option<M> {
        lock(&self.made).take()
    }

    /// Takes what is to be done, which holds files.
    fn take_work(&self) -> Option<Work<M>> {
        lock(&self.work).take()
    }
}

impl<M: Send + 'static> Job for FileJob<M> {
    fn opens(&self) -> bool {
        self.kind == OpKind::Open
    }

    fn run(self: Arc<Self>, shared: &Arc<Shared>) {
        let made = match self.take_work() {
            Some(work) if !self.cancelled.load(Ordering::Acquire) => attempt("a file operation", work),
            work => {
                drop(work);
                Err(Error::Cancelled { op: self.kind, path: self.path.clone(), bytes: 0 })
            }
        };
        let outcome = made.map(|made| {
            *lock(&self.made) = Some(made);
            0
        });
        let (ok, priority, epoch) = (outcome.is_ok(), self.priority, self.epoch.load(Ordering::Acquire));
        let notify = self.promise.fulfil(outcome, false);
        shared.end_file_task(self, notify, priority, epoch, ok);
    }
}

impl Shared {
    /// Accepts a job, beyond the limit of pending ops; it runs when the changes of that inode that were accepted before
    /// have ended. A job that is not accepted ends here.
    pub(crate) fn submit_job<M: Send + 'static>(self: &Arc<Self>, job: &Arc<FileJob<M>>, after: Option<Arc<Inode>>) {
        let accepted = self.check_process().and_then(|()| self.op_queue.accept(job.priority, WhenFull::Exceed));
        let epoch = match accepted {
            Ok(epoch) => epoch,
            Err(error) => {
                drop(job.take_work());
                let _nothing_to_wake = job.promise.fulfil(Err(error), false);
                return;
            }
        };
        job.epoch.store(epoch, Ordering::Release);
        let task = Task::Job(job.clone());
        match after {
            None => self.run_file_task(task),
            Some(inode) => {
                let shared = self.clone();
                inode.write_back.after_writes(move || shared.run_file_task(task));
            }
        }
    }
}

impl<M> fmt::Debug for FileJob<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileJob").field("kind", &self.kind).field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::config::{AioConfig, DirectMode};
    use crate::engine::file_threads::MAX_OPENING;
    use crate::engine::no_queues::NoQueues;
    use crate::engine::{FileCommand, FileOp};
    use crate::file::{OpenFile, OpenOptions};

    #[test]
    fn what_runs_without_a_thread_for_it_counts_as_on_a_worker() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let shared = Shared::new(Arc::new(NoQueues), AioConfig::default());
        let engine = shared.clone();
        let job = FileJob::new((OpKind::Open, &path), Priority::Normal, move || Ok(engine.on_worker()));
        shared.op_queue.accept(Priority::Normal, WhenFull::Exceed).unwrap();
        shared.run_here(Task::Job(job.clone()));
        assert!(job.take_made().unwrap() && !shared.on_worker());
        shared.close();
    }

    #[test]
    fn opens_that_hang_hold_up_no_sync() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let shared = Shared::new(Arc::new(NoQueues), AioConfig::default());
        let file = OpenFile::open(&path, &OpenOptions::new().read(true).write(true), DirectMode::Off).unwrap();
        let hangs: Vec<_> = (0..10)
            .map(|_| {
                let (go_on, goes_on) = mpsc::channel::<()>();
                let hang = move || {
                    let _ = goes_on.recv();
                    Ok(())
                };
                let job = FileJob::new((OpKind::Open, &path), Priority::Normal, hang);
                shared.submit_job(&job, None);
                (job, go_on)
            })
            .collect();
        // Those that no thread has begun end when they are cancelled.
        for (job, _) in &hangs[MAX_OPENING..] {
            job.cancel(&shared);
            assert!(job.promise.is_done());
        }
        let sync = FileOp::new(file, FileCommand::SyncData, Priority::Normal);
        shared.submit_file_op(&sync, WhenFull::Wait).unwrap();
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while !sync.promise.is_done() && std::time::Instant::now() < end {
            std::thread::yield_now();
        }
        let synced = sync.promise.is_done();
        for (job, go_on) in hangs {
            drop(go_on);
            while !job.promise.is_done() {
                std::thread::yield_now();
            }
        }
        shared.close();
        assert!(synced, "the sync had no thread");
    }
}
