//! One block: making it, and judging what a queue said of it.

use std::io;
use std::os::fd::AsRawFd;

use crate::arena::AlignedBuf;
use crate::backend::{Direction, IoBlock, RegionId};
use crate::buf::{IoBuf, IoBufMut};
use crate::engine::inflight::{RunId, Slot, is_transient};
use crate::engine::op::Transfer;
use crate::engine::staging::as_uninit;
use crate::engine::worker::AioThread;
use crate::error::Error;
use crate::file::OpenFile;
use crate::plan::{BlockRange, Segment};

/// How far issuing the blocks of a run got.
#[derive(Debug)]
pub(super) enum Issued {
    All,
    /// Not now: no slot, or no staging memory until another block is done.
    NoRoom,
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
    /// The same again.
    Retry(io::Error),
    Failed(Error),
}

/// Bytes compared at a time.
const COMPARE: usize = 64 << 10;

impl AioThread {
    /// Issues blocks of a run while there is room.
    pub(super) fn issue_run(&mut self, id: RunId) -> Issued {
        let Some(run) = self.flight.run(id) else { return Issued::All };
        let (op, file) = (run.op.clone(), run.file.clone());
        let Some(plan) = op.state.plan.get() else { return Issued::All };
        let verifying = op.state.is_verifying();
        loop {
            let nothing_in_flight = self.flight.len() == 0;
            let Some(run) = self.flight.run(id) else { return Issued::All };
            if op.state.is_cancelled() {
                let skipped = run.end - run.next;
                run.next = run.end;
                self.done_with(id, skipped, 0);
                return Issued::All;
            }
            if run.next >= run.end {
                return Issued::All;
            }
            let range = plan.block(run.next, run.segment);
            let segment = &plan.segments[range.segment];
            let Some(index) = self.flight.reserve(id) else { return Issued::NoRoom };
            let place = match self.place(&op, segment, range, verifying) {
                Ok(None) if !nothing_in_flight => {
                    self.flight.release(index, id);
                    return Issued::NoRoom;
                }
                Ok(None) => Err(io::Error::from_raw_os_error(libc::ENOMEM)).map_err(|source| {
                    let backend = self.shared.backend.name();
                    op.io_error(op.kind(), segment.offset + range.from as u64, range.len as u64, backend, source)
                }),
                Ok(Some(place)) => Ok(place),
                Err(error) => Err(error),
            };
            if let Some(run) = self.flight.run(id) {
                run.next += 1;
                run.segment = range.segment;
            }
            match place {
                Ok(place) => self.issue_block(index, id, &op, &file, range, place),
                Err(error) => {
                    op.state.fail(segment.position + range.from as u64, error);
                    self.flight.release(index, id);
                    self.done_with(id, 1, 0);
                }
            }
        }
    }

    /// The memory of a block: the user's own, or a staging buffer, filled if it is to be written. None: there is no
    /// staging buffer now.
    fn place(
        &mut self,
        op: &Transfer,
        segment: &Segment,
        range: BlockRange,
        verifying: bool,
    ) -> Result<Option<Place>, Error> {
        if let Some(memory) = segment.memory.filter(|_| !segment.staged && !verifying) {
            let ptr = memory.advance(range.from).ptr.as_ptr();
            return Ok(Some(Place { ptr, region: memory.region, staging: None }));
        }
        let Some(mut buffer) = self.staging.take(range.len) else { return Ok(None) };
        if !verifying && op.desc.direction() == Direction::Write {
            let into = as_uninit(&mut buffer[..range.len]);
            let at = segment.at + range.from;
            if let Err(error) = op.call("gather", |desc| desc.gather(segment.extent, at, into)) {
                self.staging.give(buffer);
                return Err(error);
            }
        }
        let (ptr, region) = (IoBufMut::as_mut_ptr(&mut buffer), buffer.region());
        Ok(Some(Place { ptr, region, staging: Some(buffer) }))
    }

    fn issue_block(
        &mut self,
        index: usize,
        run: RunId,
        op: &Transfer,
        file: &OpenFile,
        range: BlockRange,
        place: Place,
    ) {
        let Some(segment) = op.state.plan.get().and_then(|plan| plan.segments.get(range.segment)) else { return };
        let Place { ptr, region, staging } = place;
        // An edge's descriptor was opened when the op was prepared.
        let edge = if segment.direct { None } else { file.buffered_if_open() };
        let fd = edge.unwrap_or_else(|| file.fd()).as_raw_fd();
        // Only the descriptor that has been open from the start is registered.
        let registered = if fd == file.fd().as_raw_fd() {
            self.registered.file(self.flight.queue(), &self.shared.files, file)
        } else {
            None
        };
        let addresses = ptr.addr()..ptr.addr() + range.len;
        let (registrations, queue) = (&mut self.registered, self.flight.queue());
        let arena = &self.shared.arena;
        let region = region.filter(|region| registrations.region(queue, arena, *region, addresses));
        let verifying = op.state.is_verifying();
        let direction = if verifying { Direction::Read } else { op.desc.direction() };
        let offset = segment.offset + range.from as u64;
        let block = IoBlock { token: 0, direction, fd, file: registered, region, ptr, len: range.len, offset };
        self.flight.push(index, Slot { run, range, block, done: 0, staging, direct: segment.direct, retries: 0 });
    }

