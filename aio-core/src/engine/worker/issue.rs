//! Issuing: the blocks of a claimed run become blocks of the I/O queue.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use super::{AioThread, COPIED_AT_ONCE};
use crate::backend::{Direction, FileId, IoBlock, RegionId};
use crate::engine::Shared;
use crate::engine::callers_pages::{self, ExtentPages, Stretch, WorkersMap};
use crate::engine::completion::Piece;
use crate::engine::in_flight::{Issuing, PendingBlock, RunId};
use crate::engine::registered::Registrations;
use crate::engine::staging::{self, Staging};
use crate::error::Error;
use crate::memory::AlignedBuf;
use crate::op::buf::{IoBuf, IoBufMut};
use crate::op::plan::{BlockRange, Plan, Segment};

/// How far issuing the blocks of a run got.
#[derive(Debug)]
pub(super) enum Issued {
    All,
    /// Not now: no slot, or no staging memory until another block is done.
    NoRoom,
    /// Not before what was copied into staging memory is submitted.
    Copied,
}

impl AioThread {
    /// Issues blocks of a run while there is room.
    pub(super) fn issue_run(&mut self, id: RunId) -> Issued {
        let Self { flight, staging, page_map, copied, registered, shared, background, .. } = self;
        let Some(run) = flight.issuing(id) else { return Issued::All };
        let Some(plan) = run.op.state.plan() else { return Issued::All };
        let verifying = run.op.state.is_verifying();
        let direct_fd = run.file.fd().as_raw_fd();
        let issuer = Issuer {
            plan,
            verifying,
            direction: if verifying { Direction::Read } else { run.op.desc.direction() },
            unit: run.file.alignment().offset,
            direct_fd,
            // An edge's descriptor was opened when the op was prepared.
            cached_fd: run.file.buffered_if_open().map_or(direct_fd, |fd| fd.as_raw_fd()),
            registered_file: registered.file(run.queue, &shared.files, run.file),
            run,
            shared,
            registered,
            staging,
            page_map,
            copied,
            background,
        };
        issuer.issue()
    }
}

/// Issues the blocks of one run.
struct Issuer<'a> {
    run: Issuing<'a>,
    plan: &'a Plan,
    verifying: bool,
    direction: Direction,
    /// The direct unit of the file.
    unit: u32,
    /// The descriptor that has been open from the start, for direct I/O if the file can do that.
    direct_fd: RawFd,
    cached_fd: RawFd,
    /// `direct_fd` as a registered file.
    registered_file: Option<FileId>,
    shared: &'a Shared,
    registered: &'a mut Registrations,
    staging: &'a mut Staging,
    page_map: &'a WorkersMap,
    copied: &'a mut usize,
    background: &'a mut usize,
}

/// Where a block's bytes go to or come from.
struct BlockMemory {
    ptr: *mut u8,
    region: Option<RegionId>,
    staging: Option<AlignedBuf>,
}

