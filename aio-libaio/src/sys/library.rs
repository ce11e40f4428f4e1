//! Through the C library libaio, for those whose policy is that the distribution owns this ABI.
//!
//! libaio returns negated error numbers and leaves errno alone. Its `io_getevents` answers from the mapped ring only
//! when the timeout is zero and the ring is empty, which changes nothing for us.

use libc::{c_int, c_long, timespec};

use crate::abi::{io_context_t, io_event, iocb};

mod c {
    use super::{c_int, c_long, io_context_t, io_event, iocb, timespec};

    // Signatures of libaio.h, versions 0.3.107 to 0.3.113; symbol versions LIBAIO_0.1 and LIBAIO_0.4.
    #[link(name = "aio")]
    unsafe extern "C" {
        pub(super) fn io_setup(maxevents: c_int, ctxp: *mut io_context_t) -> c_int;
        pub(super) fn io_destroy(ctx: io_context_t) -> c_int;
        pub(super) fn io_submit(ctx: io_context_t, nr: c_long, ios: *mut *mut iocb) -> c_int;
        pub(super) fn io_getevents(
            ctx: io_context_t,
            min_nr: c_long,
            nr: c_long,
            events: *mut io_event,
            timeout: *mut timespec,
        ) -> c_int;
    }
}

/// `io_setup(2)`.
pub(crate) fn io_setup(requests: u32, context: &mut io_context_t) -> c_long {
    let Ok(requests) = c_int::try_from(requests) else { return -c_long::from(libc::EINVAL) };
    // SAFETY: the kernel writes the id to `context`, a live and exclusive place for one, and to nothing else.
    c_long::from(unsafe { c::io_setup(requests, context) })
}

/// `io_destroy(2)`: cancels what can be cancelled, waits for the rest, unmaps the ring.
///
/// # Safety
///
/// Nothing may use the ring mapped at `context` afterwards.
pub(crate) unsafe fn io_destroy(context: io_context_t) -> c_long {
    // SAFETY: the kernel looks the id up and refuses one it does not know; the caller gives up the mapping.
    c_long::from(unsafe { c::io_destroy(context) })
}

/// `io_submit(2)`.
///
/// # Safety
///
/// The first `count` of `requests` point to iocbs valid for reads and writes during the call; what these describe is
/// valid until they complete.
pub(crate) unsafe fn io_submit(context: io_context_t, count: c_long, requests: *mut *mut iocb) -> c_long {
    // SAFETY: the caller vouches for the array, the requests and the memory that these name.
    c_long::from(unsafe { c::io_submit(context, count, requests) })
}

/// `io_getevents(2)`.
///
/// # Safety
///
/// `context` is null or live, since the library may look at its ring. `events` is valid for writing `most` events;
/// `timeout` is null or valid.
pub(crate) unsafe fn io_getevents(
    context: io_context_t,
    least: c_long,
    most: c_long,
    events: *mut io_event,
    timeout: *mut timespec,
) -> c_long {
    // SAFETY: the caller vouches for the pointers; the kernel checks the numbers against each other.
    c_long::from(unsafe { c::io_getevents(context, least, most, events, timeout) })
}
