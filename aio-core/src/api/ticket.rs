//! Tickets: what a user holds per op in flight.

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crate::engine::file_jobs::FileJob;
use crate::engine::op_queue::WhenFull;
use crate::engine::promise::Promise;
use crate::engine::running::Engine;
use crate::engine::transfer::{Op, OpOptions, Transfer};
use crate::engine::{FileOp, Shared};
use crate::error::{Error, OpError, OpKind, Result};
use crate::file::inode::Inode;
use crate::foreign::log;
use crate::foreign::report_drop;
use crate::op::desc::IoOpDesc;
use crate::op::owned::{Owned, Owner};
use crate::sync::thread::{self, Thread};

/// One op in flight, which owns its buffer until it has ended.
///
/// A ticket is waited for by blocking ([`wait`](Self::wait)) or as a [`Future`], on any runtime. Dropping it detaches
/// it ([`cancel_on_drop`](Self::cancel_on_drop) stops it instead): the op runs on, and if it fails, the next
/// [`AioHandle::wait`](crate::AioHandle::wait) and a warning in the log say so. An op that was cancelled before its
/// ticket was dropped has not failed.
///
/// The ticket of an opening or of a commit keeps the engine alive. If it is the last to do so (all handles and files
/// of the engine are gone), its drop and its end, also as a future, do as the drop of the last handle: they block the
/// thread until all ops have ended and the engine's threads are gone. In async code, keep a handle.
///
/// ```
/// # fn main() -> aio::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("layer0");
/// use std::time::Duration;
///
/// let aio = aio::builder().build()?;
/// let file = aio.create(&path)?;
///
/// // All in flight at once, then all waited for.
/// let writes: Vec<_> = (0..8u64).map(|at| file.write(vec![at as u8; 100_000], at * 100_000)).collect();
/// for write in writes {
///     write.wait()?;
/// }
///
/// // A failed op gives its buffer back, too.
/// let failed = file.read(vec![0; 1000], 799_900).wait().unwrap_err();
/// assert!(matches!(failed.error(), aio::Error::UnexpectedEof { read: 100, .. }), "{failed}");
/// let buffer = failed.into_buffer().unwrap();
///
/// let read = file.read(buffer, 0);
/// if !read.wait_timeout(Duration::from_secs(10))? {
///     read.cancel(); // its result is that it was cancelled, unless it ends first
/// }
/// let buffer = read.wait()?; // or read.await?, on any runtime
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping a ticket leaves the op to itself; its failure goes to the handle's next wait()"]
pub struct Ticket<T> {
    /// `None` once the result was given out.
    op: Option<Arc<dyn Yields<T>>>,
    shared: Arc<Shared>,
    cancels: bool,
}

/// An op that gives back a `T`.
pub(crate) trait Yields<T>: Send + Sync {
    fn promise(&self) -> &Promise;
    /// What the op owned, once.
    fn give_back(&self) -> Option<T>;
    fn cancel(self: Arc<Self>, shared: &Arc<Shared>);
    /// The calling thread is about to wait for the op, and may make it itself.
    fn make_on_waiter(self: Arc<Self>, _shared: &Arc<Shared>) {}
}

impl<T, D: IoOpDesc + Owner<T> + 'static> Yields<T> for Op<D> {
    fn promise(&self) -> &Promise {
        &self.state.promise
    }

    fn give_back(&self) -> Option<T> {
        self.desc.give_back()
    }

    fn cancel(self: Arc<Self>, shared: &Arc<Shared>) {
        let op: Arc<Transfer> = self;
        shared.cancel(&op);
    }

    fn make_on_waiter(self: Arc<Self>, shared: &Arc<Shared>) {
        let op: Arc<Transfer> = self;
        shared.make_on_waiter(&op);
    }
}

impl Yields<()> for FileOp {
    fn promise(&self) -> &Promise {
        &self.promise
    }

    fn give_back(&self) -> Option<()> {
        Some(())
    }

    fn cancel(self: Arc<Self>, shared: &Arc<Shared>) {
        FileOp::cancel(&self, shared);
    }
}

/// A job on the file system. The ticket has the engine: the job must not, and a file that it opens needs it.
struct Opening<M, T> {
    // Dropped, and the file closed, before the engine goes.
    job: Arc<FileJob<M>>,
    engine: Arc<Engine>,
    options: OpOptions,
    finish: fn(M, Arc<Engine>, OpOptions) -> T,
}

impl<M: Send + 'static, T> Yields<T> for Opening<M, T> {
    fn promise(&self) -> &Promise {
        &self.job.promise
    }

    fn give_back(&self) -> Option<T> {
        self.job.take_made().map(|made| (self.finish)(made, self.engine.clone(), self.options))
    }

    fn cancel(self: Arc<Self>, shared: &Arc<Shared>) {
        self.job.cancel(shared);
    }
}

