//! One block: making it, and judging what a queue said of it.

use std::io;
use std::os::fd::AsRawFd;

use crate::arena::AlignedBuf;
use crate::backend::{Direction, IoBlock};
use crate::buf::{IoBuf, IoBufMut};
use crate::engine::inflight::{RunId, Slot, is_transient};
use crate::engine::op::Transfer;
use crate::engine::staging::as_uninit;
use crate::engine::worker::AioThread;
use crate::error::Error;
use crate::plan::{BlockRange, Segment};

/// What became of the attempt to issue the next block of a run.
#[derive(Debug)]
pub(super) enum Next {
    Issued,
    /// Not now: no slot, or no staging memory until another block is done.
    NoRoom,
    /// The run has no block left to issue.
    RunIssued,
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
    /// Issues the next block of a run.
    pub(super) fn next_block(&mut self, id: RunId) -> Next {
        let has_room = self.flight.room() > 0;
        let nothing_in_flight = self.flight.len() == 0;
        let Some(run) = self.flight.run(id) else { return Next::RunIssued };
        if run.op.state.is_cancelled() {
            run.finished += run.end - run.next;
            run.next = run.end;
        }
        if run.next >= run.end {
            return Next::RunIssued;
        }
        if !has_room {
            return Next::NoRoom;
        }
        let (op, file) = (run.op.clone(), run.file.clone());
        let Some(plan) = op.state.plan.get() else { return Next::RunIssued };
        let range = plan.block(run.next, run.segment);
        run.segment = range.segment;
        let segment = &plan.segments[range.segment];
        let verifying = op.state.is_verifying();
        let direction = if verifying { Direction::Read } else { op.desc.direction() };

        let (memory, staging) = match segment.memory {
            Some(memory) if !segment.staged && !verifying => {
                (Ok((memory.advance(range.from).ptr.as_ptr(), memory.region)), None)
            }
            _ => match self.staging.take(range.len) {
                Some(mut buffer) => {
                    let filled = match direction {
                        Direction::Write => gather(&op, segment, range, &mut buffer),
                        Direction::Read => Ok(()),
                    };
                    (filled.map(|()| (IoBufMut::as_mut_ptr(&mut buffer), buffer.region())), Some(buffer))
                }
                None if !nothing_in_flight => return Next::NoRoom,
                None => {
                    let source = io::Error::from_raw_os_error(libc::ENOMEM);
                    let backend = self.shared.backend.name();
                    (Err(op.io_error(op.kind(), segment.offset, range.len as u64, backend, source)), None)
                }
            },
        };
        let Some(index) = self.flight.reserve(id) else { return Next::NoRoom };
        let Some(run) = self.flight.run(id) else { return Next::RunIssued };
        run.next += 1;
        let (ptr, region) = match memory {
            Ok(memory) => memory,
            Err(error) => {
                run.finished += 1;
                self.flight.release(index, id);
                op.state.fail(segment.position + range.from as u64, error);
                if let Some(buffer) = staging {
                    self.staging.give(buffer);
                }
                return Next::Issued;
            }
        };
        let fd = if segment.direct { Some(file.fd()) } else { file.buffered_if_open() };
        let fd = fd.unwrap_or_else(|| file.fd());
        // Only the descriptor that has been open from the start is registered.
        let registered = if fd.as_raw_fd() == file.fd().as_raw_fd() {
            self.registered.file(self.flight.queue(), &file)
        } else {
            None
        };
        let region = region.filter(|region| self.registered.region(self.flight.queue(), &self.shared.arena, *region));
        let block = IoBlock {
            token: 0,
            direction,
            fd: fd.as_raw_fd(),
            file: registered,
            region,
            ptr,
            len: range.len,
            offset: segment.offset + range.from as u64,
        };
        self.flight.push(index, Slot { run: id, range, block, done: 0, staging, direct: segment.direct, retries: 0 });
        Next::Issued
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

/// Fills a staging buffer from the op's memory.
fn gather(op: &Transfer, segment: &Segment, range: BlockRange, buffer: &mut AlignedBuf) -> Result<(), Error> {
    let into = as_uninit(&mut buffer[..range.len]);
    op.call("gather", |desc| desc.gather(segment.extent, segment.at + range.from, into))
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
