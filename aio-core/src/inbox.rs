//! The requests of other threads to each worker, and how a worker is woken.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::backend::{FileId, RegionId, Wake};
use crate::foreign::{catch, report};
use crate::sync::{AtomicBool, Mutex, Ordering, ThreadSync, lock};

/// The requests to one worker, and the waker of its queue.
#[derive(Default)]
pub(crate) struct Inbox {
    waker: OnceLock<Arc<dyn Wake>>,
    pending: Mutex<Pending>,
    has_requests: AtomicBool,
}

/// The requests that the worker has not taken yet.
#[derive(Default)]
struct Pending {
    /// The worker is gone, and its queue with it.
    closed: bool,
    requests: Vec<Request>,
}

/// A request to a worker, which handles it while it holds no op that has ended.
#[derive(Debug)]
pub(crate) enum Request {
    /// Remove a file from the queue's table.
    RemoveFile(FileId),
    /// Remove regions from the queue, release unused staging buffers, then drop this.
    ReleaseRegions(Arc<dyn RegionRequest>),
    /// Arrive at a barrier.
    Barrier(Arc<Barrier>),
}

/// The regions that an arena needs back. The worker's answer is that it drops its reference.
pub(crate) trait RegionRequest: fmt::Debug + Send + Sync {
    /// Their names; none if only staging buffers are needed.
    fn regions(&self) -> &[RegionId];
}

/// A barrier that each worker arrives at once; the count is of those that have yet to arrive.
#[derive(Debug)]
pub(crate) struct Barrier(ThreadSync<usize>);

impl Barrier {
    pub(crate) fn arrive(&self) {
        *self.0.lock() -= 1;
        self.0.notify_all();
    }
}

/// Waits until every worker has let go of what it holds now. A worker that shared an op with another may hold it for a
/// moment after the other has ended it. Not for workers.
pub(crate) fn barrier(inboxes: &[Inbox]) {
    let barrier = Arc::new(Barrier(ThreadSync::new(inboxes.len())));
    for inbox in inboxes {
        if !inbox.send(Request::Barrier(barrier.clone())) {
            barrier.arrive();
        }
    }
    drop(barrier.0.wait_until(barrier.0.lock(), None, |left| *left == 0));
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("has_requests", &self.has_requests).finish_non_exhaustive()
    }
}

impl Inbox {
    /// Sets the waker of the worker's queue, once that is open.
    pub(crate) fn set_waker(&self, waker: Arc<dyn Wake>) {
        let _ = self.waker.set(waker);
    }

    /// Wakes the worker, if its queue is open.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            report(catch("wake", || waker.wake()));
        }
    }

    /// Whether [`take_requests`](Self::take_requests) would find something.
    pub(crate) fn has_requests(&self) -> bool {
        self.has_requests.load(Ordering::Acquire)
    }

    /// Takes the requests that came since the last time.
    pub(crate) fn take_requests(&self) -> Vec<Request> {
        let mut pending = lock(&self.pending);
        self.has_requests.store(false, Ordering::Release);
        std::mem::take(&mut pending.requests)
    }

    /// Takes the last requests and refuses later ones. The worker stops, and holds neither files nor ops any more.
    pub(crate) fn close(&self) -> Vec<Request> {
        let mut pending = lock(&self.pending);
        pending.closed = true;
        std::mem::take(&mut pending.requests)
    }

    /// Adds a request and wakes the worker. False if the worker is gone.
    pub(crate) fn send(&self, request: Request) -> bool {
        {
            let mut pending = lock(&self.pending);
            if pending.closed {
                return false;
            }
            pending.requests.push(request);
            self.has_requests.store(true, Ordering::Release);
        }
        self.wake();
        true
    }
}