impl<T> Ticket<T> {
    pub(crate) fn new(op: Arc<dyn Yields<T>>, shared: Arc<Shared>) -> Self {
        Self { op: Some(op), shared, cancels: false }
    }

    /// Starts an op on memory that it owns.
    pub(crate) fn start(shared: &Arc<Shared>, desc: Owned<T>, options: OpOptions) -> Self
    where
        T: Send + 'static,
    {
        let op = shared.op(desc.validated(options.validate), Promise::new(None), options);
        let transfer: Arc<Transfer> = op.clone();
        if let Err(error) = shared.submit_own(&transfer, options.when_full()) {
            op.refuse(error);
        }
        Self::new(op, shared.clone())
    }

    pub(crate) fn start_desc<D>(shared: &Arc<Shared>, desc: D, options: OpOptions) -> Self
    where
        D: IoOpDesc + Owner<T> + 'static,
        T: 'static,
    {
        let op = shared.op(desc, Promise::new(None), options);
        if let Err(error) = shared.submit(&op, options.when_full()) {
            op.refuse(error);
        }
        Self::new(op, shared.clone())
    }

    /// The ticket of an op that is not submitted, because of `error`.
    pub(crate) fn refused<D>(shared: &Arc<Shared>, desc: D, options: OpOptions, error: Error) -> Self
    where
        D: IoOpDesc + Owner<T> + 'static,
        T: 'static,
    {
        let op = shared.op(desc, Promise::new(None), options);
        op.refuse(error);
        Self::new(op, shared.clone())
    }

    /// As [`start`](Self::start); an op that is not accepted gives back what it owned.
    pub(crate) fn try_start(shared: &Arc<Shared>, desc: Owned<T>, options: OpOptions) -> Result<Self, OpError<T>>
    where
        T: Send + 'static,
    {
        let op = shared.op(desc.validated(options.validate), Promise::new(None), options);
        let when_full = if options.unlimited { WhenFull::Exceed } else { WhenFull::Refuse };
        let transfer: Arc<Transfer> = op.clone();
        match shared.submit_own(&transfer, when_full) {
            Ok(()) => Ok(Self::new(op, shared.clone())),
            Err(error) => Err(OpError::new(error, op.desc.give_back())),
        }
    }

