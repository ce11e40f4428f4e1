//! What the page cache holds of one file.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::libc;

/// Counts, in pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageCache {
    /// In the page cache.
    pub cached: u64,
    /// Not on the device yet: dirty, or under writeback.
    pub unwritten: u64,
}

impl PageCache {
    /// Whether [`of`](Self::of) counts the pages of files in `dir`. On an overlay it counts none, because they belong to
    /// the files below.
    pub fn counts_files_in(dir: &Path) -> bool {
        let Ok(mut file) = tempfile::tempfile_in(dir) else { return false };
        file.write_all(b"a page").is_ok() && Self::of(&file).is_some_and(|pages| pages.cached > 0)
    }

    /// `cachestat(2)` of a whole file; `None` where the kernel lacks it (before Linux 6.5) or does not allow it.
    #[expect(unsafe_code, reason = "neither nix nor libc has it yet")]
    pub fn of(file: &File) -> Option<Self> {
        // Offset and length (0: to the end); cached, dirty, under writeback, evicted, recently evicted.
        let (range, mut found) = ([0_u64; 2], [0_u64; 5]);
        // SAFETY: two and five 64-bit numbers have the layout of the call's structures, and both outlive it.
        let status = unsafe { libc::syscall(451, file.as_raw_fd(), range.as_ptr(), found.as_mut_ptr(), 0) };
        (status == 0).then(|| Self { cached: found[0], unwritten: found[1] + found[2] })
    }
}
