//! Where a file grows.
//!
//! A write past the end first extends the file with `fallocate(2)`: extending direct writes are handed to kernel
//! workers by io_uring and block the submitter under libaio, at about half the speed. That makes the file longer
//! before the bytes are there, so a write that fails has to give the length back without cutting off what others
//! wrote meanwhile. All open files of an inode must agree on this, so its [`Inode`](super::inode::Inode) has one
//! [`Growth`].

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;

use crate::file::routes::RoutePermit;
use crate::foreign::log;
use crate::memory::page_size;
use crate::sync::{AtomicU64, Mutex, Ordering, lock};

/// The length of an inode: what is certain, and what writes in flight add to it.
#[derive(Debug)]
pub(crate) struct Growth {
    /// A length up to which no write needs to care: nothing below it is ever given back.
    settled: AtomicU64,
    lengths: Mutex<Lengths>,
}

/// The lengths of a file that writes make longer.
#[derive(Debug, Default)]
struct Lengths {
    /// The larger of the length before and the end of the last write that completed.
    committed: u64,
    /// The length that extending gave the file.
    reserved: u64,
    /// Ends of the writes in flight that end past `committed`.
    extending: Vec<u64>,
    /// The file was cut other than by [`Growth::set_len`], so a length to go back to is not known.
    cut: bool,
}

/// What [`Growth::begin`] did.
#[derive(Debug)]
pub(crate) enum Begun {
    /// Nothing: the file is as long as the write needs.
    Inside,
    /// The write makes the file longer.
    Extending(ExtendingWrite),
    /// Nothing: the file ends inside a page, which file systems may make dirty as they extend it, so this takes a permit
    /// for [`Route::Cached`](crate::file::routes::Route::Cached).
    NeedsPermit,
}

/// A write that may have made the file longer; to be given to [`Growth::end`] exactly once.
#[derive(Debug)]
#[must_use]
pub(crate) struct ExtendingWrite {
    /// The length of the file before.
    pub(crate) from: u64,
    end: u64,
}

impl Growth {
    /// Of a file that is `len` bytes long, or `u64::MAX` if it cannot grow.
    pub(crate) fn new(len: u64) -> Self {
        Self { settled: AtomicU64::new(len), lengths: Mutex::default() }
    }

    /// The file was `len` bytes long when it was opened once more: it may have been cut since its length was settled.
    pub(crate) fn reopened(&self, len: u64) {
        self.settled.fetch_min(len, Ordering::AcqRel);
    }

    /// Whether a write up to `end` may make the file longer, so that it has to [begin](Self::begin) here.
    pub(crate) fn may_grow(&self, end: u64) -> bool {
        end > self.settled.load(Ordering::Acquire)
    }

    /// Extends the file for a write of bytes somewhere in `from..end`, if it is shorter. Extensions of one file are
    /// serialised here. A `permit` is one for the page cache.
    pub(crate) fn begin(
        &self,
        fd: BorrowedFd<'_>,
        from: u64,
        end: u64,
        preallocate: bool,
        permit: Option<&RoutePermit>,
    ) -> io::Result<Begun> {
        if !self.may_grow(end) {
            return Ok(Begun::Inside);
        }
        let mut lengths = lock(&self.lengths);
        let (len, block) = len_and_block_of(fd)?;
        if end > len && permit.is_none() && !len.is_multiple_of(block) {
            return Ok(Begun::NeedsPermit);
        }
        if lengths.extending.is_empty() {
            let cut = len < self.settled.load(Ordering::Acquire);
            *lengths = Lengths { committed: len, reserved: len, extending: Vec::new(), cut };
            self.settled.store(len, Ordering::Release);
        }
        if end <= lengths.committed {
            return Ok(Begun::Inside);
        }
        if end > len {
            if preallocate {
                lengths.preallocate(fd, len, from.max(len)..end)?;
            }
            lengths.reserved = lengths.reserved.max(end);
        }
        lengths.extending.push(end);
        Ok(Begun::Extending(ExtendingWrite { from: len, end }))
    }

