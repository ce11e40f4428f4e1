//! Blocking calls of up to a block, on the caller's own thread.
//!
//! `pread(2)` is the cheapest there is at queue depth 1, and handing a small read to another thread costs many times
//! the read. So what surrounds it is lean: a read that goes one way (direct and aligned, or all through the page cache)
//! needs no plan, lock, clock or allocation, and counts apart from other threads.
//!
//! Memory that direct I/O cannot take (a `Vec` is hardly ever aligned enough) passes through one of a few bounce
//! buffers. What makes the file longer or is larger than a block goes to the workers instead.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use crate::backend::{Direction, IoBlock};
use crate::engine::in_flight::is_transient;
use crate::engine::staging::{Staging, as_uninit};
use crate::engine::transfer::{OpOptions, Transfer, check_extents};
use crate::engine::{Shared, on_any_worker};
use crate::error::{Error, IoError, OpKind, Result};
use crate::file::OpenFile;
use crate::file::inode::Inode;
use crate::file::routes::{Pass, Route};
use crate::file::write_back::Sync;
use crate::memory::{AlignedBuf, Arena};
use crate::op::desc::{Extent, ExtentMemory};
use crate::op::plan::{Alignment, Plan};
use crate::stats::Stats;
use crate::sync::{Mutex, MutexGuard, Ordering, lock};
use crate::threads::without_file_size_signal;

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
        Self { staging: Mutex::new(Staging::new(arena, block_size, BOUNCE_BUFFERS, 0)) }
    }

    pub(crate) fn give_back_unused(&self) {
        self.staging().give_back_unused();
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
    if options.validate {
        return Ok(false);
    }
    let (ptr, len) = (buffer.as_mut_ptr(), buffer.len());
    // SAFETY: the exclusive borrow lasts for the call, which is over when the function returns.
    unsafe { transfer(shared, file, Direction::Read, ptr, len, offset) }
}

/// Writes on this thread; false if the op is one for the workers.
pub(crate) fn write(
    shared: &Shared,
    file: &OpenFile,
    options: OpOptions,
    buffer: &[u8],
    offset: u64,
) -> Result<bool> {
    // Before any lock: in a forked child it may be one that a thread of the parent held.
    shared.check_open()?;
    let (ptr, len) = (buffer.as_ptr().cast_mut(), buffer.len());
    // Extending has to be undone on failure, which workers do.
    let grows = file.inode().is_some_and(|inode| inode.may_grow(offset.saturating_add(len as u64)));
    if grows || options.validate {
        return Ok(false);
    }
    let _accepted = file.inode().map(Inode::accept);
    let mut written = without_file_size_signal(|| {
        // SAFETY: the shared borrow lasts for the call, and a write does not change the memory.
        unsafe { transfer(shared, file, Direction::Write, ptr, len, offset) }
    });
    if options.durable && matches!(written, Ok(true)) {
        written = file
            .sync(Sync::Data)
            .map(|()| true)
            .map_err(|source| IoError::new(OpKind::Sync, file.path(), source).into());
    }
    if let (Err(error), Some(inode)) = (&written, file.inode()) {
        inode.faults.write_failed(error);
    }
    written
}

/// Most edges that are written by a worker itself.
const EDGES: usize = 16;

