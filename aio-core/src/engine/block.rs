//! One block: making it, and judging what a queue said of it.

use std::io;
use std::os::fd::AsRawFd;

use crate::backend::{Direction, IoBlock, RegionId};
use crate::engine::in_flight::{Progress, Run, RunId, Slot, is_transient};
use crate::engine::staging::{Staging, as_uninit};
use crate::engine::transfer::{Priority, Transfer};
use crate::engine::worker::{AioThread, STAGED_AT_ONCE};
use crate::error::Error;
use crate::foreign::log;
use crate::memory::AlignedBuf;
use crate::op::buf::{IoBuf, IoBufMut};
use crate::op::plan::{BlockRange, Segment};
use crate::printable::shown;
use crate::stats::Stats;

/// How far issuing the blocks of a run got.
#[derive(Debug)]
pub(super) enum Issued {
    All,
    /// Not now: no slot, or no staging memory until another block is done.
    NoRoom,
    /// Not before what was copied into staging memory is submitted.
    Copied,
}

/// Where a block's bytes go to or come from.
struct Place {
    ptr: *mut u8,
    region: Option<RegionId>,
    staging: Option<AlignedBuf>,
}

/// What a completion means.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Every byte moved.
    Finished {
        bytes: usize,
    },
    /// The rest of the block is to be submitted.
    Resume,
    /// Direct I/O does not take this block of a write: it is to be done again, through the page cache.
    ThroughCache,
    /// The same again.
    Retry(io::Error),
    Failed(Error),
}

/// Bytes compared at a time.
const COMPARE: usize = 64 << 10;

impl AioThread {
    /// Issues blocks of a run while there is room.
    pub(super) fn issue_run(&mut self, id: RunId) -> Issued {
        let Self { flight, staging, gathered, registered, shared, background, .. } = self;
        let Some(mut issuing) = flight.issuing(id) else { return Issued::All };
        let (op, file, through_cache) = (issuing.op, issuing.file, issuing.through_cache);
        let Some(plan) = op.state.plan() else { return Issued::All };
        let verifying = op.state.is_verifying();
        let direction = if verifying { Direction::Read } else { op.desc.direction() };
        let is_background = op.state.priority == Priority::Background;
        let mut skip = |progress: &mut Progress, blocks: usize| {
            progress.next += blocks;
            progress.done_with(blocks, 0);
            if is_background {
                *background -= blocks;
            }
        };
        let primary = file.fd().as_raw_fd();
        // An edge's descriptor was opened when the op was prepared.
        let edges = file.buffered_if_open().map_or(primary, |fd| fd.as_raw_fd());
        // Only the descriptor that has been open from the start is registered.
        let slot_of_file = registered.file(issuing.queue, &shared.files, file);
        while issuing.progress.next < issuing.progress.end {
            if *gathered >= STAGED_AT_ONCE {
                return Issued::Copied;
            }
            if op.state.is_cancelled() {
                let skipped = issuing.progress.end - issuing.progress.next;
                skip(issuing.progress, skipped);
                break;
            }
            if !issuing.has_room() {
                return Issued::NoRoom;
            }
            let range = plan.block(issuing.progress.next, issuing.progress.segment);
            let segment = &plan.segments[range.segment];
            issuing.progress.segment = range.segment;
            let place = match place(staging, op, segment, range, verifying) {
                Ok(None) if !issuing.is_idle => return Issued::NoRoom,
                Ok(None) => Err(io::Error::from_raw_os_error(libc::ENOMEM)).map_err(|source| {
                    let (offset, backend) = (segment.offset + range.from as u64, shared.backend.name());
                    op.io_error(op.kind(), source).at(offset, range.len as u64).by(backend).into()
                }),
                Ok(Some(place)) => Ok(place),
                Err(error) => Err(error),
            };
            let Place { ptr, region, staging } = match place {
                Ok(place) => place,
                Err(error) => {
                    op.state.fail(segment.position + range.from as u64, error);
                    skip(issuing.progress, 1);
                    continue;
                }
            };
            let direct = segment.direct && !through_cache;
            let fd = if direct { primary } else { edges };
            let file = if fd == primary { slot_of_file } else { None };
            let addresses = ptr.addr()..ptr.addr() + range.len;
            let region = region.filter(|region| registered.region(issuing.queue, &shared.arena, *region, addresses));
            let offset = segment.offset + range.from as u64;
            let block = IoBlock { token: 0, direction, fd, file, region, ptr, len: range.len, offset };
            issuing.progress.next += 1;
            if staging.is_some() && direction == Direction::Write {
                *gathered += range.len;
            }
            issuing.push(Slot { run: id, range, block, done: 0, staging, direct, retries: 0 });
        }
        Issued::All
    }