    /// Starts a job on a thread for operations on files, when the changes of the inode `after` that were accepted
    /// before have ended. What it made becomes a `T` when the ticket gives it out.
    pub(crate) fn start_file_job<M: Send + 'static>(
        engine: &Arc<Engine>,
        options: OpOptions,
        named: (OpKind, &Path),
        after: Option<Arc<Inode>>,
        work: impl FnOnce() -> Result<M> + Send + 'static,
        finish: fn(M, Arc<Engine>, OpOptions) -> T,
    ) -> Self
    where
        T: 'static,
    {
        let job = FileJob::new(named, options.priority, work);
        engine.shared().submit_job(&job, after);
        Self::new(Arc::new(Opening { job, engine: engine.clone(), options, finish }), engine.shared().clone())
    }

    /// The same ticket, whose drop cancels the op unless it has ended, as [`cancel`](Self::cancel) does: a wait that is
    /// given up, by a time-out or by a task that is aborted, stops what it waited for.
    ///
    /// Blocks that the kernel has already run on; the op's buffer goes back to its arena when they are done. The
    /// [`Error::Cancelled`] is reported nowhere.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # use aio_core::{AioFile, buf::AlignedBuf};
    /// # mod tokio { pub mod time {
    /// #     pub async fn timeout<F: Future>(_: std::time::Duration, f: F) -> Result<F::Output, ()> { Ok(f.await) }
    /// # } }
    /// async fn read(file: &AioFile, buffer: AlignedBuf) -> Option<AlignedBuf> {
    ///     // Without `cancel_on_drop` the read would go on after the time-out, to its last byte.
    ///     let ticket = file.read(buffer, 0).cancel_on_drop();
    ///     tokio::time::timeout(Duration::from_millis(100), ticket).await.ok()?.ok()
    /// }
    /// ```
    pub fn cancel_on_drop(mut self) -> Self {
        self.cancels = true;
        self
    }

    /// Blocks the calling thread until the op has ended, and gives back what it owned: with the result, or in the
    /// error.
    ///
    /// A read by path, or of up to a block of a cached file, that no thread has begun is made by this one.
    ///
    /// # Errors
    ///
    /// Why the op failed. [`Error::WaitOnWorker`] on a worker thread and [`Error::Forked`] in a forked child; the op
    /// is then detached, even with [`cancel_on_drop`](Self::cancel_on_drop), and its buffer stays with it.
    pub fn wait(mut self) -> Result<T, OpError<T>> {
        // Also where waiting is refused, the op is detached rather than stopped.
        self.cancels = false;
        if let Some(op) = &self.op
            && !self.is_done()
            && self.shared.check_process().is_ok()
            && self.shared.check_may_wait().is_ok()
        {
            op.clone().make_on_waiter(&self.shared);
        }
        match self.block_until(None) {
            Ok(_) => self.take(),
            Err(error) => Err(OpError::new(error, None)),
        }
    }

    /// Blocks the calling thread for at most `timeout`; true if the op has ended, so that [`wait`](Self::wait)
    /// returns at once.
    ///
    /// # Errors
    ///
    /// [`Error::WaitOnWorker`] on a worker thread, [`Error::Forked`] in a forked child.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<bool> {
        self.block_until(Instant::now().checked_add(timeout).map(Some).unwrap_or_default())
    }

    /// Whether the op has ended.
    pub fn is_done(&self) -> bool {
        self.op.as_ref().is_none_or(|op| op.promise().is_done())
    }

    /// Asks the op to stop, and returns at once.
    ///
    /// If its last block has completed by then, the result is Ok all the same. Otherwise it is [`Error::Cancelled`],
    /// once the blocks that the kernel has are done, and the contents of the op's range are unspecified.
    pub fn cancel(&self) {
        if let Some(op) = &self.op
            && !self.shared.is_forked()
        {
            op.clone().cancel(&self.shared);
        }
    }

    fn block_until(&self, deadline: Option<Instant>) -> Result<bool> {
        self.shared.check_process()?;
        let Some(op) = &self.op else { return Ok(true) };
        let promise = op.promise();
        if promise.is_done() {
            return Ok(true);
        }
        self.shared.check_may_wait()?;
        if self.shared.spin.until(deadline, || promise.is_done()) {
            return Ok(true);
        }
        let waker = unpark_current_thread();
        if !promise.add_thread(&waker) {
            return Ok(true);
        }
        while !promise.is_done() {
            match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => thread::park(),
                Some(Duration::ZERO) => {
                    promise.remove_thread(&waker);
                    return Ok(promise.is_done());
                }
                Some(left) => thread::park_timeout(left),
            }
        }
        Ok(true)
    }

    /// The result of an op that has ended.
    fn take(&mut self) -> Result<T, OpError<T>> {
        let Some(op) = self.op.take() else { return Err(OpError::new(Error::ResultTaken, None)) };
        let (outcome, lost) = op.promise().take();
        if lost {
            return Err(OpError::new(outcome.err().unwrap_or(Error::ResultTaken), None));
        }
        match (outcome, op.give_back()) {
            (Ok(_), Some(owned)) => Ok(owned),
            (Ok(_), None) => Err(OpError::new(Error::ResultTaken, None)),
            (Err(error), owned) => Err(OpError::new(error, owned)),
        }
    }
}

impl<T> Future for Ticket<T> {
    type Output = Result<T, OpError<T>>;

    /// Polled again after it was ready, it gives [`Error::ResultTaken`].
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Err(error) = self.shared.check_process() {
            return Poll::Ready(Err(OpError::new(error, None)));
        }
        match &self.op {
            Some(op) if op.promise().poll(context).is_pending() => Poll::Pending,
            _ => Poll::Ready(self.take()),
        }
    }
}

impl<T> Drop for Ticket<T> {
    fn drop(&mut self) {
        if self.cancels && !self.is_done() {
            self.cancel();
        }
        let Some(op) = self.op.take() else { return };
        if self.shared.is_forked() {
            // The buffer belongs to an arena and an engine of the parent.
            std::mem::forget(op);
            return;
        }
        if let Some(error) = op.promise().detach() {
            log(|| tracing::warn!(%error, "an op failed, and its ticket was dropped without a look"));
            self.shared.op_queue.add_failure(error);
        }
        // It may be the last reference, and the user's buffer go with it.
        report_drop(op);
    }
}

impl<T> fmt::Debug for Ticket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("is_done", &self.is_done()).finish_non_exhaustive()
    }
}

/// A waker that unparks the current thread; made once per thread.
fn unpark_current_thread() -> Waker {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    crate::sync::thread_local! {
        static WAKER: Waker = Waker::from(Arc::new(Unpark(thread::current())));
    }
    // Not while the thread's locals are being destroyed.
    WAKER.try_with(Waker::clone).unwrap_or_else(|_| Waker::from(Arc::new(Unpark(thread::current()))))
}