/// Writes the edges of an op that makes its file longer, on the worker that prepares it: past the old end nothing has to
/// be read, and less than a page of each is copied, in less time than a queue needs for a request. What does not work out
/// here is left to the queue.
pub(crate) fn write_new_edges(shared: &Shared, op: &Transfer, file: &OpenFile, plan: &mut Plan, old_end: u64) {
    let unit = u64::from(file.alignment().offset);
    let edges = || plan.segments.iter().filter(|segment| !segment.direct);
    let are_new = || edges().all(|edge| edge.offset / unit * unit >= old_end);
    if unit == 0 || plan.cached == 0 || plan.cached > EDGES || !are_new() {
        return;
    }
    let (Some(inode), Ok(fd)) = (file.inode(), file.buffered()) else { return };
    let Some(_pass) = inode.routes.try_enter(Route::Cached) else { return };
    let (mut memory, mut counted) = (Vec::new(), Stats::default());
    for edge in edges() {
        memory.resize(edge.len, 0);
        if op.call("gather", |desc| desc.gather(edge.extent, edge.at, as_uninit(&mut memory))).is_err() {
            return;
        }
        let block = IoBlock {
            token: 0,
            direction: Direction::Write,
            fd: fd.as_raw_fd(),
            file: None,
            region: None,
            ptr: memory.as_mut_ptr(),
            len: edge.len,
            offset: edge.offset,
        };
        // SAFETY: `memory` is as long as the edge and lives past the call, and `file` keeps `fd` open.
        if !matches!(unsafe { shared.backend.transfer(&block) }, Ok(moved) if moved == edge.len) {
            return;
        }
        counted.blocks += 1;
        counted.bytes_buffered += edge.len as u64;
        counted.bytes_staged += if edge.staged { edge.len as u64 } else { 0 };
    }
    plan.is_cached_done = true;
    shared.counters.add(&mut counted);
}

/// # Safety
///
/// `ptr` is valid for `len` bytes until the call returns, for writes if the direction is a read.
#[inline]
unsafe fn transfer(
    shared: &Shared,
    file: &OpenFile,
    direction: Direction,
    ptr: *mut u8,
    len: usize,
    offset: u64,
) -> Result<bool> {
    shared.check_open()?;
    let Some(start) = NonNull::new(ptr) else { return Ok(false) };
    if len > shared.config.block_size || !file.allows(direction) {
        return Ok(false);
    }
    let extent = Extent { offset, len, memory: Some(ExtentMemory { ptr: start, region: None }) };
    check_extents(&[extent])?;
    let read = direction == Direction::Read;
    let alignment = if read && file.is_resident() { Alignment::NONE } else { file.alignment() };
    let call = Call { shared, file, direction, ptr, len, offset };
    let mut counted = Stats::default();
    let Some(direct) = one_way(&extent, alignment) else {
        if read {
            file.count_reads(1, len as u64, offset + len as u64);
        }
        let plan = Plan::new(direction, &[extent], alignment, shared.config.block_size);
        // SAFETY: the caller vouches for the memory.
        let moved = unsafe { call.in_segments(&plan, &mut counted) };
        // What the workers do instead, they count.
        if !matches!(moved, Ok(false)) {
            call.count(&mut counted);
        }
        return moved;
    };
    let Ok(pass) = call.enter(direct) else { return Ok(false) };
    // SAFETY: likewise.
    let first = unsafe { call.attempt(ptr, 0..len, direct) };
    if first.as_ref().is_ok_and(|moved| *moved == len) {
        // Nearly every call comes to here.
        let calls = shared.counters.calls.add(len as u64, direct);
        if read && is_one_in_some(calls) {
            file.count_reads(SOME, SOME * len as u64, offset + len as u64);
        }
        return Ok(true);
    }
    // SAFETY: likewise.
    let moved = unsafe { call.stretch(0..len, direct, pass, Some(first), None, &mut counted) };
    if !matches!(moved, Ok(false)) {
        call.count(&mut counted);
    }
    moved
}

/// Whether an extent is one segment without a bounce buffer, and if so, whether it is direct: what [`Plan`] would say.
#[inline]
fn one_way(extent: &Extent, alignment: Alignment) -> Option<bool> {
    let Alignment { offset: unit, memory } = alignment;
    if unit == 0 {
        return (extent.len > 0).then_some(false);
    }
    let address = extent.memory.map_or(0, |memory| memory.address() as u64);
    // Powers of two.
    let odd = (extent.offset | extent.len as u64) & u64::from(unit - 1) | address & u64::from(memory - 1);
    (odd == 0 && extent.len > 0).then_some(true)
}

/// Of how many calls one counts for all of them towards the next look at where a file lies.
const SOME: u64 = 16;

/// Multiples of the golden ratio are spread so evenly that this also holds for every second or third call, as when a
/// thread reads several files in turn.
#[inline]
fn is_one_in_some(call: u64) -> bool {
    call.wrapping_mul(0x9E37_79B9_7F4A_7C15) < u64::MAX / SOME
}

