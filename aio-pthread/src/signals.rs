//! Keeps signals away from pool threads.

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

/// Signals that a thread gets for its own faults. Blocked, they would end the process without the report of their
/// handler (the stack overflow message of the Rust runtime, a sanitizer, a crash reporter).
const FAULTS: [Signal; 7] = [
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGILL,
    Signal::SIGFPE,
    Signal::SIGTRAP,
    Signal::SIGSYS,
    Signal::SIGABRT,
];

/// Calls `start` with all signals blocked but [`FAULTS`], so that a thread that it starts never runs without this mask.
pub(crate) fn with_signals_blocked<T>(start: impl FnOnce() -> T) -> T {
    let mut mask = SigSet::all();
    for fault in FAULTS {
        mask.remove(fault);
    }
    let before = mask.thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let result = start();
    if let Ok(before) = before {
        // Fails only for an unknown `how`.
        let _ = before.thread_set_mask();
    }
    result
}
