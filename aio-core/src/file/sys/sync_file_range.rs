//! `sync_file_range(2)`, which nix does not have.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

/// Makes the kernel begin to write out what the page cache has of a range, and does not wait for the end. It keeps what
/// fails for the next sync, so the call's own result says nothing that would be missed.
pub(crate) fn begin_write_back(fd: BorrowedFd<'_>, offset: u64, len: u64) {
    // SAFETY: no memory is involved, and `fd` is open.
    unsafe {
        libc::sync_file_range(fd.as_raw_fd(), offset.cast_signed(), len.cast_signed(), libc::SYNC_FILE_RANGE_WRITE);
    }
}
