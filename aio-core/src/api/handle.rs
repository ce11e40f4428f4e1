//! The handle: what a user holds of an engine.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::api::atomic_file::AtomicFile;
use crate::api::file::AioFile;
use crate::api::scope::{Scope, path_target, scope};
use crate::api::ticket::{Owner, Ticket};
use crate::backend::IoBackend;
use crate::config::AioConfig;
use crate::engine::op_queue::WhenFull;
use crate::engine::promise::Promise;
use crate::engine::transfer::{Op, OpOptions, Priority};
use crate::engine::{FileCommand, FileOp, Shared, worker};
use crate::error::{Error, OpError, Result};
use crate::file::{OpenFile, OpenOptions};
use crate::memory::{AlignedBuf, Arena};
use crate::op::buf::{IoBuf, IoBufMut};
use crate::op::desc::{Extent, IoOpDesc, PathMode};
use crate::op::owned::{AssertValid, Custom, Owned, RawOp};
use crate::stats::Stats;
use crate::sync::thread::JoinHandle;
use crate::sync::{Mutex, MutexGuard, lock};
use crate::threads::on_any_worker;

/// An engine: worker threads, each with an I/O queue, and the memory arena they share.
///
/// Cheap to clone; every clone is the same engine. Dropping the last one, and the last [`AioFile`], waits for every op
/// that was accepted and ends the threads; on a worker thread of any handle, where it does not wait, it leaves them to
/// end by themselves.
#[derive(Clone)]
pub struct AioHandle {
    inner: Arc<Inner>,
    options: OpOptions,
}

struct Inner {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl AioHandle {
    /// Starts an engine on `backend`. The crate `tensor-aio` has a builder that picks one.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for values out of range, [`Error::Unavailable`] if the backend refuses a queue.
    pub fn with_backend(backend: Arc<dyn IoBackend>, config: AioConfig) -> Result<Self> {
        config.validate_ranges()?;
        let options = OpOptions { validate: config.validate, ..OpOptions::default() };
        let workers = config.intra_op_parallelism;
        // Made first, so that its drop stops the workers that did start.
        let inner = Inner { shared: Shared::new(backend, config), threads: Mutex::default() };
        for id in 0..workers {
            let thread = worker::spawn(&inner.shared, id)?;
            inner.threads().push(thread);
        }
        // Not before all of them are there to answer.
        inner.shared.arena.serve(&inner.shared.inboxes);
        Ok(Self { inner: Arc::new(inner), options })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    pub(crate) fn options(&self) -> OpOptions {
        self.options
    }

    /// The backend's name.
    pub fn backend_name(&self) -> &'static str {
        self.shared().backend.name()
    }

    /// The configuration in use.
    pub fn config(&self) -> &AioConfig {
        &self.shared().config
    }

    /// What the engine has done so far.
    pub fn stats(&self) -> Stats {
        let mut stats = self.shared().counters.snapshot();
        stats.ops += self.shared().op_queue.ops();
        stats
    }

    /// The same engine; ops through this clone take second place: they leave a part of every queue free, and a
    /// limit of pending ops of their own.
    pub fn background(&self) -> Self {
        let options = OpOptions { priority: Priority::Background, ..self.options };
        Self { inner: self.inner.clone(), options }
    }

    /// The same engine; ops through this clone read every block back and compare, or do not.
    pub fn validated(&self, validate: bool) -> Self {
        Self { inner: self.inner.clone(), options: OpOptions { validate, ..self.options } }
    }

    /// The same engine; writes by path through this clone, and through files that it opens, are
    /// [durable](AioFile::durable) when they have ended well, or are not. The name of a new file is not: for that,
    /// there is [`create_atomic`](Self::create_atomic).
    pub fn durable(&self, durable: bool) -> Self {
        Self { inner: self.inner.clone(), options: OpOptions { durable, ..self.options } }
    }

    /// The memory that buffers come from. Handles without an [`arena_limit`](AioConfig::arena_limit) share one.
    pub fn arena(&self) -> &Arena {
        &self.shared().arena
    }

    /// A buffer of `len` bytes in huge pages that the kernel may have registered: what transfers fastest. Its contents
    /// are unspecified. While the arena's limit leaves no room this waits for other buffers to be dropped; a buffer that
    /// was given to an op is one until the op's ticket was waited for or dropped. See [`Arena::alloc`].
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] if that much can never be had. On a worker thread it does not wait, and fails instead.
    pub fn alloc(&self, len: usize) -> Result<AlignedBuf> {
        self.shared().check_process()?;
        self.arena().alloc(len)
    }

    /// As [`alloc`](Self::alloc), but waits for `timeout` at most.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] if it could not be had in that time.
    pub fn alloc_timeout(&self, len: usize, timeout: Duration) -> Result<AlignedBuf> {
        self.shared().check_process()?;
        self.arena().alloc_timeout(len, timeout)
    }

