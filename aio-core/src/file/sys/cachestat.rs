//! `cachestat(2)` (Linux 6.5). Neither libc nor nix has it, or its structures, yet.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The number in the table that all architectures of Rust's but Alpha and MIPS share.
const SYS_CACHESTAT: libc::c_long = 451;

/// What the page cache has of a range, in pages: the kernel's `struct cachestat`.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct CacheStat {
    /// Dirty ones included.
    pub(crate) cached: u64,
    pub(crate) dirty: u64,
    pub(crate) writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Asks for `len` bytes from `from`.
pub(crate) fn cachestat(fd: BorrowedFd<'_>, from: u64, len: u64) -> io::Result<CacheStat> {
    /// `struct cachestat_range`
    #[repr(C)]
    struct Range {
        off: u64,
        len: u64,
    }
    let range = Range { off: from, len };
    let mut found = CacheStat::default();
    // SAFETY: both structures are the kernel's, alive for the call, and `fd` is open.
    let status = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            fd.as_raw_fd(),
            std::ptr::from_ref(&range),
            std::ptr::from_mut(&mut found),
            0 as libc::c_uint,
        )
    };
    if status == 0 { Ok(found) } else { Err(io::Error::last_os_error()) }
}
