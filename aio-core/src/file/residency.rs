//! Whether a file lies in the page cache, so that reading it from there beats asking the device.
//!
//! With [`DirectMode::Auto`](crate::DirectMode::Auto), reads of a file that is resident go through the cache. Of a file
//! without direct I/O all do; there the answer tells whether they are [copies](crate::engine::copiers). What is known of
//! a file is a sample, taken with `cachestat(2)` (Linux 6.5) at the first read and after every
//! [`INTERVAL`] reads, never per read:
//!
//! - Unknown, not resident, or written since: [`WINDOWS`] windows of [`WINDOW`] bytes, spread evenly over the file, the
//!   last at its end. All but one in [`MAY_MISS`] of their pages must be cached; the sample ends when more are not, so
//!   that it costs two system calls for a file that is not cached at all. A file of 4 MiB or less is looked at whole.
//! - Resident: the window that follows the read at hand. It is what a sequential reader needs next, and any window
//!   will do
//!   for a random one. If too much of it is missing, the sample above decides.
//!
//! A few pages may be missing because kernels that reclaim ahead of need (DAMON) make holes everywhere, and a read that
//! misses costs little more than a direct one. A file that was evicted is noticed within one interval; meanwhile its
//! reads fill the cache by whole requests, without read-ahead.
//!
//! The call takes up to 50 ns per page of a window (single pages; large folios are almost free), so the cost of a sample
//! does not grow with the file: 3 us after 1024 reads, which take 450 us at least, and 45 us at first.
//!
//! # Why cached reads and direct writes get along
//!
//! A direct write covers whole units, and so whole pages. The kernel writes the cached pages of its range out and drops
//! them before the device writes (`kiocb_invalidate_pages`), and drops them again afterwards, before the write is
//! reported (`kiocb_invalidate_post_direct_write`): a read that began in between may have brought old bytes in. Hence
//!
//! - a read that begins after a write was reported finds the new bytes, from the device or in the cache;
//! - a read beside a write in flight has bytes of its own to read, thus other pages, which the write does not touch.
//!
//! The second dropping fails only for a page that is dirty by then. Reads make none dirty, and while a direct write
//! is in flight, neither does this process: see [`routes`](super::routes).
//!
//! The answer is cautious beyond that, for files with direct I/O: a write accepted for the inode in this process, through
//! whichever open file, makes what is known void until the next sample ([`Inode::changes`]), and a sample with writes in
//! flight says no. Validating reads, writes and files opened with [`DirectMode::On`](crate::DirectMode::On) never ask.
//! Nor do files whose file system does not tell the alignment of direct I/O: on network file systems, the cache may be
//! older than the file.

use std::array;
use std::io;
use std::os::fd::BorrowedFd;

use crate::file::OpenFile;
use crate::file::inode::Inode;
use crate::file::sys::cachestat::cachestat;
use crate::foreign::log;
use crate::memory::page_size;
use crate::printable::shown;
use crate::sync::{AtomicU64, Ordering, process};

/// Reads between samples; one of `WEIGHT` bytes more counts as one more.
const INTERVAL: u64 = 1024;
const WEIGHT: u64 = 256 << 10;
/// Bytes and number of the windows that a sample looks at.
const WINDOW: u64 = 256 << 10;
const WINDOWS: u64 = 16;
/// One in so many pages may be missing.
const MAY_MISS: u64 = 16;

/// The kernel has no `cachestat(2)`.
static MISSING: process::AtomicBool = process::AtomicBool::new(false);

/// What is known of an open file.
#[derive(Debug, Default)]
pub(crate) struct Residency {
    /// One of the first three constants below, or [`RESIDENT`] plus the inode's changes when it was sampled.
    state: AtomicU64,
    /// Weight of the reads so far.
    reads: AtomicU64,
}

const UNKNOWN: u64 = 0;
const NOT_RESIDENT: u64 = 1;
/// The kernel does not tell, and will not be asked again.
const UNSUPPORTED: u64 = 2;
const RESIDENT: u64 = 3;

impl Residency {
    /// Whether a read of `file`, whose residency this is, should go through the page cache. The descriptor for that is
    /// open then.
    #[inline]
    pub(crate) fn is_resident(&self, file: &OpenFile) -> bool {
        match self.state.load(Ordering::Acquire) {
            UNKNOWN => self.sample(file),
            NOT_RESIDENT | UNSUPPORTED => false,
            known => is_as_sampled(file, known),
        }
    }