    /// As [`alloc`](Self::alloc), but does not wait for buffers to be dropped. See [`Arena::try_alloc`].
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] if it cannot be had now.
    pub fn try_alloc(&self, len: usize) -> Result<AlignedBuf> {
        self.shared().check_process()?;
        self.arena().try_alloc(len)
    }

    /// Opens an existing file for reading, and for writing too if that is permitted. It takes two descriptors where direct
    /// I/O is possible.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if there is no such file, it may not be read, or it is a directory, a FIFO or the like.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<AioFile> {
        let path = path.as_ref();
        match self.open_with(path, &OpenOptions::new().read(true).write(true)) {
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EROFS | libc::EPERM | libc::ETXTBSY))
                    || error.kind() == std::io::ErrorKind::Unsupported =>
            {
                self.open_with(path, &OpenOptions::new().read(true))
            }
            opened => opened,
        }
    }

    /// Opens a file for reading and writing, and makes it if it does not exist, at the end of symbolic links if there are
    /// any. What it holds stays.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] with the reason.
    pub fn create(&self, path: impl AsRef<Path>) -> Result<AioFile> {
        self.open_with(path, &OpenOptions::new().read(true).create(true))
    }

    /// Opens a file.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] with the reason.
    pub fn open_with(&self, path: impl AsRef<Path>, options: &OpenOptions) -> Result<AioFile> {
        self.shared().check_open()?;
        Ok(self.file(OpenFile::open(path.as_ref(), options, self.config().direct)?))
    }

    /// A file of this handle.
    pub(crate) fn file(&self, file: OpenFile) -> AioFile {
        let shared = self.shared();
        if let Some(slot) = shared.files.register().filter(|_| shared.config.register_files) {
            file.set_slot(slot);
        }
        AioFile::new(file, self.clone())
    }

    /// Begins to replace the file at `path`, or to make it, at the end of symbolic links if there are any: what is
    /// written to the [`AtomicFile`] is there as a whole after its [`commit`](AtomicFile::commit), and before that
    /// nothing is.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if a file cannot be made beside the target, or the target is something else than a regular file, or
    /// what must not be replaced: a mount point (as files that are mounted into a container are), immutable, or another
    /// user's in a sticky folder.
    pub fn create_atomic(&self, path: impl AsRef<Path>) -> Result<AtomicFile> {
        AtomicFile::create(self, path.as_ref())
    }

    /// Reads the first `buffer.len()` bytes of the file at `path`, which a worker opens.
    pub fn read_path<B: IoBufMut + 'static>(&self, path: impl AsRef<Path>, buffer: B) -> Ticket<B> {
        self.start(Owned::read(path_target(path, PathMode::Read), buffer, 0), self.options)
    }

    /// Writes `buffer` to a new file at `path`; an existing one, or a symbolic link, is an error. If writing fails, the
    /// file is removed.
    pub fn write_new<B: IoBuf + 'static>(&self, path: impl AsRef<Path>, buffer: B) -> Ticket<B> {
        self.start(Owned::write(path_target(path, PathMode::WriteNew), buffer, 0), self.options)
    }

    /// Writes `buffer` as the whole contents of the file at `path`, which is made if it does not exist, at the end of
    /// symbolic links if there are any. A file that was longer is cut once all is written; if writing fails, it holds a mixture.
    pub fn write_path<B: IoBuf + 'static>(&self, path: impl AsRef<Path>, buffer: B) -> Ticket<B> {
        self.start(Owned::write(path_target(path, PathMode::Write), buffer, 0), self.options)
    }

    /// Submits an op with a descriptor of the caller's own.
    pub fn submit<D: IoOpDesc + 'static>(&self, desc: D) -> Ticket<()> {
        let options = OpOptions { validate: self.options.validate || desc.validate(), ..self.options };
        self.start_desc(Custom(desc), options)
    }

    /// Submits an op on raw memory.
    ///
    /// # Safety
    ///
    /// The memory of every extent is valid until the op has ended (which dropping the ticket does not do): for writes
    /// and untouched by others if it is read into, for reads and unchanged if it is written from. Extents that are read
    /// into share no memory, and memory that names a [`Region`](crate::backend::Region) lies in it. If the ticket gives
    /// [`Error::WorkerDied`], the memory must stay valid for ever.
    #[allow(unsafe_code)]
    pub unsafe fn submit_raw(&self, op: RawOp) -> Ticket<()> {
        let options = OpOptions { validate: self.options.validate || op.validate, ..self.options };
        let nowhere = op.extents.iter().find(|extent| extent.memory.is_none() && extent.len > 0).copied();
        match nowhere {
            None => self.start_desc(AssertValid(op), options),
            Some(Extent { offset, len, .. }) => {
                let op = self.new_op(AssertValid(op), options);
                refused(
                    &op,
                    Error::InvalidInput(format!("no memory for {len} bytes at offset {offset}: the pointer is null")),
                );
                Ticket::new(op, self.shared().clone())
            }
        }
    }

    /// Runs ops on borrowed memory: `body` starts them, and `scope` returns when all of them have ended.
    ///
    /// # Errors
    ///
    /// [`Error::Failures`] with the failures. [`Error::WaitOnWorker`], [`Error::Forked`] before anything was begun.
    ///
    /// # Panics
    ///
    /// If `body` does, after its ops have ended.
    pub fn scope<'env, R>(&self, body: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> R) -> Result<R> {
        scope(self.shared(), self.options, body)
    }

    /// Waits for all ops accepted so far, through any clone, and gives back how many ended well since the last time.
    ///
    /// # Errors
    ///
    /// [`Error::Failures`] with the failures of ops whose tickets were dropped. [`Error::WaitOnWorker`],
    /// [`Error::Forked`].
    pub fn wait(&self) -> Result<usize> {
        self.shared().check_may_wait()?;
        Ok(self.shared().op_queue.wait()?)
    }

    /// Takes no more ops, waits for those it took, and ends the threads. Clones, and files opened through them, get
    /// [`Error::Closed`] from then on.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait); [`Error::WaitOnWorker`] on a worker thread of any handle.
    pub fn close(self) -> Result<()> {
        self.shared().check_may_join()?;
        self.inner.stop();
        Ok(self.shared().op_queue.wait().map(|_completed| ())?)
    }

    pub(crate) fn start<T: Send + 'static>(&self, desc: Owned<T>, options: OpOptions) -> Ticket<T> {
        self.start_desc(desc.validated(options.validate), options)
    }

    fn start_desc<T, D: IoOpDesc + Owner<T> + 'static>(&self, desc: D, options: OpOptions) -> Ticket<T>
    where
        T: 'static,
    {
        let op = self.new_op(desc, options);
        if let Err(error) = self.shared().submit(&op, WhenFull::Wait) {
            refused(&op, error);
        }
        Ticket::new(op, self.shared().clone())
    }

    pub(crate) fn try_start<T: Send + 'static>(
        &self,
        desc: Owned<T>,
        options: OpOptions,
    ) -> Result<Ticket<T>, OpError<T>> {
        let op = self.new_op(desc.validated(options.validate), options);
        match self.shared().submit(&op, WhenFull::Refuse) {
            Ok(()) => Ok(Ticket::new(op, self.shared().clone())),
            Err(error) => Err(OpError::new(error, op.desc.give_back())),
        }
    }

    fn new_op<D: IoOpDesc>(&self, desc: D, options: OpOptions) -> Arc<Op<D>> {
        self.shared().op(desc, Promise::new(None), options)
    }

    pub(crate) fn start_file_op(&self, file: OpenFile, command: FileCommand, options: OpOptions) -> Ticket<()> {
        let op = FileOp::new(file, command, options.priority);
        if let Err(error) = self.shared().submit_file_op(&op) {
            let _nobody_waits = op.promise.fulfil(Err(error), false);
        }
        Ticket::new(op, self.shared().clone())
    }
}

