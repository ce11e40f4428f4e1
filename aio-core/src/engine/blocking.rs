//! Blocking calls of up to a block, on the caller's own thread.
//!
//! `pread(2)` is the cheapest there is at queue depth 1, and handing a small read to another thread costs many times
//! the read. Memory that direct I/O cannot take (a `Vec` is hardly ever aligned enough) passes through one of a few
//! bounce buffers. What makes the file longer or is larger than a block goes to the workers instead.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use crate::arena::{AlignedBuf, Arena};
use crate::backend::{Direction, IoBlock};
use crate::desc::{Extent, ExtentMemory};
use crate::engine::Shared;
use crate::engine::inflight::is_transient;
use crate::engine::op::OpOptions;
use crate::engine::op::check_extents;
use crate::engine::staging::Staging;
use crate::error::{Error, IoError, OpKind, Result};
use crate::file::OpenFile;
use crate::file::inode::Inode;
use crate::plan::Plan;
use crate::sync::{Mutex, MutexGuard, Ordering, lock};

/// EAGAIN so often in a row, with a pause each time, is an error.
const MAX_RETRIES: u32 = 10_000;

/// Bounce buffers: as many blocking calls at once pass through one, each a block long.
#[derive(Debug)]
pub(crate) struct Bounce {
    staging: Mutex<Staging>,
}

const BOUNCE_BUFFERS: usize = 4;

impl Bounce {
    pub(crate) fn new(arena: Arena, block_size: usize) -> Self {
        Self { staging: Mutex::new(Staging::new(arena, block_size, BOUNCE_BUFFERS)) }
    }

    fn staging(&self) -> MutexGuard<'_, Staging> {
        lock(&self.staging)
    }
}

/// Reads on this thread; false if the op is one for the workers.
pub(crate) fn read(
    shared: &Shared,
    file: &OpenFile,
    options: OpOptions,
    buffer: &mut [u8],
    offset: u64,
) -> Result<bool> {
    let (ptr, len) = (buffer.as_mut_ptr(), buffer.len());
    // SAFETY: the exclusive borrow lasts for the call, which is over when the function returns.
    unsafe { transfer(shared, file, options, Direction::Read, ptr, len, offset) }
}

/// Writes on this thread; false if the op is one for the workers.
pub(crate) fn write(
    shared: &Shared,
    file: &OpenFile,
    options: OpOptions,
    buffer: &[u8],
    offset: u64,
) -> Result<bool> {
    /// Counts a write among those that a sync waits for, also if it unwinds.
    struct Accepted<'a>(&'a Inode, u64);

    impl Drop for Accepted<'_> {
        fn drop(&mut self) {
            self.0.write_ended(self.1);
        }
    }

    let (ptr, len) = (buffer.as_ptr().cast_mut(), buffer.len());
    // Extending has to be undone on failure, and past a file-size limit the kernel sends a signal that would end the
    // process; workers do the one and block the other.
    let grows = file.inode().is_some_and(|inode| inode.may_grow(offset.saturating_add(len as u64)));
    if grows || shared.has_file_size_limit {
        return shared.check_open().map(|()| false);
    }
    let _accepted = file.inode().map(|inode| Accepted(inode, inode.write_accepted()));
    // SAFETY: the shared borrow lasts for the call, and a write does not change the memory.
    unsafe { transfer(shared, file, options, Direction::Write, ptr, len, offset) }
}

/// # Safety
///
/// `ptr` is valid for `len` bytes until the call returns, for writes if the direction is a read.
unsafe fn transfer(
    shared: &Shared,
    file: &OpenFile,
    options: OpOptions,
    direction: Direction,
    ptr: *mut u8,
    len: usize,
    offset: u64,
) -> Result<bool> {
    shared.check_open()?;
    let Some(start) = NonNull::new(ptr) else { return Ok(false) };
    let memory = ExtentMemory { ptr: start, region: None };
    let extent = Extent { offset, len, memory: Some(memory) };
    if len > shared.config.block_size || options.validate || !file.allows(direction) {
        return Ok(false);
    }
    check_extents(&[extent])?;
    let plan = Plan::new(&[extent], file.alignment(), shared.config.block_size);
    let staged = plan.segments.iter().filter(|segment| segment.staged).map(|segment| segment.len).max();
    let mut bounce = staged.and_then(|len| shared.bounce.staging().take(len));
    if staged.is_some() && bounce.is_none() {
        return Ok(false);
    }
    // SAFETY: the caller vouches for the memory; a bounce buffer is this call's own.
    let result = unsafe { transfer_segments(shared, file, direction, ptr, len, offset, &plan, bounce.as_mut()) };
    if let Some(buffer) = bounce {
        shared.bounce.staging().give(buffer);
    }
    result.map(|()| true)
}