    /// Decides what a completion means for its block, and brings what arrived to where it belongs.
    pub(super) fn judge(&mut self, index: usize, result: io::Result<usize>) -> Verdict {
        let Self { flight, shared, counted, .. } = self;
        let Some((slot, run)) = flight.block(index) else { return Verdict::Failed(lost()) };
        let left = slot.range.len - slot.done;
        let error = |slot: &Slot, source| Verdict::Failed(block_error(slot, run, shared.backend.name(), source));
        match result {
            Ok(moved) if moved > left => {
                let source = io::Error::other(format!("the backend reported {moved} bytes of a block of {left}"));
                error(slot, source)
            }
            Ok(0) => match slot.block.direction {
                // What did arrive is the user's, also of a block that the end of the file cuts short.
                Direction::Read => match deliver(slot, run, slot.done) {
                    Verdict::Failed(error) => Verdict::Failed(error),
                    _ => Verdict::Failed(run.op.eof(position(slot, run))),
                },
                Direction::Write => error(slot, io::Error::from(io::ErrorKind::WriteZero)),
            },
            Ok(moved) => {
                count(counted, slot, moved as u64);
                slot.done += moved;
                slot.retries = 0;
                if moved == left {
                    return deliver(slot, run, slot.range.len);
                }
                counted.short_transfers += 1;
                resume(slot, run, moved).unwrap_or_else(|source| error(slot, source))
            }
            Err(source) if is_transient(&source) => Verdict::Retry(source),
            // The file system asks for more alignment than it told; the page cache takes anything.
            Err(source) if source.raw_os_error() == Some(libc::EINVAL) && slot.direct => {
                use_page_cache(slot, run).unwrap_or_else(|_| error(slot, source))
            }
            Err(source) => error(slot, source),
        }
    }

    /// The op of the block in this place failed with `source`.
    pub(super) fn fail_block_with(&mut self, index: usize, source: io::Error) {
        let backend = self.shared.backend.name();
        let error = self.flight.block(index).map_or_else(lost, |(slot, run)| block_error(slot, run, backend, source));
        self.fail_block(index, error);
    }

    pub(super) fn fail_block(&mut self, index: usize, error: Error) {
        if let Some((slot, run)) = self.flight.block(index) {
            run.op.state.fail(position(slot, run), error);
        }
        self.finish_block(index, 0);
    }
}

/// The memory of a block: the user's own, or a staging buffer, filled if it is to be written. None: there is no
/// staging buffer now.
fn place(
    staging: &mut Staging,
    op: &Transfer,
    segment: &Segment,
    range: BlockRange,
    verifying: bool,
) -> Result<Option<Place>, Error> {
    if let Some(memory) = segment.memory.filter(|_| !segment.staged && !verifying) {
        let ptr = memory.advance(range.from).ptr.as_ptr();
        return Ok(Some(Place { ptr, region: memory.region, staging: None }));
    }
    let Some(mut buffer) = staging.take(range.len) else { return Ok(None) };
    if !verifying && op.desc.direction() == Direction::Write {
        let into = as_uninit(&mut buffer[..range.len]);
        let at = segment.at + range.from;
        if let Err(error) = op.call("gather", |desc| desc.gather(segment.extent, at, into)) {
            staging.give(buffer);
            return Err(error);
        }
    }
    let (ptr, region) = (IoBufMut::as_mut_ptr(&mut buffer), buffer.region());
    Ok(Some(Place { ptr, region, staging: Some(buffer) }))
}

