//! Keeps SIGXFSZ away from users' threads.
//!
//! A write, or a change of length, past `RLIMIT_FSIZE` fails with EFBIG and sends the calling thread SIGXFSZ, which ends
//! the process unless the program does something about it. The limit can be lowered at any time, also by another process
//! (`prlimit(2)`), so a look at it before a call would prove nothing.
#![allow(unsafe_code)]

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

use crate::error::Result;

/// While it lives, the current thread blocks SIGXFSZ.
#[derive(Debug)]
pub(crate) struct NoFileSizeSignal {
    /// The mask to go back to; `None` if the signal was blocked before.
    before: Option<SigSet>,
}

impl NoFileSizeSignal {
    /// Blocks it.
    pub(crate) fn new() -> Self {
        let before = only_this().thread_swap_mask(SigmaskHow::SIG_BLOCK).ok();
        Self { before: before.filter(|before| !before.contains(Signal::SIGXFSZ)) }
    }

    /// Takes back a signal that a call of this thread has raised meanwhile.
    pub(crate) fn discard(&self) {
        if self.before.is_some() {
            let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: the set and the time are read during the call; no information about the signal is asked for.
            unsafe { libc::sigtimedwait(only_this().as_ref(), std::ptr::null_mut(), &raw const now) };
        }
    }
}

impl Drop for NoFileSizeSignal {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // Fails only for an unknown `how`.
            let _ = before.thread_set_mask();
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
