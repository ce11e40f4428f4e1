//! Parts that backends share: for writing a backend, not for using one.

mod at_once;
mod event_waker;
mod probe;

pub use at_once::read_at_once;
#[cfg(all(test, loom))]
pub(crate) use event_waker::Word;
pub use event_waker::{EventFd, EventWaker};
pub use probe::round_trip;

pub use crate::foreign::log;
pub use crate::process::Generation as ProcessGeneration;

/// The kernel's way to return a count or a negated errno, as Rust's.
pub fn kernel_result(result: i64) -> std::io::Result<usize> {
    usize::try_from(result).map_err(|_| {
        let errno = i32::try_from(result.unsigned_abs()).unwrap_or(libc::EIO);
        std::io::Error::from_raw_os_error(errno)
    })
}
