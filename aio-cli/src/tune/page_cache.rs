//! What the page cache holds of one file, for tests that run beside others.

use std::fs::File;
use std::os::fd::AsRawFd;

/// Counts, in pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageCache {
    pub(super) cached: u64,
    /// Not on the device yet: dirty, or under writeback.
    pub(super) unwritten: u64,
}

impl PageCache {
    /// `cachestat(2)` of a whole file; `None` where the kernel lacks it.
    #[expect(unsafe_code, reason = "neither nix nor libc has it yet")]
    pub(super) fn of(file: &File) -> Option<Self> {
        // Offset and length (0: to the end); cached, dirty, under writeback, evicted, recently evicted.
        let (range, mut found) = ([0_u64; 2], [0_u64; 5]);
        // SAFETY: two and five 64-bit numbers have the layout of the call's structures, and both outlive it.
        let status = unsafe { libc::syscall(451, file.as_raw_fd(), range.as_ptr(), found.as_mut_ptr(), 0) };
        (status == 0).then(|| Self { cached: found[0], unwritten: found[1] + found[2] })
    }
}
