//! Prepares memory, then runs the timed part in the way that the arguments ask for.

use aio::{AioFile, AioHandle};

use super::bare::{Bare, TURN};
use super::blocks::{self, Block, LESS};
use super::drive::{self, Blocking, Call, Drive, Limit, Plan};
use super::mix::{Calls, Mix, Singles, Vectored};
use super::offsets::Offsets;
use super::verify::Verifier;
use super::watch::{Quiet, Watch};
use crate::cli::RunArgs;
use aio_cli::failure::Failure;
use aio_cli::interrupt;
use aio_cli::paths::Paths;
use aio_cli::warm_up::{attempted, buffers};

/// What a job has before its memory.
pub(crate) struct Job<'a> {
    pub(crate) args: &'a RunArgs,
    pub(crate) handle: &'a AioHandle,
    pub(crate) file: &'a AioFile,
    /// Blocks of the file that the job uses.
    pub(crate) blocks: u64,
    pub(crate) plan: Plan,
    pub(crate) verifier: Option<&'a mut Verifier>,
}

/// The result of a job.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) drive: Drive,
    pub(crate) bare: Option<Compared>,
    /// What the engine had moved when the clock started.
    pub(crate) before: Paths,
    pub(crate) buffer_bytes: u64,
}

impl Measured {
    /// The error that ended it early.
    pub(crate) fn first_error(&self) -> Option<&str> {
        let bare = self.bare.as_ref().and_then(|bare| bare.drive.first_error.as_deref());
        self.drive.first_error.as_deref().or(bare)
    }
}

/// The results of the bare calls.
#[derive(Debug)]
pub(crate) struct Compared {
    pub(crate) drive: Drive,
    pub(crate) direct: bool,
}

/// Blocks in flight at once, in whole ops.
pub(crate) fn depth(args: &RunArgs, threads: usize) -> usize {
    args.queue_depth.saturating_mul(threads).next_multiple_of(args.extents as usize)
}

