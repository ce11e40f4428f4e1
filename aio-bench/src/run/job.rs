//! Getting everything ready, then the timed part, in the way that the arguments ask for.

use aio::{AioFile, AioHandle};

use super::bare::{Bare, TURN};
use super::blocks::{self, Block};
use super::drive::{self, Blocking, Drive, Limit};
use super::offsets::Offsets;
use crate::cli::RunArgs;
use crate::failure::Failure;
use crate::paths::Paths;
use crate::warm_up::attempted;

/// All that there is before memory.
pub(crate) struct Job<'a> {
    pub(crate) args: &'a RunArgs,
    pub(crate) handle: &'a AioHandle,
    pub(crate) file: &'a AioFile,
    pub(crate) offsets: Offsets,
}

/// What a job did.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) drive: Drive,
    pub(crate) bare: Option<Compared>,
    /// What the engine had moved when the clock started.
    pub(crate) before: Paths,
    /// Memory for data.
    pub(crate) buffer_bytes: u64,
}

impl Measured {
    /// What ended it early.
    pub(crate) fn first_error(&self) -> Option<&str> {
        let bare = self.bare.as_ref().and_then(|bare| bare.drive.first_error.as_deref());
        self.drive.first_error.as_deref().or(bare)
    }
}

/// The bare calls beside it.
#[derive(Debug)]
pub(crate) struct Compared {
    pub(crate) drive: Drive,
    pub(crate) direct: bool,
}

impl Job<'_> {
    /// Does it.
    pub(crate) fn measure(self, limit: Limit) -> Result<Measured, Failure> {
        let Self { args, handle, file, .. } = self;
        let (extents, offset) = (args.extents as usize, usize::from(args.memory_offset));
        // In flight at once, in whole ops.
        let depth = args.queue_depth * handle.config().intra_op_parallelism;
        let count = depth.next_multiple_of(extents);
        match offset {
            0 => self.with(limit, blocks::aligned(handle, file, count, args.block_size)?),
            _ => self.with(limit, blocks::past_page(handle, file, count, args.block_size, offset)?),
        }
    }

    fn with<B: Block>(self, limit: Limit, mut memory: Vec<B>) -> Result<Measured, Failure> {
        let buffer_bytes = blocks::bytes_of(&memory) + memory.len() as u64 * u64::from(self.args.memory_offset);
        // Blocking calls have bounce buffers of their own, which the first of them makes.
        let blocking = memory.len() == 1;
        if blocking && self.args.memory_offset > 0 {
            attempted(self.file.read_at(&mut memory[0], 0))?;
        }
        let bare = if self.args.bare { Some(Bare::open(self.args, &mut memory[0])?) } else { None };
        blocks::fill(&mut memory);
        let before = Paths::from(self.handle.stats());
        let (drive, bare) = match (blocking, self.args.extents) {
            (true, _) => self.blocking(limit, &mut memory[0], bare.as_ref()),
            (false, 1) => (self.one_by_one(limit, memory), None),
            (false, extents) => (self.vectored(limit, memory, extents as usize), None),
        };
        Ok(Measured { drive, bare, before, buffer_bytes })
    }

    /// Blocking calls: what there is to measure at queue depth 1. Bare ones take turns with them, and go on from the
    /// same place of the file, so that neither finds in the page cache what the other just put there.
    fn blocking(mut self, limit: Limit, block: &mut [u8], bare: Option<&Bare>) -> (Drive, Option<Compared>) {
        let (file, offsets, writes) = (self.file, &mut self.offsets, self.args.op.writes());
        let mut ours = Blocking::new(limit);
        let Some(bare) = bare else {
            match writes {
                true => ours.go_on(None, || file.write_at(block, offsets.next())),
                false => ours.go_on(None, || file.read_at(block, offsets.next())),
            }
            return (ours.finish(), None);
        };
        let mut theirs = Blocking::new(limit);
        while !(ours.is_done() && theirs.is_done() || ours.has_failed() || theirs.has_failed()) {
            if writes {
                ours.go_on(Some(TURN), || file.write_at(block, offsets.next()));
                theirs.go_on(Some(TURN), || bare.write_at(block, offsets.next()));
            } else {
                ours.go_on(Some(TURN), || file.read_at(block, offsets.next()));
                theirs.go_on(Some(TURN), || bare.read_at(block, offsets.next()));
            }
        }
        (ours.finish(), Some(Compared { drive: theirs.finish(), direct: bare.is_direct() }))
    }

    /// An op and a ticket per block.
    fn one_by_one<B: Block>(mut self, limit: Limit, memory: Vec<B>) -> Drive {
        let (file, offsets) = (self.file, &mut self.offsets);
        match self.args.op.writes() {
            true => drive::tickets(limit, 1, memory, |block, _| file.write(block, offsets.next())),
            false => drive::tickets(limit, 1, memory, |block, _| file.read(block, offsets.next())),
        }
    }

    /// Vectored ops of several blocks.
    fn vectored<B: Block>(mut self, limit: Limit, memory: Vec<B>, extents: usize) -> Drive {
        let mut ops: Vec<Vec<(u64, B)>> = Vec::with_capacity(memory.len() / extents);
        for block in memory {
            match ops.last_mut().filter(|op| op.len() < extents) {
                Some(op) => op.push((0, block)),
                None => ops.push(vec![(0, block)]),
            }
        }
        let (file, offsets) = (self.file, &mut self.offsets);
        let mut place = |mut op: Vec<(u64, B)>, blocks: usize| {
            op.truncate(blocks);
            op.iter_mut().for_each(|(offset, _)| *offset = offsets.next());
            op
        };
        match self.args.op.writes() {
            true => drive::tickets(limit, extents, ops, |op, blocks| file.write_vectored(place(op, blocks))),
            false => drive::tickets(limit, extents, ops, |op, blocks| file.read_vectored(place(op, blocks))),
        }
    }
}
