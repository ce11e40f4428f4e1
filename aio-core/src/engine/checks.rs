//! What a call asks of its engine before it goes on: whether this process and this thread may use it.

use crate::engine::Shared;
use crate::error::{Error, Result};
use crate::sync::Ordering;
use crate::threads::{OnWorker, on_any_worker};

impl Shared {
    /// An error in a forked child, whose engine stayed with the parent.
    pub(crate) fn check_process(&self) -> Result<()> {
        if self.is_forked() { Err(Error::Forked) } else { Ok(()) }
    }

    pub(crate) fn is_forked(&self) -> bool {
        self.made_in.is_forked()
    }

    /// An error once the handle is closed, or in a forked child.
    pub(crate) fn check_open(&self) -> Result<()> {
        self.check_process()?;
        if self.closed.load(Ordering::Acquire) { Err(Error::Closed) } else { Ok(()) }
    }

    /// An error where waiting would wait for itself.
    pub(crate) fn check_may_wait(&self) -> Result<()> {
        self.check_process()?;
        if self.on_worker() { Err(Error::WaitOnWorker) } else { Ok(()) }
    }

    /// An error where waiting for the threads of the engine could wait for itself: on a worker of any engine, since two
    /// that wait for each other's threads would never end.
    pub(crate) fn check_may_join(&self) -> Result<()> {
        self.check_process()?;
        if on_any_worker() { Err(Error::WaitOnWorker) } else { Ok(()) }
    }

    /// Whether the current thread completes ops of this engine, and so must not wait for one.
    pub(crate) fn on_worker(&self) -> bool {
        OnWorker::is_of(std::ptr::from_ref(self).addr())
    }

    /// Marks the current thread as one that completes ops of this engine.
    pub(crate) fn enter_worker(&self) -> OnWorker {
        OnWorker::of(std::ptr::from_ref(self).addr())
    }
}
