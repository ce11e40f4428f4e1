//! Keeps SIGXFSZ away from users' threads.
//!
//! A write, or a change of length, past `RLIMIT_FSIZE` fails with EFBIG and sends the calling thread SIGXFSZ, which ends
//! the process unless the program does something about it. The limit can be lowered at any time, also by another process
//! (`prlimit(2)`), so a look at it before a call would prove nothing.
#![allow(unsafe_code)]

use std::cell::RefCell;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

use crate::error::Result;
use crate::foreign::{contain, log};
use crate::sync::thread_local;

thread_local! {
    /// The engines that complete ops on this thread now, by the addresses of their `Shared`.
    static WORKER_OF: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// While it lives, an engine completes ops on the current thread.
#[derive(Debug)]
#[must_use]
pub(crate) struct OnWorker(());

impl Drop for OnWorker {
    fn drop(&mut self) {
        let _ = WORKER_OF.try_with(|engines| engines.borrow_mut().pop());
    }
}

impl OnWorker {
    /// Marks the current thread, unless its locals are destroyed already; an engine is named by its address.
    pub(crate) fn of(engine: usize) -> Self {
        let _ = WORKER_OF.try_with(|engines| engines.borrow_mut().push(engine));
        Self(())
    }

    /// Whether the current thread completes ops of this engine.
    pub(crate) fn is_of(engine: usize) -> bool {
        WORKER_OF.try_with(|engines| engines.borrow().contains(&engine)).unwrap_or(false)
    }
}

/// Whether the current thread completes ops of any engine, and so must not wait for what workers do.
pub(crate) fn on_any_worker() -> bool {
    WORKER_OF.try_with(|engines| !engines.borrow().is_empty()).unwrap_or(false)
}

/// What a thread of the engine runs. A panic goes to the log, and not into the thread's result: of a thread that is not
/// joined, the standard library drops the result where a second panic aborts the process.
pub(crate) fn thread_main(run: impl FnOnce()) {
    if let Err(panic) = contain(run) {
        log(|| tracing::error!(panic, "an aio thread panicked"));
    }
}

/// Signals are for the threads of the user. In particular SIGXFSZ, which comes with EFBIG, would end the process.
pub(crate) fn block_signals() {
    if let Err(error) = nix::sys::signal::SigSet::all().thread_block() {
        log(|| tracing::debug!(%error, "could not block signals on a worker"));
    }
}

/// While it lives, the current thread blocks SIGXFSZ.
#[derive(Debug)]
pub(crate) struct NoFileSizeSignal {
    /// Whether it was not blocked before.
    unblocks: bool,
}

impl NoFileSizeSignal {
    /// Blocks it.
    pub(crate) fn new() -> Self {
        let before = only_this().thread_swap_mask(SigmaskHow::SIG_BLOCK);
        Self { unblocks: before.is_ok_and(|before| !before.contains(Signal::SIGXFSZ)) }
    }

    /// Takes back a signal that a call of this thread has raised meanwhile.
    pub(crate) fn discard(&self) {
        if self.unblocks {
            let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: the set and the time are read during the call; no information about the signal is asked for.
            unsafe { libc::sigtimedwait(only_this().as_ref(), std::ptr::null_mut(), &raw const now) };
        }
    }
}

impl Drop for NoFileSizeSignal {
    fn drop(&mut self) {
        if self.unblocks {
            // Only this one: what runs meanwhile may change the rest of the mask. Fails only for an unknown `how`.
            let _ = only_this().thread_unblock();
        }
    }
}

fn only_this() -> SigSet {
    SigSet::from(Signal::SIGXFSZ)
}

/// Runs what may write past the limit of file sizes, and is then told so by EFBIG alone.
pub(crate) fn without_file_size_signal<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    let blocked = NoFileSizeSignal::new();
    let result = run();
    if result.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EFBIG)) {
        blocked.discard();
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What runs meanwhile, a callback or a buffer's drop, may block signals of its own.
    #[test]
    fn only_its_own_signal_is_unblocked_again() {
        std::thread::spawn(|| {
            let guard = NoFileSizeSignal::new();
            assert!(SigSet::thread_get_mask().unwrap().contains(Signal::SIGXFSZ));
            SigSet::from(Signal::SIGUSR1).thread_block().unwrap();
            drop(guard);
            let mask = SigSet::thread_get_mask().unwrap();
            assert_eq!((mask.contains(Signal::SIGXFSZ), mask.contains(Signal::SIGUSR1)), (false, true));
        })
        .join()
        .unwrap();
    }
}
