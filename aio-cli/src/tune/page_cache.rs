//! What the page cache holds of one file: for tests, whatever other tests do meanwhile.

use std::fs::File;
use std::os::fd::AsRawFd;

/// In pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageCache {
    pub(super) cached: u64,
    /// Not on the device yet: dirty, or just being written.
    pub(super) unwritten: u64,
}

impl PageCache {
    /// `cachestat(2)` of a whole file. `None` where the kernel does not tell.
    #[expect(unsafe_code, reason = "neither nix nor libc has it yet")]
    pub(super) fn of(file: &File) -> Option<Self> {
        // Offset and length, and 0 is to the end; cached, dirty, under writeback, evicted, recently evicted.
        let (range, mut found) = ([0_u64; 2], [0_u64; 5]);
        // SAFETY: two and five 64-bit numbers are the structures of the call, and both outlive it.
        let status = unsafe { libc::syscall(451, file.as_raw_fd(), range.as_ptr(), found.as_mut_ptr(), 0) };
        (status == 0).then(|| Self { cached: found[0], unwritten: found[1] + found[2] })
    }
}