    /// The write ended; `wrote` says whether all its bytes are there. If not, the length that it gave the file and that
    /// no other write needs is given back.
    pub(crate) fn end(&self, fd: BorrowedFd<'_>, write: ExtendingWrite, wrote: bool) -> io::Result<()> {
        let mut lengths = lock(&self.lengths);
        if let Some(index) = lengths.extending.iter().position(|end| *end == write.end) {
            lengths.extending.swap_remove(index);
        }
        let mut result = Ok(());
        if wrote {
            lengths.committed = lengths.committed.max(write.end);
        } else if !lengths.cut {
            result = lengths.give_back(fd);
        }
        if lengths.extending.is_empty() {
            self.settled.store(lengths.committed, Ordering::Release);
        }
        result
    }

    /// `ftruncate(2)`.
    pub(crate) fn set_len(&self, fd: BorrowedFd<'_>, len: u64) -> io::Result<()> {
        let mut lengths = lock(&self.lengths);
        ftruncate(fd, to_off(len)?)?;
        lengths.committed = len;
        lengths.reserved = len;
        self.settled.store(len, Ordering::Release);
        Ok(())
    }

    /// `fallocate(2)` of a range, which makes the file longer if it ends past the end. A failure leaves no trace.
    pub(crate) fn allocate(&self, fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
        let mut lengths = lock(&self.lengths);
        let before = len_of(fd)?;
        if lengths.extending.is_empty() {
            lengths.committed = before;
        }
        let end = offset.checked_add(len).ok_or_else(|| io::Error::from(Errno::EFBIG))?;
        lengths.allocate_or_restore(fd, before, offset..end)?;
        lengths.committed = lengths.committed.max(end);
        self.settled.fetch_max(lengths.committed, Ordering::AcqRel);
        Ok(())
    }
}

impl Lengths {
    /// What the file must not be cut below: a write got that far, or is about to.
    fn keep(&self) -> u64 {
        self.extending.iter().copied().fold(self.committed, u64::max)
    }

    /// Cuts the file back to what completed writes and those in flight need.
    fn give_back(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let (keep, len) = (self.keep(), len_of(fd)?);
        // A length past what was reserved is not from here, and left alone.
        if len > keep && len <= self.reserved {
            ftruncate(fd, to_off(keep)?)?;
            self.reserved = keep;
        }
        Ok(())
    }

    /// Makes the file longer and allocates the space, or goes on without where the file system cannot.
    fn preallocate(&self, fd: BorrowedFd<'_>, len: u64, range: Range<u64>) -> io::Result<()> {
        match self.allocate_or_restore(fd, len, range) {
            Err(error) if is_unsupported(&error) => Ok(()),
            result => result,
        }
    }

    /// `fallocate(2)`. When it fails it may have taken the rest of the disk and made the file longer all the same, so
    /// the length is put back, which also frees what was allocated past it, but never below what others have written
    /// or are writing meanwhile.
    fn allocate_or_restore(&self, fd: BorrowedFd<'_>, before: u64, range: Range<u64>) -> io::Result<()> {
        let (offset, len) = (to_off(range.start)?, to_off(range.end - range.start)?);
        loop {
            let error = match fallocate(fd, FallocateFlags::empty(), offset, len) {
                Ok(()) => return Ok(()),
                Err(Errno::EINTR) => continue,
                Err(error) => io::Error::from(error),
            };
            if is_unsupported(&error) {
                return Err(error);
            }
            let back = before.max(self.keep());
            let restored = if self.extending.is_empty() || len_of(fd)? > back {
                ftruncate(fd, to_off(back)?).map_err(io::Error::from)
            } else {
                Ok(())
            };
            if let Err(restore) = restored {
                log(|| tracing::warn!(fd = fd.as_raw_fd(), %restore, "could not put a file's length back"));
            }
            return Err(error);
        }
    }
}

/// Whether `fallocate(2)` is not to be had: the file system lacks it, or a sandbox's filter of system calls refuses it.
/// Where the file itself may not grow (it is immutable, or sealed), the write says so.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    let unsupported = [libc::EOPNOTSUPP, libc::ENOSYS, libc::EINVAL, libc::EPERM, libc::EACCES];
    error.raw_os_error().is_some_and(|errno| unsupported.contains(&errno))
}

fn len_of(fd: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(len_and_block_of(fd)?.0)
}

/// The length, and what the file system may make dirty as a whole: a page, or a block of its own if that is larger.
fn len_and_block_of(fd: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let found = fstat(fd)?;
    let block = u64::try_from(found.st_blksize).unwrap_or(0).max(page_size() as u64);
    Ok((u64::try_from(found.st_size).unwrap_or(0), block))
}

