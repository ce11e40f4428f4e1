//! Operations on whole files, as tickets: sync, set_len, allocate, punch_hole. They run on
//! [threads of their own](super::file_threads).

use std::io;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::engine::Shared;
use crate::engine::file_tasks::Task;
use crate::engine::op_queue::WhenFull;
use crate::engine::promise::Promise;
use crate::engine::transfer::Priority;
use crate::error::{Error, IoError, OpKind, Result};
use crate::file::OpenFile;
use crate::file::growth::is_unsupported;
use crate::file::routes::{Route, RoutePermit};
use crate::file::write_back::{Sync, WriteInFlight};
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering, lock};

/// One operation on a file.
#[derive(Debug)]
pub(crate) struct FileOp {
    pub(crate) promise: Promise,
    pub(crate) file: OpenFile,
    command: FileCommand,
    priority: Priority,
    cancelled: AtomicBool,
    /// The epoch of the op queue that it was accepted in. Written when it is accepted.
    epoch: AtomicU64,
    /// Of one that changes the file, while syncs wait for it. Written when it is accepted, taken when it is done.
    change_in_flight: Mutex<Option<WriteInFlight>>,
}

/// What to do with the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileCommand {
    /// `fdatasync(2)`, after the writes that were accepted before.
    SyncData,
    /// `fsync(2)`, after the same writes.
    SyncAll,
    SetLen(u64),
    Allocate {
        offset: u64,
        len: u64,
    },
    PunchHole {
        offset: u64,
        len: u64,
    },
}

impl FileOp {
    pub(crate) fn new(file: OpenFile, command: FileCommand, priority: Priority) -> Arc<Self> {
        Arc::new(Self {
            promise: Promise::new(None),
            file,
            command,
            priority,
            cancelled: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
            change_in_flight: Mutex::default(),
        })
    }

    /// Asks it not to begin. If it waits for a thread it ends at once, on this one.
    pub(crate) fn cancel(&self, shared: &Arc<Shared>) {
        self.cancelled.store(true, Ordering::Release);
        let this = std::ptr::from_ref(self);
        shared.end_cancelled_task(|task| matches!(task, Task::FileOp(op, _) if Arc::as_ptr(op) == this));
    }

    fn is_sync(&self) -> bool {
        matches!(self.command, FileCommand::SyncData | FileCommand::SyncAll)
    }

    /// Whether the file system, or a sandbox, only refuses a thing that no data depends on.
    fn is_harmless(&self, error: &Error) -> bool {
        matches!(self.command, FileCommand::Allocate { .. } | FileCommand::PunchHole { .. })
            && error.raw_os_error().is_some_and(|errno| is_unsupported(&io::Error::from_raw_os_error(errno)))
    }

    /// If it changes the file, notes on the inode that it failed: a commit of the file asks for that.
    #[cold]
    pub(crate) fn note_failure(&self, error: &Error) {
        // In a forked child nothing may wait for a lock that a thread of the parent held.
        if let Some(inode) = self.file.inode()
            && !self.is_sync()
            && !self.is_harmless(error)
            && !matches!(error, Error::Forked)
        {
            inode.write_back.write_failed(error);
        }
    }

    fn kind(&self) -> OpKind {
        match self.command {
            FileCommand::SyncData | FileCommand::SyncAll => OpKind::Sync,
            FileCommand::SetLen(_) => OpKind::SetLen,
            FileCommand::Allocate { .. } => OpKind::Allocate,
            FileCommand::PunchHole { .. } => OpKind::PunchHole,
        }
    }

