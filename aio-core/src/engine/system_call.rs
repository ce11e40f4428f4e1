//! A transfer with one system call, on the calling thread.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use crate::backend::{Direction, IoBackend, IoBlock};
use crate::op::desc::IoOpDesc;
use crate::op::plan::Segment;

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

/// Reads a segment of an op that was not accepted yet, if that takes no waiting; otherwise an error.
pub(super) fn read_at_once(
    backend: &dyn IoBackend,
    fd: BorrowedFd<'_>,
    desc: &dyn IoOpDesc,
    segment: &Segment,
) -> io::Result<usize> {
    let extent = desc.extents().get(segment.extent).filter(|extent| segment.at + segment.len <= extent.len);
    let (Some(memory), Direction::Read) = (extent.and_then(|extent| extent.memory), desc.direction()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let memory = memory.advance(segment.at).ptr.as_ptr();
    let block = IoBlock::new(Direction::Read, fd.as_raw_fd(), memory, segment.len, segment.offset);
    // SAFETY: the bytes are in an extent of a read, which the descriptor keeps valid for writes until `fini` (`IoOpDesc`),
    // and no worker has the op, so none writes there; `desc` and `fd` are borrowed past the call.
    unsafe { backend.read_at_once(&block) }
}
