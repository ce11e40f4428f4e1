//! The handle: what a user holds of an engine.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::api::atomic_file::AtomicFile;
use crate::api::file::AioFile;
use crate::api::scope::{Scope, scope};
use crate::api::ticket::Ticket;
use crate::backend::IoBackend;
use crate::config::{AioConfig, DirectMode};
use crate::engine::Shared;
use crate::engine::running::Engine;
use crate::engine::transfer::{OpOptions, Priority};
use crate::error::{Error, OpKind, Result};
use crate::file::{OpenFile, OpenOptions};
use crate::memory::{AlignedBuf, Allocation, Arena};
use crate::op::buf::{IoBuf, IoBufMut};
use crate::op::desc::{Extent, IoOpDesc, PathMode, Target};
use crate::op::owned::{AssertValid, Custom, Owned, RawOp};
use crate::stats::Stats;

/// An engine: worker threads, each with an I/O queue, and the memory arena they share.
///
/// ```
/// # fn main() -> aio::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("layer0");
/// let aio = aio::builder().queue_depth(64).build()?; // on the best backend of this machine
///
/// let mut tensor = aio.alloc(1 << 20)?; // memory that transfers fastest
/// tensor.fill(7);
/// let ticket = aio.write_new(&path, tensor); // in flight: the op owns the memory ...
/// let tensor = ticket.wait()?; // ... and the ticket gives it back
///
/// let tensor = aio.read_path(&path, tensor).wait()?;
/// assert!(tensor.iter().all(|byte| *byte == 7));
/// println!("{} of {} bytes were direct", aio.stats().bytes_direct, 2 << 20);
/// # Ok(())
/// # }
/// ```
///
/// Cheap to clone; every clone is the same engine. Dropping the last one, and the last [`AioFile`], waits for every op
/// that was accepted and ends the threads; on a worker thread of any handle, where it does not wait, it leaves them to
/// end by themselves.
///
/// # In async code
///
/// A [`Ticket`] is a future for any runtime. A call that may block says so, by the words "blocks the calling thread";
/// on a runtime's thread it would hold up all tasks of that thread, and if it waits for one of them, for ever. In
/// async code use:
///
/// | blocks the calling thread | instead |
/// |---|---|
/// | [`alloc`](Self::alloc), [`alloc_timeout`](Self::alloc_timeout) | [`alloc_async`](Self::alloc_async) |
/// | starting an op while the queue is full | the same calls through [`unlimited`](Self::unlimited) |
/// | [`open`](Self::open), [`create`](Self::create), [`open_with`](Self::open_with) | [`open_async`](Self::open_async), [`create_async`](Self::create_async), [`open_with_async`](Self::open_with_async) |
/// | [`create_atomic`](Self::create_atomic) | [`create_atomic_async`](Self::create_atomic_async) |
/// | [`Ticket::wait`], [`Ticket::wait_timeout`] | `.await`; [`Ticket::cancel_on_drop`] for time-outs |
/// | [`AioFile::read_at`], [`AioFile::write_at`], [`scope`](Self::scope) | [`AioFile::read`], [`AioFile::write`] |
/// | [`wait`](Self::wait), [`close`](Self::close), [`AioFile::close`], dropping the last handle or file | a thread for blocking calls, such as tokio's `spawn_blocking` |
#[derive(Clone)]
pub struct AioHandle {
    engine: Arc<Engine>,
    options: OpOptions,
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
        Ok(Self { engine: Arc::new(Engine::start(backend, config)?), options })
    }

    fn shared(&self) -> &Arc<Shared> {
        self.engine.shared()
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
        Self { engine: self.engine.clone(), options }
    }

    /// The same engine; ops through this clone read every block back and compare, or do not.
    pub fn validated(&self, validate: bool) -> Self {
        Self { engine: self.engine.clone(), options: OpOptions { validate, ..self.options } }
    }

    /// The same engine; writes by path through this clone, and through files that it opens, are
    /// [durable](AioFile::durable) when they have ended well, or are not. The name of a new file is not: for that,
    /// there is [`create_atomic`](Self::create_atomic).
    pub fn durable(&self, durable: bool) -> Self {
        Self { engine: self.engine.clone(), options: OpOptions { durable, ..self.options } }
    }

    /// The same engine; ops through this clone, and through files that it opens, are accepted beyond
    /// [`max_pending_ops`](AioConfig::max_pending_ops), so that no call waits for room in the queue. Awaiting the
    /// ticket covers the time in the queue.
    ///
    /// The limit then holds up only callers that wait, and counts these ops among theirs. What bounds the memory of
    /// the ops themselves (some hundred bytes each) is how many tickets the program starts at once; what bounds that
    /// of their buffers is the arena's limit, if they come from [`alloc_async`](Self::alloc_async): a task that wants
    /// to start one more op awaits a buffer first. With buffers from elsewhere, the program has to bound the ops in
    /// flight itself, with a semaphore, say.
    pub fn unlimited(&self) -> Self {
        Self { engine: self.engine.clone(), options: OpOptions { unlimited: true, ..self.options } }
    }

    /// The memory that buffers come from. Handles without an [`arena_limit`](AioConfig::arena_limit) share one.
    pub fn arena(&self) -> &Arena {
        &self.shared().arena
    }

    /// A buffer of `len` bytes in huge pages that the kernel may have registered: what transfers fastest. Its
    /// contents are unspecified. It blocks the calling thread while the arena's limit leaves no room, until other
    /// buffers are dropped; a buffer that was given to an op is one until the op's ticket was waited for or dropped.
    /// See [`Arena::alloc`].
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] if that much can never be had. On a worker thread it does not wait, and fails instead.
    pub fn alloc(&self, len: usize) -> Result<AlignedBuf> {
        self.shared().check_process()?;
        self.arena().alloc(len)
    }

    /// As [`alloc`](Self::alloc), but blocks the calling thread for `timeout` at most.
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

    /// As [`alloc`](Self::alloc), as a future, which never blocks the thread that polls it. See [`Arena::alloc_async`].
    pub fn alloc_async(&self, len: usize) -> Allocation {
        self.arena().alloc_async(len)
    }

    /// Opens an existing file for reading, and for writing too if that is permitted. It takes two descriptors where
    /// direct I/O is possible, and a third, if there is one, when small blocking calls read through it.
    ///
    /// Blocks the calling thread on the file system; in async code, call [`open_async`](Self::open_async).
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if there is no such file, it may not be read, or it is a directory, a FIFO or the like.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<AioFile> {
        self.shared().check_open()?;
        self.opened(open_existing(path.as_ref(), self.config().direct))
    }

    /// As [`open`](Self::open), on a thread for operations on files. It never blocks: the ticket gives the file.
    ///
    /// Cancelled before it begins, it opens nothing; if the ticket is dropped, the file is closed when it has been
    /// opened.
    pub fn open_async(&self, path: impl AsRef<Path>) -> Ticket<AioFile> {
        self.open_job(path.as_ref(), open_existing)
    }

    /// Opens a file for reading and writing, and makes it if it does not exist, at the end of symbolic links if there
    /// are any. What it holds stays.
    ///
    /// Blocks the calling thread on the file system; in async code, call [`create_async`](Self::create_async).
    ///
    /// # Errors
    ///
    /// [`Error::Io`] with the reason.
    pub fn create(&self, path: impl AsRef<Path>) -> Result<AioFile> {
        self.open_with(path, &OpenOptions::new().read(true).create(true))
    }

    /// Opens a file.
    ///
    /// Blocks the calling thread on the file system; in async code, call [`open_with_async`](Self::open_with_async).
    ///
    /// # Errors
    ///
    /// [`Error::Io`] with the reason.
    pub fn open_with(&self, path: impl AsRef<Path>, options: &OpenOptions) -> Result<AioFile> {
        self.shared().check_open()?;
        self.opened(OpenFile::open(path.as_ref(), options, self.config().direct))
    }

    /// As [`create`](Self::create), on a thread for operations on files. It never blocks: the ticket gives the file.
    ///
    /// Cancelled before it begins, it makes nothing; if the ticket is dropped, the file is closed when it has been
    /// opened, and one that was made stays, empty.
    pub fn create_async(&self, path: impl AsRef<Path>) -> Ticket<AioFile> {
        self.open_with_async(path, &OpenOptions::new().read(true).create(true))
    }

    /// As [`open_with`](Self::open_with), on a thread for operations on files. It never blocks: the ticket gives the
    /// file. Cancelled or dropped, it does as [`create_async`](Self::create_async).
    pub fn open_with_async(&self, path: impl AsRef<Path>, options: &OpenOptions) -> Ticket<AioFile> {
        let options = options.clone();
        self.open_job(path.as_ref(), move |path, direct| OpenFile::open(path, &options, direct))
    }

    fn opened(&self, file: Result<OpenFile>) -> Result<AioFile> {
        Ok(AioFile::new(file?, self.engine.clone(), self.options))
    }

    fn open_job<F>(&self, path: &Path, open: F) -> Ticket<AioFile>
    where
        F: FnOnce(&Path, DirectMode) -> Result<OpenFile> + Send + 'static,
    {
        let (at, direct) = (path.to_owned(), self.config().direct);
        let open = move || open(&at, direct);
        Ticket::start_file_job(&self.engine, self.options, (OpKind::Open, path), None, open, AioFile::new)
    }

    /// Begins to replace the file at `path`, or to make it, at the end of symbolic links if there are any: what is
    /// written to the [`AtomicFile`] is there as a whole after its [`commit`](AtomicFile::commit), and before that
    /// nothing is.
    ///
    /// Blocks the calling thread on the file system; in async code, call
    /// [`create_atomic_async`](Self::create_atomic_async).
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if a file cannot be made beside the target, or the target is something else than a regular file,
    /// or what must not be replaced: a mount point (as files that are mounted into a container are), immutable, or
    /// another user's in a sticky folder.
    pub fn create_atomic(&self, path: impl AsRef<Path>) -> Result<AtomicFile> {
        AtomicFile::create(&self.engine, path.as_ref(), self.options)
    }

    /// As [`create_atomic`](Self::create_atomic), on a thread for operations on files. It never blocks: the ticket
    /// gives the file.
    ///
    /// Cancelled before it begins, it makes nothing; if the ticket is dropped, what it made beside the target is
    /// removed.
    pub fn create_atomic_async(&self, path: impl AsRef<Path>) -> Ticket<AtomicFile> {
        AtomicFile::create_async(&self.engine, path.as_ref(), self.options)
    }

    /// Reads the first `buffer.len()` bytes of the file at `path`, which the engine opens.
    /// Blocks the calling thread while the queue is full, except through [`unlimited`](Self::unlimited).
    pub fn read_path<B: IoBufMut + 'static>(&self, path: impl AsRef<Path>, buffer: B) -> Ticket<B> {
        Ticket::start(self.shared(), Owned::read(Target::at(path, PathMode::Read), buffer, 0), self.options)
    }

    /// Writes `buffer` to a new file at `path`; an existing one, or a symbolic link, is an error. If writing fails, the
    /// file is removed.
    /// Blocks the calling thread while the queue is full, except through [`unlimited`](Self::unlimited).
    pub fn write_new<B: IoBuf + 'static>(&self, path: impl AsRef<Path>, buffer: B) -> Ticket<B> {
        Ticket::start(self.shared(), Owned::write(Target::at(path, PathMode::WriteNew), buffer, 0), self.options)
    }

    /// Writes `buffer` as the whole contents of the file at `path`, which is made if it does not exist, at the end of
    /// symbolic links if there are any. A file that was longer is cut once all is written; if writing fails, it holds
    /// a mixture. Blocks the calling thread while the queue is full, except through [`unlimited`](Self::unlimited).
    pub fn write_path<B: IoBuf + 'static>(&self, path: impl AsRef<Path>, buffer: B) -> Ticket<B> {
        Ticket::start(self.shared(), Owned::write(Target::at(path, PathMode::Write), buffer, 0), self.options)
    }

    /// Submits an op with a descriptor of the caller's own.
    /// Blocks the calling thread while the queue is full, except through [`unlimited`](Self::unlimited).
    pub fn submit<D: IoOpDesc + 'static>(&self, desc: D) -> Ticket<()> {
        let validate = self.options.validate || desc.validate();
        let options = OpOptions { validate, has_callbacks: true, ..self.options };
        Ticket::start_desc(self.shared(), Custom(desc), options)
    }

    /// Submits an op on raw memory.
    /// Blocks the calling thread while the queue is full, except through [`unlimited`](Self::unlimited).
    ///
    /// # Safety
    ///
    /// The memory of every extent is valid until the op has ended (which dropping the ticket does not do): for writes
    /// and untouched by others if it is read into, for reads and unchanged if it is written from. Extents that are read
    /// into share no memory, and memory that names a [`Region`](crate::backend::Region) lies in it. If the ticket gives
    /// [`Error::WorkerDied`], the memory must stay valid for ever.
    #[allow(unsafe_code)]
    pub unsafe fn submit_raw(&self, op: RawOp) -> Ticket<()> {
        let validate = self.options.validate || op.validate;
        let options = OpOptions { validate, has_callbacks: true, ..self.options };
        let nowhere = op.extents.iter().find(|extent| extent.memory.is_none() && extent.len > 0).copied();
        match nowhere {
            None => Ticket::start_desc(self.shared(), AssertValid(op), options),
            Some(Extent { offset, len, .. }) => {
                let why = format!("no memory for {len} bytes at offset {offset}: the pointer is null");
                Ticket::refused(self.shared(), AssertValid(op), options, Error::InvalidInput(why))
            }
        }
    }

    /// Runs ops on borrowed memory: `body` starts them, and `scope` blocks the calling thread until all of
    /// them have ended.
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

    /// Blocks the calling thread until all ops accepted so far have ended, through any clone, and gives back how many
    /// ended well since the last time.
    ///
    /// # Errors
    ///
    /// [`Error::Failures`] with the failures of ops whose tickets were dropped. [`Error::WaitOnWorker`],
    /// [`Error::Forked`].
    pub fn wait(&self) -> Result<usize> {
        self.shared().check_may_wait()?;
        Ok(self.shared().op_queue.wait()?)
    }

    /// Takes no more ops, blocks the calling thread until those it took have ended, and ends the threads. Clones, and
    /// files opened through them, get [`Error::Closed`] from then on.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait); [`Error::WaitOnWorker`] on a worker thread of any handle.
    pub fn close(self) -> Result<()> {
        self.shared().check_may_join()?;
        self.engine.stop();
        Ok(self.shared().op_queue.wait().map(|_completed| ())?)
    }
}

/// Opens a file for reading, and for writing too if that is permitted.
fn open_existing(path: &Path, direct: DirectMode) -> Result<OpenFile> {
    match OpenFile::open(path, &OpenOptions::new().read(true).write(true), direct) {
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EROFS | libc::EPERM | libc::ETXTBSY))
                || error.kind() == std::io::ErrorKind::Unsupported =>
        {
            OpenFile::open(path, &OpenOptions::new().read(true), direct)
        }
        opened => opened,
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
