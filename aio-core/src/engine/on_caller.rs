//! Blocking calls of up to a block, on the caller's own thread.
//!
//! `pread(2)` is the cheapest there is at queue depth 1, and handing a small read to another thread costs many times
//! the read. So what surrounds it is lean: a read that goes one way (direct and aligned, or all through the page cache)
//! needs no plan, lock, clock or allocation, and counts apart from other threads.
//!
//! Memory that direct I/O cannot take (a `Vec` is hardly ever aligned enough) passes through one of a few bounce
//! buffers. What is larger than a block goes to the workers instead, and so does what makes the file longer, but for
//! small calls that run through the file: these go through the page cache, see [`streams`](crate::file::streams).

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use crate::backend::Direction;
use crate::engine::Shared;
use crate::engine::completion::{NextStep, Piece};
use crate::engine::system_call::{self, CallMemory};
use crate::engine::transfer::{OpOptions, check_extents};
use crate::error::{Error, IoError, OpKind, Result};
use crate::file::OpenFile;
use crate::file::growth::Begun;
use crate::file::inode::Inode;
use crate::file::routes::{Route, RouteBusy, RoutePermit};
use crate::file::write_back::Sync;
use crate::op::desc::{Extent, ExtentMemory};
use crate::op::plan::{Alignment, Plan};
use crate::stats::Stats;
use crate::sync::Ordering;
use crate::threads::{on_any_worker, without_file_size_signal};

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
    transfer(shared, file, CallMemory::Into(buffer), offset, false)
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
    let end = offset.saturating_add(buffer.len() as u64);
    let grows = file.inode().is_some_and(|inode| inode.growth.may_grow(end));
    let is_plain = !options.validate && !options.durable && buffer.len() <= shared.config.block_size;
    let streams = is_plain && file.goes_on_writing(offset, buffer.len());
    // Elsewhere the file is extended ahead of the bytes, which workers do.
    if options.validate || (grows && !streams) {
        return Ok(false);
    }
    let in_flight = file.inode().map(Inode::accept_write);
    let mut written = without_file_size_signal(|| match grows {
        true => append(shared, file, buffer, offset),
        false => transfer(shared, file, CallMemory::From(buffer), offset, streams),
    });
    if options.durable && matches!(written, Ok(true)) {
        written = file
            .sync(Sync::Data)
            .map(|()| true)
            .map_err(|source| IoError::new(OpKind::Sync, file.path(), source).into());
    }
    if let (Err(error), Some(inode)) = (&written, file.inode()) {
        inode.write_back.write_failed(error);
    }
    drop(in_flight);
    if streams && matches!(written, Ok(true)) {
        file.write_out(offset, end);
    }
    written
}

/// Writes, through the page cache, what makes the file longer.
fn append(shared: &Shared, file: &OpenFile, buffer: &[u8], offset: u64) -> Result<bool> {
    let (len, memory) = (buffer.len(), CallMemory::From(buffer));
    check_extents(&[Extent { offset, len, memory: None }])?;
    let mut call = BlockingCall { shared, file, memory, len, offset, stream: None };
    let (Some(inode), Ok(Some(permit))) = (file.inode(), call.enter(false)) else { return Ok(false) };
    let begun = inode.growth.begin(file.fd(), offset, offset + len as u64, false, Some(&permit));
    let begun = begun.map_err(|source| call.failed(source, 0))?;
    // Before the permit goes, and also if the backend panics.
    let mut growing = Growing { file, begun: Some(begun), wrote: false };
    let written = call.counted(|call, stats| call.transfer_stretch(0..len, false, None, None, None, stats));
    growing.wrote = matches!(written, Ok(true));
    written
}

/// A write that may make the file longer, until it ends and this is dropped.
struct Growing<'a> {
    file: &'a OpenFile,
    begun: Option<Begun>,
    wrote: bool,
}

impl Drop for Growing<'_> {
    fn drop(&mut self) {
        if let Some(Begun::Extending(write)) = self.begun.take() {
            self.file.end_extending(write, self.wrote);
        }
    }
}

