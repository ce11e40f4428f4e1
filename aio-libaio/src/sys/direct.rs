//! Straight into the kernel: the C library has no wrappers for these, and nothing has to be installed.

use libc::{c_long, timespec};

use crate::abi::{io_context_t, io_event, iocb};

/// `io_setup(2)`.
pub(crate) fn io_setup(requests: u32, context: &mut io_context_t) -> c_long {
    // SAFETY: the kernel writes the id to `context`, a live and exclusive place for one, and to nothing else.
    returned(unsafe { libc::syscall(libc::SYS_io_setup, c_long::from(requests), std::ptr::from_mut(context)) })
}

/// `io_destroy(2)`: cancels what can be cancelled, waits for the rest, unmaps the ring.
///
/// # Safety
///
/// Nothing may use the ring mapped at `context` afterwards.
pub(crate) unsafe fn io_destroy(context: io_context_t) -> c_long {
    // SAFETY: the kernel looks the id up and refuses one it does not know; the caller gives up the mapping.
    returned(unsafe { libc::syscall(libc::SYS_io_destroy, context) })
}

/// `io_submit(2)`.
///
/// # Safety
///
/// The first `count` of `requests` point to iocbs valid for reads and writes during the call; what these describe is
/// valid until they complete.
pub(crate) unsafe fn io_submit(context: io_context_t, count: c_long, requests: *mut *mut iocb) -> c_long {
    // SAFETY: the caller vouches for the array, the requests and the memory that these name.
    returned(unsafe { libc::syscall(libc::SYS_io_submit, context, count, requests) })
}

/// `io_getevents(2)`. Its sibling `io_pgetevents` adds a signal mask, which a queue that retries EINTR does not need.
///
/// # Safety
///
/// `events` is valid for writing `most` events; `timeout` is null or valid.
pub(crate) unsafe fn io_getevents(
    context: io_context_t,
    least: c_long,
    most: c_long,
    events: *mut io_event,
    timeout: *mut timespec,
) -> c_long {
    // SAFETY: the caller vouches for the two pointers; the kernel checks the numbers against each other.
    returned(unsafe { libc::syscall(libc::SYS_io_getevents, context, least, most, events, timeout) })
}

/// `syscall(2)` reports -1 and sets errno; the convention of this module is the negated errno.
fn returned(result: c_long) -> c_long {
    if result >= 0 {
        return result;
    }
    -c_long::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}