    fn run(&self) -> Result<u64> {
        if self.cancelled.load(Ordering::Acquire) {
            let (op, path) = (self.kind(), self.file.path().to_owned());
            return Err(Error::Cancelled { op, path, bytes: 0 });
        }
        self.execute().map(|()| 0).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> Error {
        let error = IoError::new(self.kind(), self.file.path(), source);
        match self.command {
            FileCommand::SyncData | FileCommand::SyncAll => error,
            FileCommand::SetLen(len) => error.with_length(len),
            FileCommand::Allocate { offset, len } | FileCommand::PunchHole { offset, len } => error.at(offset, len),
        }
        .into()
    }

    fn execute(&self) -> io::Result<()> {
        let fd = self.file.fd();
        let writable = || self.file.inode().ok_or_else(|| io::Error::other("the file is not open for writing"));
        match self.command {
            FileCommand::SyncData => self.file.sync(Sync::Data),
            FileCommand::SyncAll => self.file.sync(Sync::All),
            FileCommand::SetLen(len) => writable()?.growth.set_len(fd, len),
            FileCommand::Allocate { len: 0, .. } | FileCommand::PunchHole { len: 0, .. } => Ok(()),
            FileCommand::Allocate { offset, len } => writable()?.growth.allocate(fd, offset, len),
            FileCommand::PunchHole { offset, len } => {
                let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                let signed = |value| i64::try_from(value).map_err(|_| io::Error::from(Errno::EINVAL));
                Ok(fallocate(fd, flags, signed(offset)?, signed(len)?)?)
            }
        }
    }
}

impl Shared {
    /// Accepts an operation on a file.
    pub(crate) fn submit_file_op(self: &Arc<Self>, op: &Arc<FileOp>, when_full: WhenFull) -> Result<()> {
        self.check_process()?;
        let epoch = self.op_queue.accept(op.priority, self.on_this_thread(when_full))?;
        op.epoch.store(epoch, Ordering::Release);
        let task = Task::FileOp(op.clone(), None);
        if op.is_sync()
            && let Some(inode) = op.file.shared_inode()
        {
            let engine = self.clone();
            inode.write_back.after_writes(move || engine.run_file_task(task));
            return Ok(());
        }
        if let Some(inode) = op.file.inode() {
            *lock(&op.change_in_flight) = Some(inode.accept_write());
        }
        self.run_file_task(task);
        Ok(())
    }

    /// Does what the operation is for, and ends it; without a permit that it needs, it may come back with one instead.
    pub(super) fn run_file_op(self: &Arc<Self>, op: Arc<FileOp>, permit: Option<RoutePermit>) {
        let Some((op, permit)) = self.enter_cached_route(op, permit) else { return };
        let outcome = op.run();
        drop(permit);
        if let Err(error) = &outcome {
            op.note_failure(error);
        }
        let change = lock(&op.change_in_flight).take();
        drop(change);
        let (ok, priority, epoch) = (outcome.is_ok(), op.priority, op.epoch.load(Ordering::Acquire));
        let notify = op.promise.fulfil(outcome, false);
        self.end_file_task(op, notify, priority, epoch, ok);
    }

    /// A permit for what may make a page dirty. Nothing if there is none now: then the operation comes back as a task.
    fn enter_cached_route(
        self: &Arc<Self>,
        op: Arc<FileOp>,
        permit: Option<RoutePermit>,
    ) -> Option<(Arc<FileOp>, Option<RoutePermit>)> {
        let waits = permit.is_none() && !op.is_sync() && !op.cancelled.load(Ordering::Acquire);
        let routes = op.file.inode().filter(|_| waits).map(|inode| inode.routes.clone());
        let Some(routes) = routes else { return Some((op, permit)) };
        let engine = self.clone();
        let then = move |op, permit| engine.run_file_task(Task::FileOp(op, Some(permit)));
        routes.enter(Route::Cached, None, op, then).map(|(op, permit)| (op, Some(permit)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AioConfig, DirectMode};
    use crate::engine::no_queues::NoQueues;
    use crate::file::OpenOptions;

    #[test]
    fn a_sync_waits_for_the_changes_before_it() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let shared = Shared::new(Arc::new(NoQueues), AioConfig::default());
        let options = OpenOptions::new().read(true).write(true);
        let file = OpenFile::open(&path, &options, DirectMode::Off).unwrap();
        for (command, changes) in [
            (FileCommand::SetLen(10_000), true),
            (FileCommand::Allocate { offset: 0, len: 20_000 }, true),
            (FileCommand::PunchHole { offset: 0, len: 4096 }, true),
            (FileCommand::SyncData, false),
            (FileCommand::SyncAll, false),
        ] {
            let op = FileOp::new(file.clone(), command, Priority::Normal);
            let before = file.inode().unwrap().changes();
            shared.submit_file_op(&op, WhenFull::Wait).unwrap();
            assert_eq!(file.inode().unwrap().changes() > before, changes, "{command:?}");
            while !op.promise.is_done() {
                std::thread::yield_now();
            }
            assert!(!file.inode().unwrap().write_back.has_writes_in_flight(), "{command:?} did not leave");
        }
        shared.close();
    }
}