/// Moves the bytes, those of a write that `streams` through the page cache.
#[inline]
fn transfer(
    shared: &Shared,
    file: &OpenFile,
    mut memory: CallMemory<'_>,
    offset: u64,
    streams: bool,
) -> Result<bool> {
    shared.check_open()?;
    let (direction, len) = (memory.direction(), memory.len());
    if len > shared.config.block_size || !file.allows(direction) {
        return Ok(false);
    }
    let extent = Extent { offset, len, memory: Some(ExtentMemory { ptr: memory.address(), region: None }) };
    check_extents(&[extent])?;
    let read = direction == Direction::Read;
    let mut stream = None;
    let is_cached = if read {
        file.is_direct() && {
            let is_resident = file.is_resident();
            if !is_resident {
                stream = file.goes_on_reading(offset, len);
            }
            is_resident || stream.is_some()
        }
    } else {
        streams
    };
    let alignment = if is_cached { Alignment::NONE } else { file.alignment() };
    let mut call = BlockingCall { shared, file, memory, len, offset, stream };
    let Some(direct) = one_way(&extent, alignment) else {
        if read {
            file.count_reads(1, len as u64, offset + len as u64);
        }
        let plan = Plan::new(direction, &[extent], alignment, shared.config.block_size);
        return call.counted(|call, stats| call.transfer_segments(&plan, stats));
    };
    let Ok(permit) = call.enter(direct) else { return Ok(false) };
    let first = call.attempt(0..len, direct, None);
    if first.as_ref().is_ok_and(|moved| *moved == len) {
        // Nearly every call comes to here.
        let calls = shared.counters.calls.add(len as u64, direct);
        if read && is_one_in_some(calls) {
            file.count_reads(SOME, SOME * len as u64, offset + len as u64);
        }
        return Ok(true);
    }
    call.counted(|call, stats| call.transfer_stretch(0..len, direct, permit, Some(first), None, stats))
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

/// A blocking call of up to a block.
struct BlockingCall<'a> {
    shared: &'a Shared,
    file: &'a OpenFile,
    memory: CallMemory<'a>,
    len: usize,
    offset: u64,
    /// Of a read that is one of a stream: by which it goes through the page cache.
    stream: Option<BorrowedFd<'a>>,
}