/// # Safety
///
/// As for [`transfer`]; `plan` is of these `len` bytes, and `bounce` as long as its longest staged segment.
#[expect(clippy::too_many_arguments, reason = "one call, which two functions share")]
unsafe fn transfer_segments(
    shared: &Shared,
    file: &OpenFile,
    direction: Direction,
    ptr: *mut u8,
    len: usize,
    offset: u64,
    plan: &Plan,
    mut bounce: Option<&mut AlignedBuf>,
) -> Result<()> {
    let kind = if direction == Direction::Read { OpKind::Read } else { OpKind::Write };
    let failed = |source, at: usize| {
        let (path, backend) = (file.path().to_owned(), shared.backend.name());
        let (offset, length) = (offset + at as u64, (len - at) as u64);
        Error::from(Box::new(IoError { op: kind, path, offset, length, backend, source }))
    };
    let counters = &shared.counters;
    counters.ops.fetch_add(1, Ordering::Relaxed);
    for segment in &plan.segments {
        let end = segment.at + segment.len;
        let (mut at, mut direct, mut retries) = (segment.at, segment.direct, 0);
        let memory = match bounce.as_deref_mut().filter(|_| segment.staged) {
            Some(bounce) => {
                if direction == Direction::Write {
                    // SAFETY: the segment is a part of the caller's memory, and fits into the bounce buffer.
                    unsafe { bounce.as_mut_ptr().copy_from_nonoverlapping(ptr.add(segment.at), segment.len) };
                }
                bounce.as_mut_ptr()
            }
            None => ptr.wrapping_add(segment.at),
        };
        while at < end {
            let fd = if direct { file.fd() } else { file.buffered().map_err(|error| failed(error, at))? };
            let block = IoBlock {
                token: 0,
                direction,
                fd: fd.as_raw_fd(),
                file: None,
                region: None,
                ptr: memory.wrapping_add(at - segment.at),
                len: end - at,
                offset: offset + at as u64,
            };
            // SAFETY: a part of the caller's memory or of the bounce buffer, and `file` keeps `fd` open.
            match unsafe { shared.backend.transfer(&block) } {
                Ok(0) if direction == Direction::Read => {
                    let (path, length, read) = (file.path().to_owned(), len as u64, at as u64);
                    return Err(Error::UnexpectedEof { path, offset, length, read });
                }
                Ok(0) => return Err(failed(io::Error::from(io::ErrorKind::WriteZero), at)),
                Ok(moved) => {
                    let moved = moved.min(end - at);
                    if segment.staged {
                        counters.bytes_staged.fetch_add(moved as u64, Ordering::Relaxed);
                        if direction == Direction::Read {
                            // SAFETY: `moved` bytes of the segment, which are the caller's, from the same place in
                            // the bounce buffer.
                            unsafe { ptr.add(at).copy_from_nonoverlapping(block.ptr, moved) };
                        }
                    }
                    let counter = if direct { &counters.bytes_direct } else { &counters.bytes_buffered };
                    counter.fetch_add(moved as u64, Ordering::Relaxed);
                    at += moved;
                    retries = 0;
                    if at < end {
                        counters.short_transfers.fetch_add(1, Ordering::Relaxed);
                        direct &=
                            block.offset.wrapping_add(moved as u64).is_multiple_of(file.alignment().offset.into());
                    }
                }
                Err(error) if is_transient(&error) && retries < MAX_RETRIES => {
                    counters.retries.fetch_add(1, Ordering::Relaxed);
                    retries += 1;
                    if error.kind() != io::ErrorKind::Interrupted {
                        std::thread::sleep(std::time::Duration::from_micros(100));
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) && direct => direct = false,
                Err(error) => return Err(failed(error, at)),
            }
        }
        counters.blocks.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
