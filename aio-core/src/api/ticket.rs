//! Tickets: what a user holds per op in flight.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crate::engine::promise::Promise;
use crate::engine::transfer::{Op, Transfer};
use crate::engine::{FileOp, Shared};
use crate::error::{Error, OpError, Result};
use crate::foreign::log;
use crate::foreign::report_drop;
use crate::op::desc::IoOpDesc;
use crate::sync::thread::{self, Thread};

/// One op in flight, which owns its buffer until it has ended.
///
/// A ticket is waited for by blocking ([`wait`](Self::wait)) or as a [`Future`], on any runtime. Dropping it detaches
/// it: the op runs on, and if it fails, the next [`AioHandle::wait`](crate::AioHandle::wait) and a warning in the log
/// say so. An op that was cancelled before its ticket was dropped has not failed.
#[must_use = "dropping a ticket leaves the op to itself; its failure goes to the handle's next wait()"]
pub struct Ticket<T> {
    /// `None` once the result was given out.
    op: Option<Arc<dyn Yields<T>>>,
    shared: Arc<Shared>,
}

/// An op that gives back a `T`.
pub(crate) trait Yields<T>: Send + Sync {
    fn promise(&self) -> &Promise;
    /// What the op owned, once.
    fn give_back(&self) -> Option<T>;
    fn cancel(self: Arc<Self>, shared: &Arc<Shared>);
}

/// A descriptor that owns what a ticket gives back.
pub(crate) trait Owner<T> {
    fn give_back(&self) -> Option<T>;
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
}

impl Yields<()> for FileOp {
    fn promise(&self) -> &Promise {
        &self.promise
    }

    fn give_back(&self) -> Option<()> {
        Some(())
    }

    fn cancel(self: Arc<Self>, _shared: &Arc<Shared>) {
        FileOp::cancel(&self);
    }
}

impl<T> Ticket<T> {
    pub(crate) fn new(op: Arc<dyn Yields<T>>, shared: Arc<Shared>) -> Self {
        Self { op: Some(op), shared }
    }

    /// Waits until the op has ended, and gives back what it owned: with the result, or in the error.
    ///
    /// # Errors
    ///
    /// Why the op failed. [`Error::WaitOnWorker`] on a worker thread and [`Error::Forked`] in a forked child; the op
    /// is then detached, and its buffer stays with it.
    pub fn wait(mut self) -> Result<T, OpError<T>> {
        match self.block_until(None) {
            Ok(_) => self.take(),
            Err(error) => Err(OpError::new(error, None)),
        }
    }

    /// Waits for at most `timeout`; true if the op has ended, so that [`wait`](Self::wait) returns at once.
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
