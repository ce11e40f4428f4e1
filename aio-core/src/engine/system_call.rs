//! A transfer with one system call, on the calling thread.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use crate::backend::{Direction, IoBackend, IoBlock};

/// Memory that is borrowed for the call; which way tells the direction.
pub(super) enum CallMemory<'a> {
    /// Of a read.
    Into(&'a mut [u8]),
    /// Of a write.
    From(&'a [u8]),
}

impl CallMemory<'_> {
    #[inline]
    pub(super) fn direction(&self) -> Direction {
        match self {
            Self::Into(_) => Direction::Read,
            Self::From(_) => Direction::Write,
        }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Into(bytes) => bytes.len(),
            Self::From(bytes) => bytes.len(),
        }
    }

    #[inline]
    pub(super) fn address(&mut self) -> NonNull<u8> {
        match self {
            Self::Into(bytes) => NonNull::from(&mut **bytes).cast(),
            Self::From(bytes) => NonNull::from(*bytes).cast(),
        }
    }

    /// A part of it.
    #[inline]
    pub(super) fn part(&mut self, range: Range<usize>) -> CallMemory<'_> {
        match self {
            Self::Into(bytes) => CallMemory::Into(&mut bytes[range]),
            Self::From(bytes) => CallMemory::From(&bytes[range]),
        }
    }
}

/// Transfers `memory` at `offset` of an open file and returns how many bytes the backend says that it moved.
#[inline]
pub(super) fn transfer(
    backend: &dyn IoBackend,
    fd: BorrowedFd<'_>,
    mut memory: CallMemory<'_>,
    offset: u64,
) -> io::Result<usize> {
    let block = IoBlock::new(memory.direction(), fd.as_raw_fd(), memory.address().as_ptr(), memory.len(), offset);
    // SAFETY: `memory` borrows the block's bytes past the call, exclusively if they are written, and `fd` its file.
    unsafe { backend.transfer(&block) }
}
