//! Operations on whole files, as tickets: sync, set_len, allocate, punch_hole; and the syncs that end durable writes.
//!
//! They block for long (a sync for as long as the device needs), so they run on threads of their own and never hold up
//! the transfers of a worker. The threads are started when needed, stay until the handle goes, and are few.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::engine::Shared;
use crate::engine::file_jobs::Job;
use crate::engine::finish::make_durable;
use crate::engine::op_queue::{Ended, Full};
use crate::engine::promise::{Fulfilled, Promise};
use crate::engine::transfer::{Priority, Transfer};
use crate::error::{Error, IoError, OpKind, Result};
use crate::file::OpenFile;
use crate::file::inode::Accepted;
use crate::file::routes::{Pass, Route};
use crate::file::write_back::Sync;
use crate::foreign::log;
use crate::foreign::{attempt, catch, report};
use crate::sync::{AtomicBool, AtomicUsize, Mutex, Ordering, ThreadSync, lock, thread};
use crate::threads::NoFileSizeSignal;
use crate::threads::thread_main;

/// Most threads; enough for the syncs of several files to share a journal commit. One more may come for what has a pass.
const MAX_THREADS: usize = 4;

/// One operation on a file.
#[derive(Debug)]
pub(crate) struct FileOp {
    pub(crate) promise: Promise,
    pub(crate) file: OpenFile,
    command: FileCommand,
    priority: Priority,
    cancelled: AtomicBool,
    epoch: Mutex<u64>,
    /// Of one that changes the file: it is among the writes that a sync waits for.
    accepted: Mutex<Option<Accepted>>,
}

/// What is to be done on one of the threads.
#[derive(Debug)]
pub(crate) enum Task {
    /// With a pass for the page cache, if it may make a page dirty.
    Run(Arc<FileOp>, Option<Pass>),
    /// To end a write, which changes the length of its file.
    End(Arc<Transfer>, Pass),
    /// To end a durable write by a sync.
    Durable(Arc<Transfer>),
    /// To open a file, or to replace one.
    Job(Arc<dyn Job>),
}

/// What to do with the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileCommand {
    /// `fdatasync(2)`, after the writes that were accepted before.
    SyncData,
    /// `fsync(2)`, likewise.
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

/// The threads and what waits for them.
#[derive(Debug, Default)]
pub(crate) struct FileOps {
    state: ThreadSync<State>,
    /// Durable writes that are being synced, or wait for that. Those by path hold an open file.
    durable: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Task>,
    idle: usize,
    threads: Vec<thread::JoinHandle<()>>,
}

impl FileOps {
    pub(crate) fn wake_all(&self) {
        drop(self.state.lock());
        self.state.notify_all();
    }

    /// Takes the durable writes to this file that wait for a thread.
    fn take_durable(&self, key: usize) -> Vec<Arc<Transfer>> {
        let is_one = |task: &mut Task| matches!(task, Task::Durable(op) if op.state.file_key() == Some(key));
        let mut taken = Vec::new();
        let mut state = self.state.lock();
        let mut index = 0;
        while index < state.queue.len() {
            match is_one(&mut state.queue[index]) {
                true => {
                    if let Some(Task::Durable(op)) = state.queue.remove(index) {
                        taken.push(op);
                    }
                }
                false => index += 1,
            }
        }
        taken
    }

    /// Durable writes whose blocks are done, and which have not ended.
    pub(crate) fn durable_writes(&self) -> usize {
        self.durable.load(Ordering::Acquire)
    }

    /// The threads, to be joined.
    pub(crate) fn take_threads(&self) -> Vec<thread::JoinHandle<()>> {
        std::mem::take(&mut self.state.lock().threads)
    }
}

impl FileOp {
    pub(crate) fn new(file: OpenFile, command: FileCommand, priority: Priority) -> Arc<Self> {
        Arc::new(Self {
            promise: Promise::new(None),
            file,
            command,
            priority,
            cancelled: AtomicBool::new(false),
            epoch: Mutex::default(),
            accepted: Mutex::default(),
        })
    }

