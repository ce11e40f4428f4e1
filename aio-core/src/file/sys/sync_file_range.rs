//! `sync_file_range(2)`, which nix does not have.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Makes the kernel begin to write out what the page cache has of a range, and does not wait for the end. An error is
/// one of a page that could not be written, which no later call need report; that of a page on its way shows in a sync.
pub(crate) fn begin_write_back(fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    // SAFETY: no memory is involved, and `fd` is open.
    let status = unsafe {
        libc::sync_file_range(fd.as_raw_fd(), offset.cast_signed(), len.cast_signed(), libc::SYNC_FILE_RANGE_WRITE)
    };
    if status == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if is_refused(&error) { Ok(()) } else { Err(error) }
}

/// The kernel, or a sandbox, has not begun: nothing was written, and nothing lost.
fn is_refused(error: &io::Error) -> bool {
    let refused = [libc::EINTR, libc::ENOSYS, libc::EPERM, libc::EACCES, libc::EINVAL, libc::ESPIPE];
    error.raw_os_error().is_some_and(|errno| refused.contains(&errno))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::fs::OpenOptions;
    use std::os::fd::AsFd;
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    #[test]
    fn what_was_not_begun_is_no_error() {
        let (pipe, _other_end) = io::pipe().unwrap();
        begin_write_back(pipe.as_fd(), 0, 4096).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        begin_write_back(file.as_file().as_fd(), 0, 4096).unwrap();
        begin_write_back(file.as_file().as_fd(), u64::MAX, 4096).unwrap();
        // Any other error is.
        let path_only = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(file.path()).unwrap();
        assert_eq!(begin_write_back(path_only.as_fd(), 0, 4096).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