/// An op that was not accepted ends here and now.
fn refused<D: IoOpDesc>(op: &Op<D>, error: Error) {
    op.note_failed_write(&error);
    let outcome = Err(error);
    let finished = op.call("fini", |desc| desc.fini(&outcome));
    let _nobody_waits = op.state.promise.fulfil(outcome.and_then(|bytes: u64| finished.map(|()| bytes)), false);
}

impl Inner {
    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        lock(&self.threads)
    }

    /// Takes no more ops, and ends the threads when all that were taken have ended.
    fn stop(&self) {
        let shared = &self.shared;
        shared.close();
        if on_any_worker() {
            // It could wait for itself. The threads end by themselves.
            return;
        }
        // Held until all have ended, so that nobody who closes at the same time returns before.
        let mut threads = self.threads();
        // Panics stay in the threads.
        let join = |thread: JoinHandle<()>| drop(thread.join());
        threads.drain(..).for_each(join);
        // Ops may wait for what another handle has in flight, also when all workers are gone.
        shared.op_queue.drain();
        // Now nothing starts one of these any more.
        shared.file_threads.take_threads().into_iter().for_each(join);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.shared.is_forked() {
            // The threads, and the locks they may have held, stayed with the parent.
            std::mem::forget(self.shared.clone());
            std::mem::forget(std::mem::take(self.threads.get_mut().unwrap_or_else(PoisonError::into_inner)));
            return;
        }
        self.stop();
    }
}

impl fmt::Debug for AioHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AioHandle")
            .field("backend", &self.backend_name())
            .field("config", self.config())
            .finish_non_exhaustive()
    }
}