impl BlockingCall<'_> {
    /// Runs a part of the call that took more than one attempt, and counts it, unless the workers do all of it again.
    fn counted(&mut self, run: impl FnOnce(&mut Self, &mut Stats) -> Result<bool>) -> Result<bool> {
        let mut stats = Stats::default();
        let moved = run(self, &mut stats);
        if !matches!(moved, Ok(false)) {
            self.shared.counters.ops.fetch_add(1, Ordering::Relaxed);
            self.shared.counters.add(&mut stats);
        }
        moved
    }

    /// The permit that a block needs while it is in flight: none if it is read. An error if this thread must not wait
    /// for it.
    #[inline]
    fn enter(&self, direct: bool) -> Result<Option<RoutePermit>, RouteBusy> {
        let is_write = self.memory.direction() == Direction::Write;
        let Some(inode) = self.file.inode().filter(|_| is_write) else { return Ok(None) };
        let route = if direct { Route::Direct } else { Route::Cached };
        match inode.routes.try_enter(route) {
            // It may be what keeps the other route taken.
            Err(busy) if on_any_worker() => Err(busy),
            Err(_) => Ok(Some(inode.routes.wait(route))),
            Ok(permit) => Ok(Some(permit)),
        }
    }

    /// Transfers each segment in its own way; false if one is for the workers, or if there is no bounce buffer left.
    fn transfer_segments(&mut self, plan: &Plan, stats: &mut Stats) -> Result<bool> {
        let bounces = &self.shared.bounce;
        let staged = plan.segments.iter().filter(|segment| segment.staged).map(|segment| segment.len).max();
        let mut bounce = staged.and_then(|len| bounces.take(len));
        if staged.is_some() && bounce.is_none() {
            return Ok(false);
        }
        let mut result = Ok(true);
        for segment in &plan.segments {
            let Ok(permit) = self.enter(segment.direct) else {
                result = Ok(false);
                break;
            };
            let range = segment.at..segment.at + segment.len;
            let bounce = bounce.as_mut().filter(|_| segment.staged).map(|buffer| &mut buffer[..segment.len]);
            result = self.transfer_stretch(range, segment.direct, permit, None, bounce, stats);
            if !matches!(result, Ok(true)) {
                break;
            }
        }
        if let Some(buffer) = bounce {
            bounces.give(buffer);
        }
        result
    }

    /// One system call for a range of the caller's memory, or for `bounce`, which stands for it.
    #[inline]
    fn attempt(&mut self, range: Range<usize>, direct: bool, bounce: Option<&mut [u8]>) -> io::Result<usize> {
        let file = self.file;
        let fd = match self.stream {
            _ if direct => file.fd(),
            Some(fd) => fd,
            None => file.buffered()?,
        };
        let offset = self.offset + range.start as u64;
        let memory = match (bounce, self.memory.direction()) {
            (None, _) => self.memory.part(range),
            (Some(bounce), Direction::Read) => CallMemory::Into(bounce),
            (Some(bounce), Direction::Write) => CallMemory::From(bounce),
        };
        system_call::transfer(&*self.shared.backend, fd, memory, offset)
    }

    /// Transfers a stretch of the memory, of which a first attempt may have been made; false if what is left of it is
    /// for the workers. `permit` is what [`enter`](Self::enter) gave; `bounce`, if there is one, is as long as the
    /// range.
    fn transfer_stretch(
        &mut self,
        range: Range<usize>,
        direct: bool,
        mut permit: Option<RoutePermit>,
        mut first: Option<io::Result<usize>>,
        mut bounce: Option<&mut [u8]>,
        stats: &mut Stats,
    ) -> Result<bool> {
        if let (Some(bounce), CallMemory::From(memory)) = (&mut bounce, &self.memory) {
            bounce.copy_from_slice(&memory[range.clone()]);
        }
        let mut piece = Piece {
            direction: self.memory.direction(),
            offset: self.offset + range.start as u64,
            len: range.len(),
            direct,
            unit: self.file.alignment().offset,
            staged: bounce.is_some(),
            fixed: false,
            retries: 0,
        };
        loop {
            let at = range.end - piece.len;
            let bounced = at - range.start;
            let reported = first.take().unwrap_or_else(|| {
                let bounce = bounce.as_deref_mut().map(|bounce| &mut bounce[bounced..]);
                self.attempt(at..range.end, piece.direct, bounce)
            });
            let step = piece.next_step(reported);
            piece.count(&step, stats);
            piece.advance(&step);
            if let (Some(bounce), CallMemory::Into(memory)) = (&bounce, &mut self.memory) {
                let moved = step.moved();
                memory[at..at + moved].copy_from_slice(&bounce[bounced..bounced + moved]);
            }
            match step {
                NextStep::Done { .. } => break,
                NextStep::Rest { .. } => {}
                NextStep::ThroughCache { .. } => {
                    drop(permit.take());
                    let Ok(entered) = self.enter(piece.direct) else { return Ok(false) };
                    permit = entered;
                }
                NextStep::Retry { pause } => pause.into_iter().for_each(std::thread::sleep),
                NextStep::EndOfFile => return Err(self.end_of_file(at)),
                NextStep::Failed(source) => return Err(self.failed(source, at)),
            }
        }
        stats.blocks += 1;
        Ok(true)
    }

    /// The file ends `at` bytes into the memory.
    #[cold]
    fn end_of_file(&self, at: usize) -> Error {
        let (path, offset) = (self.file.path().to_owned(), self.offset);
        Error::UnexpectedEof { path, offset, length: self.len as u64, read: at as u64 }
    }

    #[cold]
    fn failed(&self, source: io::Error, at: usize) -> Error {
        let op = if self.memory.direction() == Direction::Read { OpKind::Read } else { OpKind::Write };
        let error = IoError::new(op, self.file.path(), source);
        error.at(self.offset + at as u64, (self.len - at) as u64).by(self.shared.backend.name()).into()
    }
}

#[cfg(test)]
#[allow(unsafe_code)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{AioConfig, DirectMode};
    use crate::engine::no_queues::NoQueues;
    use crate::file::OpenOptions;
    use crate::sync::lock;

    /// After a cut it would otherwise make a length certain that the file does not have.
    #[test]
    fn an_empty_write_that_goes_on_makes_no_file_longer() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let shared = Shared::new(Arc::new(NoQueues), AioConfig::default());
        let options = OpenOptions::new().read(true).write(true);
        let file = OpenFile::open(&path, &options, DirectMode::Off).unwrap();
        let (how, growth) = (OpOptions::default(), &file.inode().unwrap().growth);
        let mut on_caller = 0;
        for at in (0..10).map(|call| call * 100) {
            on_caller = u64::from(write(&shared, &file, how, &[1; 100], at).unwrap()) * (at + 100);
        }
        assert_eq!((on_caller, file.len().unwrap()), (1000, 1000));
        growth.set_len(file.fd(), 500).unwrap();
        assert!(!write(&shared, &file, how, &[], 1000).unwrap());
        assert!(growth.may_grow(501) && file.len().unwrap() == 500);
    }

    #[test]
    fn a_forked_child_does_not_wait_for_what_a_thread_of_the_parent_held() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        std::fs::write(&path, [1; 8192]).unwrap();
        let shared = Shared::new(Arc::new(NoQueues), AioConfig::default());
        let options = OpenOptions::new().read(true).write(true);
        let file = OpenFile::open(&path, &options, DirectMode::Off).unwrap();
        let how = OpOptions::default();
        let held = lock(&file.inode().unwrap().write_back.writes);
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
