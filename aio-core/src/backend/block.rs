//! What a queue is given and gives back: a block, and its completion.

use std::io;
use std::os::fd::RawFd;

use super::{FileId, RegionId, parts};

/// Which way bytes move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the file into memory.
    Read,
    /// From memory into the file.
    Write,
}

/// One submission-sized piece of an op.
#[derive(Debug, Clone, Copy)]
pub struct IoBlock {
    /// Comes back in the [`Completion`]; unique among the blocks in flight of one queue. `u64::MAX` is not used.
    pub token: u64,
    /// Which way.
    pub direction: Direction,
    /// The open file. Valid also when [`file`](Self::file) is set.
    pub fd: RawFd,
    /// The same file as a registered slot of this queue. An id that is not registered goes by [`fd`](Self::fd).
    pub file: Option<FileId>,
    /// The registered region of this queue that contains the whole memory of the block. An id that is not registered is
    /// ignored.
    pub region: Option<RegionId>,
    /// First byte of the memory.
    pub ptr: *mut u8,
    /// Bytes to move, 1 to `i32::MAX` rounded down to a page.
    pub len: usize,
    /// Where in the file, in bytes; `offset + len` fits in an `i64`.
    pub offset: u64,
}

impl IoBlock {
    /// A block with token 0, whose file and memory are named by no registration.
    ///
    /// `fd` is the open file, `ptr` and `len` the memory, `offset` its place in the file, in bytes. Struct update
    /// syntax sets the rest:
    ///
    /// ```
    /// # use aio_core::backend::{Direction, IoBlock};
    /// # let (fd, mut memory) = (0, [0; 4096]);
    /// let block = IoBlock { token: 7, ..IoBlock::new(Direction::Read, fd, memory.as_mut_ptr(), memory.len(), 0) };
    /// ```
    pub fn new(direction: Direction, fd: RawFd, ptr: *mut u8, len: usize, offset: u64) -> Self {
        Self { token: 0, direction, fd, file: None, region: None, ptr, len, offset }
    }
}

// SAFETY: a block is a description. A queue or backend dereferences `ptr` under the contract of `IoQueue::submit` or
// `IoBackend::transfer`, which says that the memory is valid and not aliased whichever thread does the transfer.
unsafe impl Send for IoBlock {}
// SAFETY: as above; all fields are read-only through a shared reference.
unsafe impl Sync for IoBlock {}

/// The end of one block.
#[derive(Debug)]
pub struct Completion {
    /// The block's token.
    pub token: u64,
    /// Bytes moved (may be fewer than asked; 0 on a read is end of file), or the error of this block.
    pub result: io::Result<usize>,
}

impl Completion {
    /// From the kernel's convention: bytes, or a negated errno.
    pub fn from_kernel(token: u64, result: i64) -> Self {
        Self { token, result: parts::kernel_result(result) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_the_kernel_is_a_result() {
        let errno = |result| Completion::from_kernel(7, result).result.unwrap_err().raw_os_error();
        assert_eq!(Completion::from_kernel(7, 4096).result.unwrap(), 4096);
        assert_eq!(errno(-5), Some(libc::EIO));
        assert_eq!(errno(-i64::from(libc::EAGAIN)), Some(libc::EAGAIN));
        assert_eq!(errno(i64::from(i32::MIN)), Some(libc::EIO));
        assert_eq!(errno(i64::MIN), Some(libc::EIO));
    }
}