fn count(counted: &mut Stats, slot: &Slot, bytes: u64) {
    *(if slot.direct { &mut counted.bytes_direct } else { &mut counted.bytes_buffered }) += bytes;
    if slot.staging.is_some() {
        counted.bytes_staged += bytes;
    }
    if slot.block.region.is_some() {
        counted.bytes_fixed += bytes;
    }
}

/// Prepares the rest of a block after `moved` bytes of it.
fn resume(slot: &mut Slot, run: &Run, moved: usize) -> io::Result<Verdict> {
    let block = &mut slot.block;
    block.ptr = block.ptr.wrapping_add(moved);
    block.len -= moved;
    block.offset += moved as u64;
    let unit = u64::from(run.file().map_or(1, |file| file.alignment().offset.max(1)));
    if slot.direct && !block.offset.is_multiple_of(unit) {
        // Stopped inside a direct unit: at the end of the file, or the disk is full. The page cache can go on
        // from here, and says which it is.
        return use_page_cache(slot, run);
    }
    Ok(Verdict::Resume)
}

/// Takes a block off direct I/O: a read goes on where it is; a write has to wait until no direct write is in flight.
fn use_page_cache(slot: &mut Slot, run: &Run) -> io::Result<Verdict> {
    let Some(file) = run.file() else { return Err(io::Error::from_raw_os_error(libc::EBADF)) };
    let fd = file.buffered()?.as_raw_fd();
    let (path, offset) = (shown(file.path()), slot.block.offset);
    log(|| tracing::debug!(%path, offset, "continuing through the page cache"));
    if slot.block.direction == Direction::Write {
        return Ok(Verdict::ThroughCache);
    }
    slot.block.fd = fd;
    slot.block.file = None;
    slot.direct = false;
    Ok(Verdict::Resume)
}

/// The first `bytes` bytes of the block are where the queue was told to put them; brings them to where they belong.
fn deliver(slot: &Slot, run: &Run, bytes: usize) -> Verdict {
    let Some(buffer) = &slot.staging else { return Verdict::Finished { bytes } };
    let op = &run.op;
    let Some(segment) = op.state.plan().and_then(|plan| plan.segments.get(slot.range.segment)) else {
        return Verdict::Finished { bytes };
    };
    let at = segment.at + slot.range.from;
    let from = &buffer[..bytes];
    let delivered = if op.state.is_verifying() {
        compare(op, segment, at, from)
    } else if slot.block.direction == Direction::Read {
        op.call("scatter", |desc| desc.scatter(segment.extent, at, from))
    } else {
        Ok(())
    };
    delivered.map_or_else(Verdict::Failed, |()| Verdict::Finished { bytes })
}

/// How far into the op the block got.
fn position(slot: &Slot, run: &Run) -> u64 {
    let position = run.op.state.plan().map_or(0, |plan| plan.segments[slot.range.segment].position);
    position + (slot.range.from + slot.done) as u64
}

/// An error of the operating system in what is left of a block.
fn block_error(slot: &Slot, run: &Run, backend: &'static str, source: io::Error) -> Error {
    run.op.io_error(run.op.kind(), source).at(slot.block.offset, slot.block.len as u64).by(backend).into()
}

fn lost() -> Error {
    Error::WorkerDied { reason: "a block lost its op".to_owned() }
}

/// Compares what came back with the op's memory.
fn compare(op: &Transfer, segment: &Segment, at: usize, from: &[u8]) -> Result<(), Error> {
    let mut expected = vec![0u8; COMPARE.min(from.len())];
    for (index, chunk) in from.chunks(COMPARE).enumerate() {
        let expected = &mut expected[..chunk.len()];
        let at = at + index * COMPARE;
        op.call("gather", |desc| desc.gather(segment.extent, at, as_uninit(expected)))?;
        if let Some(differs) = expected.iter().zip(chunk).position(|(expected, found)| expected != found) {
            let offset = segment.offset + (at - segment.at + differs) as u64;
            let written = op.desc.direction() == Direction::Write;
            return Err(Error::Mismatch { path: op.path().to_owned(), offset, written });
        }
    }
    Ok(())
}