    /// Asks it not to start.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    fn is_sync(&self) -> bool {
        matches!(self.command, FileCommand::SyncData | FileCommand::SyncAll)
    }

    /// Whether the file system, or a sandbox, only denies a thing that nothing depends on.
    fn is_no_matter(&self, error: &Error) -> bool {
        matches!(self.command, FileCommand::Allocate { .. } | FileCommand::PunchHole { .. })
            && matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EPERM | libc::EACCES))
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
            FileCommand::SetLen(len) => writable()?.set_len(fd, len),
            FileCommand::Allocate { len: 0, .. } | FileCommand::PunchHole { len: 0, .. } => Ok(()),
            FileCommand::Allocate { offset, len } => writable()?.allocate(fd, offset, len),
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
    pub(crate) fn submit_file_op(self: &Arc<Self>, op: &Arc<FileOp>, full: Full) -> Result<()> {
        self.check_process()?;
        let full = self.on_this_thread(full);
        let epoch = self.work.accept(op.priority, full)?;
        *lock(&op.epoch) = epoch;
        let task = Task::Run(op.clone(), None);
        if op.is_sync()
            && let Some(inode) = op.file.shared_inode()
        {
            let shared = self.clone();
            inode.writes.after(move || shared.run_file_task(task));
            return Ok(());
        }
        if let Some(inode) = op.file.inode() {
            *lock(&op.accepted) = Some(inode.accept());
        }
        self.run_file_task(task);
        Ok(())
    }

    /// Gives it to a thread; if none can be had, to the current one.
    pub(crate) fn run_file_task(self: &Arc<Self>, task: Task) {
        if let Task::Durable(_) = task {
            self.file_ops.durable.fetch_add(1, Ordering::AcqRel);
        }
        let mut state = self.file_ops.state.lock();
        // While it has a pass nothing is written past the page cache, so it waits for no other.
        let has_pass = matches!(task, Task::Run(_, Some(_)) | Task::End(..));
        if has_pass {
            state.queue.push_front(task);
        } else {
            state.queue.push_back(task);
        }
        if state.idle >= state.queue.len() || state.threads.len() >= MAX_THREADS + usize::from(has_pass) {
            drop(state);
            self.file_ops.state.notify_one();
            return;
        }
        let shared = self.clone();
        let run = move || thread_main(|| shared.file_op_thread());
        let spawned = thread::Builder::new().name("aio-file".into()).spawn(run);
        match spawned {
            Ok(thread) => state.threads.push(thread),
            Err(_) if !state.threads.is_empty() => {}
            Err(error) => {
                // Without a thread nothing else waits.
                let task = state.queue.pop_front();
                drop(state);
                log(|| tracing::warn!(%error, "no thread for a file operation: running it on the current one"));
                if let Some(task) = task {
                    // A change of length may pass the limit of file sizes, and this may be a user's thread.
                    let blocked = NoFileSizeSignal::new();
                    self.finish_file_task(task);
                    blocked.discard();
                }
            }
        }
    }

    fn file_op_thread(self: &Arc<Self>) {
        crate::threads::block_signals();
        let _on_worker = self.enter_worker();
        let pool = &self.file_ops.state;
        let mut state = pool.lock();
        loop {
            state.idle += 1;
            let ready = |state: &mut State| !state.queue.is_empty() || self.work.is_finished();
            state = pool.wait_until(state, None, ready).0;
            state.idle -= 1;
            let Some(task) = state.queue.pop_front() else { return };
            drop(state);
            self.finish_file_task(task);
            state = pool.lock();
        }
    }

    fn finish_file_task(self: &Arc<Self>, task: Task) {
        match task {
            Task::Run(op, pass) => self.finish_file_op(op, pass),
            Task::End(op, pass) => self.end_with_pass(op, pass),
            Task::Job(job) => job.run(self),
            Task::Durable(op) => {
                let mut together = vec![op];
                if let Some(key) = together[0].state.file_key() {
                    together.extend(self.file_ops.take_durable(key));
                }
                let writes = together.len();
                // All their blocks are done, so one sync is for all of them; if it failed, the others hear of that.
                for op in &together {
                    // It asks the descriptor, which is foreign code.
                    match attempt("a getter", || make_durable(op)) {
                        Ok(()) => break,
                        Err(error) => op.state.fail(0, error),
                    }
                }
                self.end(together);
                self.file_ops.durable.fetch_sub(writes, Ordering::AcqRel);
            }
        }
    }

    fn finish_file_op(self: &Arc<Self>, op: Arc<FileOp>, pass: Option<Pass>) {
        let routes = op.file.inode().filter(|_| pass.is_none() && !op.is_sync()).map(|inode| inode.routes.clone());
        let (op, pass) = match routes {
            None => (op, pass),
            Some(routes) => {
                let shared = self.clone();
                let later = move |op, pass| shared.run_file_task(Task::Run(op, Some(pass)));
                let Some((op, pass)) = routes.enter(Route::Cached, None, op, later) else { return };
                (op, Some(pass))
            }
        };
        let outcome = op.run();
        drop(pass);
        if let (Some(inode), Err(error)) = (op.file.inode(), &outcome)
            && !op.is_sync()
            && !op.is_no_matter(error)
        {
            inode.faults.write_failed(error);
        }
        let accepted = lock(&op.accepted).take();
        drop(accepted);
        self.end_file_op(op, outcome);
    }

    fn end_file_op(&self, op: Arc<FileOp>, outcome: Result<u64>) {
        let (ok, priority, epoch) = (outcome.is_ok(), op.priority, *lock(&op.epoch));
        let fulfilled = op.promise.fulfil(outcome, false);
        self.end_file_task(op, fulfilled, priority, epoch, ok);
    }

    /// Lets go of a task whose promise is fulfilled, books it, and wakes its waiter.
    pub(crate) fn end_file_task<T>(
        &self,
        task: Arc<T>,
        fulfilled: Fulfilled,
        priority: Priority,
        epoch: u64,
        ok: bool,
    ) {
        let Fulfilled { wakers, unclaimed } = fulfilled;
        let mut account = Ended::default();
        account.add(priority, epoch, ok, unclaimed);
        // A call that closes the file waits for the accounts, and has to be the last to have the file.
        drop(task);
        self.account(account);
        for waker in wakers {
            report(catch("wake", || waker.wake()));
        }
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
            shared.submit_file_op(&op, Full::Wait).unwrap();
            assert_eq!(file.inode().unwrap().changes() > before, changes, "{command:?}");
            while !op.promise.is_done() {
                std::thread::yield_now();
            }
            assert!(!file.inode().unwrap().has_writes_in_flight(), "{command:?} did not leave");
        }
        shared.close();
    }
}
