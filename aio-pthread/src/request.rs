//! Small neighbours in a file as one system call, and its result as the results of single blocks.
//!
//! A 4 KiB `pread` from the page cache takes about 1.6 us, of which the copy is a third; on a device a 32 KiB request
//! takes hardly longer than a 4 KiB one. Merging pays there. It does not for large blocks, which it would only keep
//! from running at the same time: so both the blocks and what becomes of them are limited to what one thread copies
//! in less time than it takes to wake another.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;

use aio_core::backend::{Completion, IoBackend, IoBlock};
use aio_core::op::Direction;

use crate::PthreadBackend;

/// Longest block that is merged, in bytes.
const MAX_BLOCK: usize = 32 << 10;

/// Most bytes in one system call of several blocks: about 12 us of copying.
pub(crate) const MAX_RUN_BYTES: usize = 128 << 10;

/// Most blocks in one system call. Far below IOV_MAX, 1024.
pub(crate) const MAX_RUN: usize = 32;

/// How many blocks from the front of `blocks` belong in one system call: at least 1, unless there is none.
pub(crate) fn run_length<'a>(blocks: impl IntoIterator<Item = &'a IoBlock>) -> usize {
    let mut blocks = blocks.into_iter();
    let Some(mut last) = blocks.next() else { return 0 };
    let mut length = 1;
    let mut bytes = last.len;
    for next in blocks {
        bytes = bytes.saturating_add(next.len);
        if length == MAX_RUN || bytes > MAX_RUN_BYTES || !neighbours(last, next) {
            break;
        }
        length += 1;
        last = next;
    }
    length
}

/// Whether `right` goes on where `left` ends, and both are small.
fn neighbours(left: &IoBlock, right: &IoBlock) -> bool {
    left.len.max(right.len) <= MAX_BLOCK
        && left.fd == right.fd
        && left.direction == right.direction
        && left.offset.checked_add(left.len as u64) == Some(right.offset)
}

/// Transfers a run of blocks and appends their completions, in order.
///
/// # Safety
///
/// The memory of every block is valid, as [`IoBackend::transfer`] asks for, until the call returns.
pub(crate) unsafe fn transfer(run: &[IoBlock], done: &mut Vec<Completion>) {
    // SAFETY: the caller vouches for the memory of all blocks of the run.
    let many = |run: &[IoBlock]| uninterrupted(|| unsafe { transfer_many(run) });
    // SAFETY: as above. A bad descriptor is only EBADF.
    let one = |block: &IoBlock| uninterrupted(|| unsafe { PthreadBackend.transfer(block) });
    distribute(run, many, one, done);
}

/// Calls `many` once for several blocks and tells what became of each one; `one` settles those that are left open.
///
/// - A block that moved in full is done, one that moved in part is done with that part.
/// - The block that a short transfer stopped in front of is transferred on its own, and so its own error or end of
///   file is found; those behind it, too, whose turn never came.
/// - An error may belong to any of the blocks. All are transferred on their own, and each gets its own.
///
/// To write a block again that an error had left half written is harmless: it has the same bytes and the same place.
pub(crate) fn distribute(
    run: &[IoBlock],
    mut many: impl FnMut(&[IoBlock]) -> io::Result<usize>,
    mut one: impl FnMut(&IoBlock) -> io::Result<usize>,
    done: &mut Vec<Completion>,
) {
    let mut moved = if run.len() > 1 { many(run).unwrap_or(0) } else { 0 };
    for block in run {
        let result = match moved.min(block.len) {
            0 => one(block),
            part => Ok(part),
        };
        moved = moved.saturating_sub(block.len);
        done.push(Completion { token: block.token, result });
    }
}

/// `preadv(2)` or `pwritev(2)` of at most [`MAX_RUN`] neighbours.
///
/// # Safety
///
/// As for [`transfer`].
unsafe fn transfer_many(run: &[IoBlock]) -> io::Result<usize> {
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    let first = run.first().ok_or_else(invalid)?;
    let offset = libc::off_t::try_from(first.offset).map_err(|_| invalid())?;
    let mut vectors = [const { MaybeUninit::<libc::iovec>::uninit() }; MAX_RUN];
    for (vector, block) in vectors.iter_mut().zip(run) {
        vector.write(libc::iovec { iov_base: block.ptr.cast(), iov_len: block.len });
    }
    let count = run.len().min(MAX_RUN) as libc::c_int;
    let vectors: *const libc::iovec = vectors.as_ptr().cast();
    // SAFETY: the first `count` vectors were written above, and the caller vouches for the memory that they name.
    let moved = unsafe {
        match first.direction {
            Direction::Read => libc::preadv(first.fd, vectors, count, offset),
            Direction::Write => libc::pwritev(first.fd, vectors, count, offset),
        }
    };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}

/// Calls until the outcome is not EINTR.
pub(crate) fn uninterrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}