    /// Counts `reads` reads of together `bytes` bytes, the last of which ends at `end`, and takes a sample when it is
    /// time.
    #[inline]
    pub(crate) fn count(&self, file: &OpenFile, reads: u64, bytes: u64, end: u64) {
        let weight = reads + bytes / WEIGHT;
        let before = self.reads.fetch_add(weight, Ordering::Relaxed);
        if before / INTERVAL != before.wrapping_add(weight) / INTERVAL {
            self.resample(file, end);
        }
    }

    #[cold]
    fn resample(&self, file: &OpenFile, end: u64) {
        match self.state.load(Ordering::Acquire) {
            UNSUPPORTED => {}
            known if known >= RESIDENT && is_as_sampled(file, known) => {
                let following = file.len().and_then(|len| {
                    let from = if end.saturating_add(WINDOW) <= len { end } else { 0 };
                    are_cached(file.fd(), [from], WINDOW.min(len - from))
                });
                if !matches!(following, Ok(true)) {
                    self.sample(file);
                }
            }
            _ => drop(self.sample(file)),
        }
    }

    #[cold]
    fn sample(&self, file: &OpenFile) -> bool {
        let state = match file.shared_inode() {
            Some(inode) if !file.is_direct() || !inode.write_back.has_writes_in_flight() => state_of(file, inode),
            _ => Ok(NOT_RESIDENT),
        };
        let state = state.unwrap_or_else(|error| {
            log(|| tracing::debug!(path = %shown(file.path()), %error, "not known whether the file is cached"));
            UNSUPPORTED
        });
        self.state.store(state, Ordering::Release);
        state >= RESIDENT
    }
}

/// Whether no write was accepted since a sample found the file resident. A file without direct I/O is not written past
/// the page cache, so writes leave it there.
fn is_as_sampled(file: &OpenFile, known: u64) -> bool {
    !file.is_direct() || file.shared_inode().is_some_and(|inode| inode.changes() == known - RESIDENT)
}

fn state_of(file: &OpenFile, inode: &Inode) -> io::Result<u64> {
    // Counted before the cache is looked at: a write meanwhile makes the answer void.
    let changes = inode.changes();
    if !is_resident(file.fd(), file.len()?)? {
        return Ok(NOT_RESIDENT);
    }
    file.buffered()?;
    Ok(RESIDENT + changes)
}

/// Whether an open file of `len` bytes that will be read once is in the page cache and not being written.
pub(super) fn is_resident_now(fd: BorrowedFd<'_>, len: u64, identity: (u64, u64)) -> bool {
    matches!(is_resident(fd, len), Ok(true))
        && !Inode::find(identity).is_some_and(|inode| inode.write_back.has_writes_in_flight())
}

/// Whether an open file of `len` bytes is in the page cache, as far as a sample tells.
fn is_resident(fd: BorrowedFd<'_>, len: u64) -> io::Result<bool> {
    if len <= WINDOW * WINDOWS {
        return are_cached(fd, [0], len);
    }
    let (page, last) = (page_size() as u64, len - WINDOW);
    let windows = array::from_fn::<_, { WINDOWS as usize }, _>(|window| {
        let from = last / (WINDOWS - 1) * window as u64 / page * page;
        // Rounding may have left the end out.
        if window as u64 == WINDOWS - 1 { last } else { from }
    });
    are_cached(fd, windows, WINDOW)
}

/// Whether nearly all pages of some windows, each `len` bytes long, are in the page cache. Empty ones are not.
fn are_cached<const N: usize>(fd: BorrowedFd<'_>, windows: [u64; N], len: u64) -> io::Result<bool> {
    if MISSING.load(Ordering::Relaxed) {
        return Err(io::Error::from_raw_os_error(libc::ENOSYS));
    }
    if len == 0 {
        return Ok(false);
    }
    let page = page_size() as u64;
    let pages = windows.map(|from| (from + len).div_ceil(page) - from / page);
    let may_miss = pages.iter().sum::<u64>() / MAY_MISS;
    let mut missing = 0;
    for (from, pages) in windows.into_iter().zip(pages) {
        let cached = cachestat(fd, from, len).inspect_err(|error| {
            if error.raw_os_error() == Some(libc::ENOSYS) {
                MISSING.store(true, Ordering::Relaxed);
            }
        })?;
        missing += pages.saturating_sub(cached.cached);
        if missing > may_miss {
            return Ok(false);
        }
    }
    Ok(true)
}
