//! Reads of what the page cache holds.

use std::io;

use super::super::{Direction, IoBlock};

/// `preadv2(2)` with `RWF_NOWAIT`: for [`IoBackend::read_at_once`](crate::backend::IoBackend::read_at_once).
///
/// # Safety
///
/// As for [`IoBackend::transfer`](crate::backend::IoBackend::transfer).
pub unsafe fn read_at_once(block: &IoBlock) -> io::Result<usize> {
    let offset = libc::off_t::try_from(block.offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    if block.direction != Direction::Read {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let memory = libc::iovec { iov_base: block.ptr.cast(), iov_len: block.len };
    // SAFETY: the caller vouches for the memory and the descriptor for the duration of the call; the list is alive.
    let moved = unsafe { libc::preadv2(block.fd, &raw const memory, 1, offset, libc::RWF_NOWAIT) };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}
