//! Keeping blocks back.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use aio_core::backend::Wake;

use super::lock;

/// What a test sees and steers of all queues of one [`FaultBackend`](super::FaultBackend). Open at first.
#[derive(Default)]
pub struct Gate {
    closed: AtomicBool,
    kept: AtomicUsize,
    /// Of each queue; gone with the queue.
    wakers: Mutex<Vec<Weak<dyn Wake>>>,
    offences: Mutex<Vec<String>>,
}

impl Gate {
    /// From now on queues accept blocks, and do nothing with them.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Lets all blocks through.
    pub fn open(&self) {
        self.closed.store(false, Ordering::SeqCst);
        let wakers: Vec<_> = lock(&self.wakers).iter().filter_map(Weak::upgrade).collect();
        wakers.iter().for_each(|waker| waker.wake());
    }

    /// Wakes one queue, if it is there.
    pub fn wake(&self, queue: usize) {
        let waker = lock(&self.wakers).get(queue).and_then(Weak::upgrade);
        waker.iter().for_each(|waker| waker.wake());
    }

    /// How many blocks are kept back.
    pub fn kept(&self) -> usize {
        self.kept.load(Ordering::SeqCst)
    }

    /// Waits until this many blocks are kept back, so that they are in flight until the gate opens.
    pub fn wait_for(&self, blocks: usize) {
        while self.kept() < blocks {
            std::thread::yield_now();
        }
    }

    /// What the engine did to a queue that it must not do.
    pub fn offences(&self) -> Vec<String> {
        lock(&self.offences).clone()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub(super) fn add(&self, waker: &Arc<dyn Wake>) {
        lock(&self.wakers).push(Arc::downgrade(waker));
    }

    pub(super) fn keeps(&self, blocks: usize) {
        self.kept.fetch_add(blocks, Ordering::SeqCst);
    }

    pub(super) fn gives(&self, blocks: usize) {
        self.kept.fetch_sub(blocks, Ordering::SeqCst);
    }

    pub(super) fn offence(&self, what: String) {
        lock(&self.offences).push(what);
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("closed", &self.closed).field("kept", &self.kept).finish_non_exhaustive()
    }
}