impl Job<'_> {
    /// Runs the job.
    pub(crate) fn measure(self, watch: &mut impl Watch) -> Result<Measured, Failure> {
        let Self { args, handle, file, .. } = self;
        let (count, offset) = (depth(args, handle.config().intra_op_parallelism), usize::from(args.memory_offset));
        match offset {
            0 => self.with(buffers(handle, file, (count, args.block_size), LESS)?, watch),
            _ => self.with(blocks::past_page(handle, file, count, args.block_size, offset)?, watch),
        }
    }

    fn with<B: Block>(self, mut memory: Vec<B>, watch: &mut impl Watch) -> Result<Measured, Failure> {
        let buffer_bytes = blocks::bytes_of(&memory) + memory.len() as u64 * u64::from(self.args.memory_offset);
        // Blocking calls have their own bounce buffers, which the first call makes.
        let blocking = memory.len() == 1;
        if blocking && self.args.memory_offset > 0 {
            attempted(self.file.read_at(&mut memory[0], 0))?;
        }
        let bare = if self.args.bare { Some(Bare::open(self.args, &mut memory[0])?) } else { None };
        blocks::fill(&mut memory);
        let handle = self.handle;
        let mut before = Paths::from(handle.stats());
        let border = || before = Paths::from(handle.stats());
        let (drive, bare) = match (blocking, bare, self.args.extents) {
            (true, Some(bare), _) => {
                let (ours, theirs) = self.beside(&mut memory[0], &bare, border);
                (ours, Some(Compared { drive: theirs, direct: bare.is_direct() }))
            }
            (true, None, _) => (self.blocking(&mut memory[0], watch, border), None),
            (false, _, 1) => (self.one_by_one(memory, watch, border), None),
            (false, _, extents) => (self.vectored(memory, extents as usize, watch, border), None),
        };
        Ok(Measured { drive, bare, before, buffer_bytes })
    }

    /// Whether all ops are the same and unchecked; then the loop does the least.
    fn is_plain(&self) -> bool {
        !self.args.is_mixed() && self.verifier.is_none()
    }

    fn offsets(&self) -> Offsets {
        let random = self.args.ops.first().is_some_and(|op| op.op.is_random());
        Offsets::new(random, self.blocks, self.args.block_size as u64, 0)
    }

    /// Runs blocking calls, for queue depth 1.
    fn blocking(self, block: &mut [u8], watch: &mut impl Watch, border: impl FnOnce()) -> Drive {
        let (file, plan, mut offsets) = (self.file, self.plan, self.offsets());
        match (self.is_plain(), self.args.writes()) {
            (true, true) => calls(&plan, || file.write_at(block, offsets.next()), watch, border),
            (true, false) => calls(&plan, || file.read_at(block, offsets.next()), watch, border),
            (false, _) => calls(&plan, Calls { mix: self.mix(), block }, watch, border),
        }
    }

    /// Alternates blocking calls with bare ones. Both take offsets from one sequence, so neither finds in the page
    /// cache what the other has just put there.
    fn beside(&self, block: &mut [u8], bare: &Bare, border: impl FnOnce()) -> (Drive, Drive) {
        let (file, writes, mut offsets) = (self.file, self.args.writes(), self.offsets());
        let mut turns = |limit| {
            let (mut ours, mut theirs) = (Blocking::new(limit), Blocking::new(limit));
            while !(ours.is_done() && theirs.is_done() || ours.has_failed() || theirs.has_failed()) {
                if writes {
                    ours.go_on(Some(TURN), &mut || file.write_at(block, offsets.next()), &mut Quiet);
                    theirs.go_on(Some(TURN), &mut || bare.write_at(block, offsets.next()), &mut Quiet);
                } else {
                    ours.go_on(Some(TURN), &mut || file.read_at(block, offsets.next()), &mut Quiet);
                    theirs.go_on(Some(TURN), &mut || bare.read_at(block, offsets.next()), &mut Quiet);
                }
            }
            (ours.finish(), theirs.finish())
        };
        if let Some(ramp) = self.plan.ramp {
            let (ours, theirs) = turns(Limit::Time(ramp));
            if ours.errors + theirs.errors > 0 || interrupt::check().is_err() {
                return (ours.uncounted(), theirs.uncounted());
            }
        }
        border();
        turns(self.plan.limit)
    }

    /// Runs an op and a ticket per block.
    fn one_by_one<B: Block>(self, memory: Vec<B>, watch: &mut impl Watch, border: impl FnOnce()) -> Drive {
        let (file, plan, mut offsets) = (self.file, self.plan, self.offsets());
        match (self.is_plain(), self.args.writes()) {
            (true, true) => {
                let write = drive::Plain(|block, _| file.write(block, offsets.next()));
                drive::tickets(&plan, memory, write, watch, border)
            }
            (true, false) => {
                let read = drive::Plain(|block, _| file.read(block, offsets.next()));
                drive::tickets(&plan, memory, read, watch, border)
            }
            (false, _) => drive::tickets(&plan, memory, Singles(self.mix()), watch, border),
        }
    }

    /// Runs vectored ops of several blocks.
    fn vectored<B: Block>(
        self,
        memory: Vec<B>,
        extents: usize,
        watch: &mut impl Watch,
        border: impl FnOnce(),
    ) -> Drive {
        let mut ops: Vec<Vec<(u64, B)>> = Vec::with_capacity(memory.len() / extents);
        for block in memory {
            match ops.last_mut().filter(|op| op.len() < extents) {
                Some(op) => op.push((0, block)),
                None => ops.push(vec![(0, block)]),
            }
        }
        let (file, plan, mut offsets) = (self.file, self.plan, self.offsets());
        let mut place = |mut op: Vec<(u64, B)>, blocks: usize| {
            op.truncate(blocks);
            op.iter_mut().for_each(|(offset, _)| *offset = offsets.next());
            op
        };
        match (self.is_plain(), self.args.writes()) {
            (true, true) => {
                let write = drive::Plain(|op, blocks| file.write_vectored(place(op, blocks)));
                drive::tickets(&plan, ops, write, watch, border)
            }
            (true, false) => {
                let read = drive::Plain(|op, blocks| file.read_vectored(place(op, blocks)));
                drive::tickets(&plan, ops, read, watch, border)
            }
            (false, _) => drive::tickets(&plan, ops, Vectored(self.mix()), watch, border),
        }
    }
}

impl<'a> Job<'a> {
    fn mix(self) -> Mix<'a> {
        Mix::new(self.file, &self.args.ops, self.blocks, self.args.block_size as u64, self.verifier)
    }
}

/// Runs blocking calls in one stretch.
fn calls(plan: &Plan, mut call: impl Call, watch: &mut impl Watch, border: impl FnOnce()) -> Drive {
    if let Some(ramp) = plan.ramp {
        let mut uncounted = Blocking::new(Limit::Time(ramp));
        uncounted.go_on(None, &mut call, watch);
        if uncounted.has_failed() || interrupt::check().is_err() {
            return uncounted.finish().uncounted();
        }
    }
    border();
    watch.begin(std::time::Instant::now());
    let mut counted = Blocking::new(plan.limit);
    counted.go_on(None, &mut call, watch);
    counted.finish()
}
