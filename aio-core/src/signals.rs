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