/// What is in flight of the inode has to be over first, and this thread must not wait for that.
struct Busy;

/// A blocking call on its way.
struct Call<'a> {
    shared: &'a Shared,
    file: &'a OpenFile,
    direction: Direction,
    ptr: *mut u8,
    len: usize,
    offset: u64,
}

impl Call<'_> {
    fn count(&self, counted: &mut Stats) {
        self.shared.counters.ops.fetch_add(1, Ordering::Relaxed);
        self.shared.counters.add(counted);
    }

    /// What a block needs while it is in flight: nothing if it is read.
    #[inline]
    fn enter(&self, direct: bool) -> Result<Option<Pass>, Busy> {
        let Some(inode) = self.file.inode().filter(|_| self.direction == Direction::Write) else { return Ok(None) };
        let route = if direct { Route::Direct } else { Route::Cached };
        match inode.routes.try_enter(route) {
            // It may be what keeps the other route taken.
            None if on_any_worker() => Err(Busy),
            None => Ok(Some(inode.routes.wait(route))),
            pass => Ok(pass),
        }
    }

    /// Transfers each segment in its own way; false if one is for the workers, or if there is no bounce buffer left.
    ///
    /// # Safety
    ///
    /// As for [`transfer`]; `plan` is of this call.
    unsafe fn in_segments(&self, plan: &Plan, counted: &mut Stats) -> Result<bool> {
        let bounces = &self.shared.bounce;
        let staged = plan.segments.iter().filter(|segment| segment.staged).map(|segment| segment.len).max();
        let mut bounce = staged.and_then(|len| bounces.staging().take(len));
        if staged.is_some() && bounce.is_none() {
            return Ok(false);
        }
        let mut result = Ok(true);
        for segment in &plan.segments {
            let Ok(pass) = self.enter(segment.direct) else {
                result = Ok(false);
                break;
            };
            let range = segment.at..segment.at + segment.len;
            let bounce = bounce.as_mut().filter(|_| segment.staged);
            // SAFETY: the caller vouches for the memory; the bounce buffer is as long as the longest staged segment.
            result = unsafe { self.stretch(range, segment.direct, pass, None, bounce, counted) };
            if !matches!(result, Ok(true)) {
                break;
            }
        }
        if let Some(buffer) = bounce {
            bounces.staging().give(buffer);
        }
        result
    }

    /// One system call for a range of the caller's memory, or of a buffer that stands for it from `memory` on.
    ///
    /// # Safety
    ///
    /// As for [`transfer`], for as many bytes from `memory` as the range is long.
    #[inline]
    unsafe fn attempt(&self, memory: *mut u8, range: Range<usize>, direct: bool) -> io::Result<usize> {
        let fd = if direct { self.file.fd() } else { self.file.buffered()? };
        let block = IoBlock {
            token: 0,
            direction: self.direction,
            fd: fd.as_raw_fd(),
            file: None,
            region: None,
            ptr: memory,
            len: range.len(),
            offset: self.offset + range.start as u64,
        };
        // SAFETY: the caller vouches for the memory, and `file` keeps `fd` open.
        unsafe { self.shared.backend.transfer(&block) }
    }

    /// Transfers a stretch of the memory, of which a first attempt may have been made; false if what is left of it is for
    /// the workers. `pass` is what [`enter`](Self::enter) gave.
    ///
    /// # Safety
    ///
    /// As for [`transfer`]; the range lies in the memory, and `bounce`, if there is one, is as long as it.
    unsafe fn stretch(
        &self,
        range: Range<usize>,
        mut direct: bool,
        mut pass: Option<Pass>,
        mut first: Option<io::Result<usize>>,
        mut bounce: Option<&mut AlignedBuf>,
        counted: &mut Stats,
    ) -> Result<bool> {
        let Self { file, direction, ptr, offset, .. } = *self;
        let memory = match bounce.as_deref_mut() {
            Some(bounce) => {
                if direction == Direction::Write {
                    // SAFETY: the range is a part of the caller's memory, and fits into the bounce buffer.
                    unsafe { bounce.as_mut_ptr().copy_from_nonoverlapping(ptr.add(range.start), range.len()) };
                }
                bounce.as_mut_ptr()
            }
            None => ptr.wrapping_add(range.start),
        };
        let (mut at, mut retries) = (range.start, 0);
        let mut through_cache = !direct;
        while at < range.end {
            if direct && through_cache {
                direct = false;
                drop(pass.take());
                let Ok(entered) = self.enter(direct) else { return Ok(false) };
                pass = entered;
            }
            let place = memory.wrapping_add(at - range.start);
            // SAFETY: a part of the caller's memory or of the bounce buffer.
            let moved = first.take().unwrap_or_else(|| unsafe { self.attempt(place, at..range.end, direct) });
            match moved {
                Ok(0) => return Err(self.stopped(at)),
                Ok(moved) => {
                    let moved = moved.min(range.end - at);
                    if bounce.is_some() {
                        counted.bytes_staged += moved as u64;
                        if direction == Direction::Read {
                            // SAFETY: `moved` bytes of the range, which are the caller's, from the same place in the
                            // bounce buffer.
                            unsafe { ptr.add(at).copy_from_nonoverlapping(place, moved) };
                        }
                    }
                    *(if direct { &mut counted.bytes_direct } else { &mut counted.bytes_buffered }) += moved as u64;
                    at += moved;
                    retries = 0;
                    if at < range.end {
                        counted.short_transfers += 1;
                        through_cache |= !(offset + at as u64).is_multiple_of(file.alignment().offset.max(1).into());
                    }
                }
                Err(error) if is_transient(&error) && retries < MAX_RETRIES => {
                    counted.retries += 1;
                    retries += 1;
                    if error.kind() != io::ErrorKind::Interrupted {
                        std::thread::sleep(std::time::Duration::from_micros(100));
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) && direct => through_cache = true,
                Err(error) => return Err(self.failed(error, at)),
            }
        }
        counted.blocks += 1;
        Ok(true)
    }

    /// No byte moved after `at`.
    #[cold]
    fn stopped(&self, at: usize) -> Error {
        match self.direction {
            Direction::Read => {
                let (path, offset) = (self.file.path().to_owned(), self.offset);
                Error::UnexpectedEof { path, offset, length: self.len as u64, read: at as u64 }
            }
            Direction::Write => self.failed(io::Error::from(io::ErrorKind::WriteZero), at),
        }
    }

    #[cold]
    fn failed(&self, source: io::Error, at: usize) -> Error {
        let op = if self.direction == Direction::Read { OpKind::Read } else { OpKind::Write };
        let error = IoError::new(op, self.file.path(), source);
        error.at(self.offset + at as u64, (self.len - at) as u64).by(self.shared.backend.name()).into()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{AioConfig, DirectMode};
    use crate::engine::no_queues::NoQueues;
    use crate::file::OpenOptions;

    #[test]
    fn a_forked_child_does_not_wait_for_what_a_thread_of_the_parent_held() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        std::fs::write(&path, [1; 8192]).unwrap();
        let shared = Shared::new(Arc::new(NoQueues), AioConfig::default());
        let options = OpenOptions::new().read(true).write(true);
        let file = OpenFile::open(&path, &options, DirectMode::Off).unwrap();
        let how = OpOptions::default();
        let held = lock(&file.inode().unwrap().writes.0);
        // SAFETY: the child makes one call, which is to return at once, and ends; it runs nothing of other threads.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: the alarm ends a child that waits; `_exit` runs nothing of the parent's.
            unsafe {
                libc::alarm(20);
                let told = matches!(write(&shared, &file, how, &[2; 4096], 0), Err(Error::Forked));
                libc::_exit(i32::from(!told));
            }
        }
        drop(held);
        let mut status = 0;
        // SAFETY: waits for the child made above.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0, "the child waited, or wrote");
        assert!(write(&shared, &file, how, &[2; 4096], 0).unwrap());
        assert_eq!(std::fs::read(&path).unwrap()[..4096], [2; 4096]);
    }
}
