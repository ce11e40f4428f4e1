//! Blocking calls of up to a block, on the caller's own thread.
//!
//! `pread(2)` is the cheapest there is at queue depth 1, and handing a small read to another thread costs many times
//! the read. What needs staging, makes the file longer or is larger than a block goes to the workers instead.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use crate::backend::{Direction, IoBlock};
use crate::desc::{Extent, ExtentMemory};
use crate::engine::Shared;
use crate::engine::inflight::is_transient;
use crate::engine::op::check_extents;
use crate::error::{Error, IoError, OpKind, Result};
use crate::file::OpenFile;
use crate::handle::OpOptions;
use crate::plan::Plan;
use crate::sync::Ordering;

/// EAGAIN so often in a row, with a pause each time, is an error.
const MAX_RETRIES: u32 = 10_000;

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
    let (ptr, len) = (buffer.as_ptr().cast_mut(), buffer.len());
    // Extending has to be undone on failure, and past a file-size limit the kernel sends a signal that would end the
    // process; workers do the one and block the other.
    let grows = file.inode().is_some_and(|inode| inode.may_grow(offset.saturating_add(len as u64)));
    if grows || shared.has_file_size_limit {
        return shared.check_open().map(|()| false);
    }
    let inode = file.inode().cloned();
    let epoch = inode.as_ref().map(|inode| inode.write_accepted());
    // SAFETY: the shared borrow lasts for the call, and a write does not change the memory.
    let result = unsafe { transfer(shared, file, options, Direction::Write, ptr, len, offset) };
    if let (Some(inode), Some(epoch)) = (inode, epoch) {
        inode.write_ended(epoch);
    }
    result
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
    if plan.segments.iter().any(|segment| segment.staged) {
        return Ok(false);
    }
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
        while at < end {
            let fd = if direct { file.fd() } else { file.buffered().map_err(|error| failed(error, at))? };
            let block = IoBlock {
                token: 0,
                direction,
                fd: fd.as_raw_fd(),
                file: None,
                region: None,
                ptr: ptr.wrapping_add(at),
                len: end - at,
                offset: offset + at as u64,
            };
            // SAFETY: the caller vouches for the memory, of which this is a part, and `file` keeps `fd` open.
            match unsafe { shared.backend.transfer(&block) } {
                Ok(0) if direction == Direction::Read => {
                    let (path, length, read) = (file.path().to_owned(), len as u64, at as u64);
                    return Err(Error::UnexpectedEof { path, offset, length, read });
                }
                Ok(0) => return Err(failed(io::Error::from(io::ErrorKind::WriteZero), at)),
                Ok(moved) => {
                    let moved = moved.min(end - at);
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
    Ok(true)
}
