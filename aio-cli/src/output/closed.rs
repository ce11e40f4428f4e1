//! Whether stdout was closed when the process began.
//!
//! Rust opens /dev/null for closed standard descriptors before `main`, so this code runs even earlier.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc::{F_GETFD, STDOUT_FILENO, fcntl};

static CLOSED: AtomicBool = AtomicBool::new(false);

pub(super) fn at_start() -> bool {
    CLOSED.load(Ordering::Relaxed)
}

// SAFETY: the loader calls each pointer of this section once, before `main`, as a C function; this one uses nothing of
// the standard library that needs setup.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    // SAFETY: F_GETFD reads a flag of a descriptor, or fails if it is closed.
    let flags = unsafe { fcntl(STDOUT_FILENO, F_GETFD) };
    CLOSED.store(flags == -1, Ordering::Relaxed);
}