impl Issuer<'_> {
    fn issue(mut self) -> Issued {
        while self.run.progress.next < self.run.progress.end {
            if *self.copied >= COPIED_AT_ONCE {
                return Issued::Copied;
            }
            if self.run.op.state.is_cancelled() {
                self.skip(self.run.progress.end - self.run.progress.next);
                break;
            }
            if !self.run.has_room() {
                return Issued::NoRoom;
            }
            let range = self.plan.block(self.run.progress.next, self.run.progress.segment);
            if self.run.progress.segment != range.segment {
                (self.run.progress.segment, self.run.progress.stretch) = (range.segment, Stretch::default());
            }
            let segment = &self.plan.segments[range.segment];
            match self.memory(segment, range) {
                Ok(Some(memory)) => self.push(segment, range, memory),
                Ok(None) if !self.run.is_idle => return Issued::NoRoom,
                Ok(None) => self.fail(segment, range, self.out_of_memory(segment, range)),
                Err(error) => self.fail(segment, range, error),
            }
        }
        Issued::All
    }

    /// The memory of a block: the user's own, or a staging buffer, filled if it is to be written. None: there is no
    /// staging buffer now, or the block goes faster with one that is in flight.
    fn memory(&mut self, segment: &Segment, range: BlockRange) -> Result<Option<BlockMemory>, Error> {
        let own = segment.memory.filter(|_| !segment.staged && !self.verifying);
        let own = own.map(|memory| (memory.advance(range.from).ptr.as_ptr(), memory.region));
        // Memory that can be transferred directly need not wait for room for staging.
        let staging = match own {
            Some((ptr, None)) if self.is_slow(segment, range, ptr) => {
                if self.staging.has_enough() && !self.run.is_idle {
                    return Ok(None);
                }
                self.staging.take_spare(range.len)
            }
            Some(_) => None,
            None => self.staging.take(range.len),
        };
        let Some(mut buffer) = staging else {
            return Ok(own.map(|(ptr, region)| BlockMemory { ptr, region, staging: None }));
        };
        if self.direction == Direction::Write {
            if let Err(error) = staging::fill(self.run.op, segment, range, &mut buffer) {
                self.staging.give(buffer);
                return Err(error);
            }
            *self.copied += range.len;
        }
        let (ptr, region) = (IoBufMut::byte_mut_ptr(&mut buffer), buffer.region());
        Ok(Some(BlockMemory { ptr, region, staging: Some(buffer) }))
    }

    /// Whether a block of memory of the caller's own is transferred faster through staging.
    fn is_slow(&mut self, segment: &Segment, range: BlockRange, ptr: *mut u8) -> bool {
        if segment.len < callers_pages::LEAST || !segment.direct || self.run.through_cache {
            return false;
        }
        let addresses = ptr.addr()..ptr.addr() + range.len;
        if addresses.start >= self.run.progress.stretch.until {
            let start = addresses.start - range.from;
            let memory = ExtentPages {
                direction: self.direction,
                addresses: start..start + segment.len,
                op: &self.run.op.state.number,
            };
            let (stretch, made) = self.shared.callers_pages.look(self.page_map, &memory, &addresses);
            self.run.progress.stretch = stretch;
            // That took time, too.
            *self.copied += made;
        }
        self.run.progress.stretch.staged
    }

    fn push(&mut self, segment: &Segment, range: BlockRange, memory: BlockMemory) {
        let BlockMemory { ptr, region, staging } = memory;
        let addresses = ptr.addr()..ptr.addr() + range.len;
        let region =
            region.filter(|region| self.registered.region(self.run.queue, &self.shared.arena, *region, addresses));
        let direct = segment.direct && !self.run.through_cache;
        let fd = if direct { self.direct_fd } else { self.cached_fd };
        let piece = Piece {
            direction: self.direction,
            offset: segment.offset + range.from as u64,
            len: range.len,
            direct,
            unit: self.unit,
            staged: staging.is_some(),
            fixed: region.is_some(),
            retries: 0,
        };
        let block = IoBlock {
            file: self.registered_file.filter(|_| fd == self.direct_fd),
            region,
            ..IoBlock::new(piece.direction, fd, ptr, piece.len, piece.offset)
        };
        self.run.progress.next += 1;
        self.run.push(PendingBlock { run: self.run.id, range, piece, block, staging });
    }

    /// Leaves the next `blocks` blocks out.
    fn skip(&mut self, blocks: usize) {
        self.run.progress.next += blocks;
        self.run.progress.done_with(blocks, 0);
        if self.run.op.state.options.is_background() {
            *self.background -= blocks;
        }
    }

    #[cold]
    fn fail(&mut self, segment: &Segment, range: BlockRange, error: Error) {
        self.run.op.state.fail(segment.position + range.from as u64, error);
        self.skip(1);
    }

    #[cold]
    fn out_of_memory(&self, segment: &Segment, range: BlockRange) -> Error {
        let (op, backend) = (self.run.op, self.shared.backend.name());
        let source = io::Error::from_raw_os_error(libc::ENOMEM);
        op.io_error(op.kind(), source).at(segment.offset + range.from as u64, range.len as u64).by(backend).into()
    }
}