fn to_off(value: u64) -> io::Result<i64> {
    i64::try_from(value).map_err(|_| io::Error::from(Errno::EFBIG))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::file::routes::{Route, Routes};

    fn file(len: u64) -> (std::fs::File, Growth) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        (file, Growth::new(len))
    }

    /// Begins a write that may extend the file, with all that it may need.
    fn begin(
        file: &std::fs::File,
        growth: &Growth,
        from: u64,
        end: u64,
        preallocate: bool,
    ) -> Option<ExtendingWrite> {
        let permit = Routes::new().try_enter(Route::Cached).unwrap();
        match growth.begin(file.as_fd(), from, end, preallocate, Some(&permit)).unwrap() {
            Begun::Inside => None,
            Begun::Extending(write) => Some(write),
            Begun::NeedsPermit => panic!("it had one"),
        }
    }

    fn len(file: &std::fs::File) -> u64 {
        file.metadata().unwrap().len()
    }

    #[test]
    fn a_file_that_ends_inside_a_page_grows_with_a_pass_only() {
        for (old, needs_permit) in [(5000, true), (8192, false)] {
            let (file, growth) = file(old);
            let begun = growth.begin(file.as_fd(), old, 20_000, true, None).unwrap();
            assert_eq!(matches!(begun, Begun::NeedsPermit), needs_permit, "{old}");
            assert_eq!(len(&file) == old, needs_permit, "{old}");
        }
    }

    #[test]
    fn a_failed_write_gives_its_length_back() {
        let (file, growth) = file(1000);
        let write = begin(&file, &growth, 0, 5000, true).unwrap();
        assert_eq!(len(&file), 5000);
        growth.end(file.as_fd(), write, false).unwrap();
        assert_eq!(len(&file), 1000);
    }

    #[test]
    fn a_failed_write_keeps_what_others_wrote_or_are_writing() {
        let (file, growth) = file(0);
        let failing = begin(&file, &growth, 0, 9000, true).unwrap();
        let done = begin(&file, &growth, 0, 3000, true).unwrap();
        let running = begin(&file, &growth, 0, 5000, true).unwrap();
        growth.end(file.as_fd(), done, true).unwrap();
        growth.end(file.as_fd(), failing, false).unwrap();
        assert_eq!(len(&file), 5000);
        growth.end(file.as_fd(), running, false).unwrap();
        assert_eq!(len(&file), 3000);
        assert!(begin(&file, &growth, 0, 3000, true).is_none());
    }

    #[test]
    fn a_shorter_write_does_not_forget_the_longer() {
        let (file, growth) = file(0);
        let longer = begin(&file, &growth, 0, 10_000, false).unwrap();
        let shorter = begin(&file, &growth, 0, 5000, false).unwrap();
        file.set_len(8000).unwrap();
        growth.end(file.as_fd(), longer, false).unwrap();
        assert_eq!(len(&file), 5000);
        growth.end(file.as_fd(), shorter, false).unwrap();
        assert_eq!(len(&file), 0);
    }

    #[test]
    fn allocating_does_not_commit_what_others_only_reserved() {
        let (file, growth) = file(0);
        let write = begin(&file, &growth, 0, 1 << 20, true).unwrap();
        growth.allocate(file.as_fd(), 0, 4096).unwrap();
        growth.end(file.as_fd(), write, false).unwrap();
        assert_eq!(len(&file), 4096);
    }

    #[test]
    fn a_file_that_was_cut_elsewhere_is_left_alone() {
        let (file, growth) = file(1 << 20);
        file.set_len(0).unwrap();
        let write = begin(&file, &growth, 1 << 20, 2 << 20, true).unwrap();
        growth.end(file.as_fd(), write, false).unwrap();
        assert_eq!(len(&file), 2 << 20);
    }

    #[test]
    fn a_gap_before_a_write_is_not_allocated() {
        let (file, growth) = file(0);
        let write = begin(&file, &growth, 100 << 20, (100 << 20) + 4096, true).unwrap();
        assert!(file.metadata().unwrap().blocks() < 1000);
        growth.end(file.as_fd(), write, true).unwrap();
        assert_eq!(len(&file), (100 << 20) + 4096);
    }
}