    /// Decides what a completion means for its block.
    pub(super) fn judge(&mut self, slot: &mut Slot, result: io::Result<usize>) -> Verdict {
        let left = slot.range.len - slot.done;
        match result {
            Ok(moved) if moved > left => {
                let source = io::Error::other(format!("the backend reported {moved} bytes of a block of {left}"));
                Verdict::Failed(self.block_error(slot, source))
            }
            Ok(0) => match slot.block.direction {
                // What did arrive is the user's, also of a block that the end of the file cuts short.
                Direction::Read => match self.deliver(slot, slot.done) {
                    Verdict::Failed(error) => Verdict::Failed(error),
                    _ => Verdict::Failed(self.eof(slot)),
                },
                Direction::Write => {
                    Verdict::Failed(self.block_error(slot, io::Error::from(io::ErrorKind::WriteZero)))
                }
            },
            Ok(moved) => {
                self.count(slot, moved as u64);
                slot.done += moved;
                slot.retries = 0;
                if moved == left {
                    return self.deliver(slot, slot.range.len);
                }
                self.counted.short_transfers += 1;
                self.resume(slot, moved)
            }
            Err(error) if is_transient(&error) => Verdict::Retry(error),
            // The file system asks for more alignment than it told; the page cache takes anything.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && slot.direct => {
                match self.use_page_cache(slot) {
                    Ok(()) => Verdict::Resume,
                    Err(_) => Verdict::Failed(self.block_error(slot, error)),
                }
            }
            Err(error) => Verdict::Failed(self.block_error(slot, error)),
        }
    }

    fn count(&mut self, slot: &Slot, bytes: u64) {
        let counted = &mut self.counted;
        *(if slot.direct { &mut counted.bytes_direct } else { &mut counted.bytes_buffered }) += bytes;
        if slot.staging.is_some() {
            counted.bytes_staged += bytes;
        }
        if slot.block.region.is_some() {
            counted.bytes_fixed += bytes;
        }
    }

    /// Prepares the rest of a block after `moved` bytes of it.
    fn resume(&mut self, slot: &mut Slot, moved: usize) -> Verdict {
        let block = &mut slot.block;
        block.ptr = block.ptr.wrapping_add(moved);
        block.len -= moved;
        block.offset += moved as u64;
        let Some(run) = self.flight.run(slot.run) else { return Verdict::Resume };
        let unit = u64::from(run.file.alignment().offset.max(1));
        if slot.direct && !block.offset.is_multiple_of(unit) {
            // Stopped inside a direct unit: at the end of the file, or the disk is full. The page cache can go on
            // from here, and says which it is.
            if let Err(source) = self.use_page_cache(slot) {
                return Verdict::Failed(self.block_error(slot, source));
            }
        }
        Verdict::Resume
    }

    fn use_page_cache(&mut self, slot: &mut Slot) -> io::Result<()> {
        let Some(run) = self.flight.run(slot.run) else { return Err(io::Error::from_raw_os_error(libc::EBADF)) };
        slot.block.fd = run.file.buffered()?.as_raw_fd();
        slot.block.file = None;
        slot.direct = false;
        tracing::debug!(path = %run.file.path().display(), offset = slot.block.offset, "continuing through the page cache");
        Ok(())
    }

    /// The first `bytes` bytes of the block are where the queue was told to put them; brings them to where they
    /// belong.
    fn deliver(&mut self, slot: &Slot, bytes: usize) -> Verdict {
        let (Some(buffer), Some(run)) = (&slot.staging, self.flight.run(slot.run)) else {
            return Verdict::Finished { bytes };
        };
        let op = &run.op;
        let Some(segment) = op.state.plan.get().and_then(|plan| plan.segments.get(slot.range.segment)) else {
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

    fn eof(&mut self, slot: &Slot) -> Error {
        match self.flight.run(slot.run) {
            Some(run) => {
                let position = run.op.state.plan.get().map_or(0, |plan| plan.segments[slot.range.segment].position);
                run.op.eof(position + (slot.range.from + slot.done) as u64)
            }
            None => Error::WorkerDied { reason: "a block lost its op".to_owned() },
        }
    }

    /// An error of the operating system in what is left of a block.
    pub(super) fn block_error(&mut self, slot: &Slot, source: io::Error) -> Error {
        let backend = self.shared.backend.name();
        match self.flight.run(slot.run) {
            Some(run) => run.op.io_error(run.op.kind(), slot.block.offset, slot.block.len as u64, backend, source),
            None => Error::WorkerDied { reason: "a block lost its op".to_owned() },
        }
    }
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
