//! What is in flight: the one module of the engine that hands memory to the kernel.
//!
//! Everything `unsafe` about a transfer rests on one invariant: **a block's memory has an owner in this module from
//! before it is submitted until its completion was reaped.** The owners are the [`Run`] that the block belongs to,
//! which holds the op and so its descriptor, and the block's staging buffer. A run leaves only when none of its
//! blocks is in flight; and when a queue breaks so badly that blocks can never be reaped, their owners are leaked.
#![allow(unsafe_code)]

use std::io;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Completion, IoBackend, IoBlock, IoQueue, RegionId};
use crate::engine::callers_pages::Stretch;
use crate::engine::completion::{NextStep, Piece, is_transient};
use crate::engine::transfer::Transfer;
use crate::file::OpenFile;
use crate::file::routes::RoutePermit;
use crate::foreign::{contain, log, report_drop};
use crate::memory::AlignedBuf;
use crate::op::desc::Target;
use crate::op::plan::BlockRange;

/// Neighbouring blocks of one op that a worker has claimed.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) op: Arc<Transfer>,
    /// Keeps the descriptors open that its blocks name, if the op opened them; an open file is the descriptor's.
    opened: Option<OpenFile>,
    /// Of a write: keeps what takes the other route away.
    permit: Option<RoutePermit>,
    /// What the plan has as direct goes through the page cache.
    pub(crate) through_cache: bool,
    pub(crate) progress: Progress,
}

/// How far a run got.
#[derive(Debug)]
pub(crate) struct Progress {
    /// The next block to issue, and the end.
    pub(crate) next: usize,
    pub(crate) end: usize,
    /// The segment of the block before `next`.
    pub(crate) segment: usize,
    /// What is known of the memory of the next blocks, those of this segment.
    pub(crate) stretch: Stretch,
    /// Blocks of this run that are done with, and the bytes they moved; given to the op when the run is over.
    finished: usize,
    bytes: u64,
    /// Blocks of this run that hold a slot.
    in_flight: usize,
}

impl Run {
    /// Blocks of an op that is planned, and so has its file.
    pub(crate) fn new(
        op: Arc<Transfer>,
        blocks: Range<usize>,
        permit: Option<RoutePermit>,
        through_cache: bool,
    ) -> Self {
        let Range { start: next, end } = blocks;
        let segment = op.state.plan().map_or(0, |plan| plan.segment_of(next));
        let opened = op.state.opened();
        let progress =
            Progress { next, end, segment, stretch: Stretch::default(), finished: 0, bytes: 0, in_flight: 0 };
        Self { op, opened, permit, through_cache, progress }
    }

    /// The file of its blocks. A run without one has nothing to issue.
    pub(crate) fn file(&self) -> Option<&OpenFile> {
        file_of(&self.op, self.opened.as_ref())
    }

    /// Transfers what is left of a block through the page cache, from or to the op's own memory, with one system call
    /// on this thread: how many bytes moved. `range` is the block, which this run has claimed.
    pub(super) fn copy(&self, backend: &dyn IoBackend, range: BlockRange, piece: &Piece) -> io::Result<usize> {
        let unusable = || io::Error::from_raw_os_error(libc::EBADF);
        let (plan, file) = (self.op.state.plan().ok_or_else(unusable)?, self.file().ok_or_else(unusable)?);
        let fd = file.buffered_if_open().ok_or_else(unusable)?.as_raw_fd();
        let memory = plan.segments[range.segment].memory.ok_or_else(unusable)?;
        let ptr = memory.advance(range.from + range.len - piece.len).ptr.as_ptr();
        let block = IoBlock::new(piece.direction, fd, ptr, piece.len, piece.offset);
        // SAFETY: the memory of a block belongs to the op's descriptor, which this run keeps until the call has
        // returned; no other run has the block, so nothing else uses the memory of a read. `file` keeps the descriptor
        // open.
        unsafe { backend.transfer(&block) }
    }

    /// Blocks that are not accounted for.
    pub(crate) fn blocks(&self) -> usize {
        self.progress.end - self.progress.next + self.progress.in_flight
    }

    pub(crate) fn is_background(&self) -> bool {
        self.op.state.options.is_background()
    }

    /// What the op gets to know at the end of the run: blocks, and the bytes they moved. The file goes first: the
    /// worker that ends the op closes it, and wants to be the last to hold it.
    #[inline]
    pub(crate) fn into_account(self) -> (Arc<Transfer>, usize, u64) {
        drop((self.opened, self.permit));
        (self.op, self.progress.finished, self.progress.bytes)
    }

    /// As [`into_account`](Self::into_account), of a run that will get no further.
    pub(crate) fn into_broken_account(mut self) -> (Arc<Transfer>, usize, u64) {
        self.progress.finished += self.blocks();
        self.into_account()
    }
}

impl Progress {
    /// Blocks are done with, well or not, and moved `bytes`.
    pub(crate) fn done_with(&mut self, blocks: usize, bytes: usize) {
        self.finished += blocks;
        self.bytes += bytes as u64;
    }
}

fn file_of<'a>(op: &'a Transfer, opened: Option<&'a OpenFile>) -> Option<&'a OpenFile> {
    match op.desc.target() {
        Target::File(file) => Some(file),
        Target::Path(..) => opened,
    }
}

/// Names a run of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunId(usize);

/// A block from the time it is issued until it is over.
#[derive(Debug)]
pub(crate) struct PendingBlock {
    pub(crate) run: RunId,
    pub(crate) range: BlockRange,
    /// What is left of it.
    pub(crate) piece: Piece,
    /// The same, as the queue gets it; its token is the slot's to set.
    pub(crate) block: IoBlock,
    /// The memory it passes through.
    pub(crate) staging: Option<AlignedBuf>,
}

impl PendingBlock {
    /// Bytes of it that are transferred.
    pub(crate) fn done(&self) -> usize {
        self.range.len - self.piece.len
    }

    /// Goes on to what is left after a step.
    #[inline]
    pub(crate) fn advance(&mut self, step: &NextStep) {
        self.piece.advance(step);
        self.block.ptr = self.block.ptr.wrapping_add(step.moved());
        self.block.len = self.piece.len;
        self.block.offset = self.piece.offset;
    }
}

/// Room for one block.
#[derive(Debug, Default)]
struct Slot {
    block: Option<PendingBlock>,
    /// The token under which the queue has the block; `None` when it has not.
    token: Option<u64>,
    /// Tells a late completion from one of the slot's next block.
    generation: u32,
}

/// A queue, and everything whose memory it may touch.
pub(crate) struct InFlight {
    /// Dropped first, by hand, and only when it has nothing in flight.
    queue: ManuallyDrop<Box<dyn IoQueue>>,
    capacity: usize,
    runs: Vec<Option<Run>>,
    free_runs: Vec<usize>,
    slots: Vec<Slot>,
    free_slots: Vec<usize>,
    /// Blocks that the queue has not accepted yet; all of them have slots.
    batch: Vec<IoBlock>,
    /// What was reaped, and how much of that was given out.
    done: Vec<Completion>,
    given_out: usize,
}

/// A run and what it takes to issue its blocks.
pub(crate) struct Issuing<'a> {
    pub(crate) id: RunId,
    pub(crate) op: &'a Transfer,
    pub(crate) file: &'a OpenFile,
    pub(crate) progress: &'a mut Progress,
    pub(crate) queue: &'a mut dyn IoQueue,
    pub(crate) through_cache: bool,
    /// Nothing is in flight, so nothing will be given back if this waits.
    pub(crate) is_idle: bool,
    slots: &'a mut [Slot],
    free_slots: &'a mut Vec<usize>,
    batch: &'a mut Vec<IoBlock>,
}

impl Issuing<'_> {
    /// Whether there is a slot for one more block.
    pub(crate) fn has_room(&self) -> bool {
        !self.free_slots.is_empty()
    }

    /// Queues a block of the run for the next submission. Its token is set here. Nothing happens without room.
    pub(crate) fn push(&mut self, block: PendingBlock) {
        let Some(index) = self.free_slots.pop() else { return };
        self.progress.in_flight += 1;
        self.is_idle = false;
        let slot = &mut self.slots[index];
        slot.queue_up(index, block.block, self.batch);
        slot.block = Some(block);
    }
}

impl Slot {
    fn queue_up(&mut self, index: usize, mut block: IoBlock, batch: &mut Vec<IoBlock>) {
        self.generation = self.generation.wrapping_add(1);
        block.token = token(index, self.generation);
        self.token = Some(block.token);
        batch.push(block);
    }
}

impl InFlight {
    pub(crate) fn new(queue: Box<dyn IoQueue>) -> Self {
        let capacity = queue.capacity().max(1);
        Self {
            queue: ManuallyDrop::new(queue),
            capacity,
            runs: Vec::new(),
            free_runs: Vec::new(),
            slots: (0..capacity).map(|_| Slot::default()).collect(),
            free_slots: (0..capacity).rev().collect(),
            batch: Vec::with_capacity(capacity),
            done: Vec::with_capacity(capacity),
            given_out: 0,
        }
    }

    /// The queue, for what is not a transfer.
    pub(crate) fn queue(&mut self) -> &mut dyn IoQueue {
        &mut **self.queue
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many more blocks fit.
    pub(crate) fn room(&self) -> usize {
        self.free_slots.len()
    }

    /// Blocks that hold a slot.
    pub(crate) fn len(&self) -> usize {
        self.capacity - self.free_slots.len()
    }

    /// Whether blocks wait for [`submit`](Self::submit).
    pub(crate) fn has_unsubmitted(&self) -> bool {
        !self.batch.is_empty()
    }

    /// Takes a claimed run in.
    pub(crate) fn add_run(&mut self, run: Run) -> RunId {
        match self.free_runs.pop() {
            Some(index) => {
                self.runs[index] = Some(run);
                RunId(index)
            }
            None => {
                self.runs.push(Some(run));
                RunId(self.runs.len() - 1)
            }
        }
    }

    pub(crate) fn run(&mut self, id: RunId) -> Option<&mut Run> {
        self.runs.get_mut(id.0)?.as_mut()
    }

    /// Gives a run back once all its blocks were issued and none is in flight.
    pub(crate) fn take_finished(&mut self, id: RunId) -> Option<Run> {
        let entry = self.runs.get_mut(id.0)?;
        if entry.as_ref().is_some_and(|run| run.blocks() == 0) {
            self.free_runs.push(id.0);
            return entry.take();
        }
        None
    }

    /// For issuing blocks of this run.
    pub(crate) fn issuing(&mut self, id: RunId) -> Option<Issuing<'_>> {
        let Run { op, opened, through_cache, progress, .. } = self.runs.get_mut(id.0)?.as_mut()?;
        Some(Issuing {
            id,
            file: file_of(op, opened.as_ref())?,
            op,
            progress,
            queue: &mut **self.queue,
            through_cache: *through_cache,
            is_idle: self.free_slots.len() == self.capacity,
            slots: &mut self.slots,
            free_slots: &mut self.free_slots,
            batch: &mut self.batch,
        })
    }

    /// A block that the queue does not have, and its run.
    pub(crate) fn block(&mut self, index: usize) -> Option<(&mut PendingBlock, &mut Run)> {
        let block = self.slots.get_mut(index)?.block.as_mut()?;
        let run = self.runs.get_mut(block.run.0)?.as_mut()?;
        Some((block, run))
    }

    /// Queues a block again that [`next_done`](Self::next_done) gave out: what is left of it.
    pub(crate) fn push_again(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if let Some(block) = slot.block.as_ref().map(|block| block.block) {
            slot.queue_up(index, block, &mut self.batch);
        }
    }

    /// A block that [`next_done`](Self::next_done) gave out is over: its slot is free. Gives its run and the memory
    /// that it passed through.
    #[inline]
    pub(crate) fn release(&mut self, index: usize) -> Option<(RunId, Option<AlignedBuf>)> {
        let block = self.slots.get_mut(index)?.block.take()?;
        self.free_slots.push(index);
        if let Some(run) = self.run(block.run) {
            run.progress.in_flight -= 1;
        }
        Some((block.run, block.staging))
    }

    /// Whether a block that holds a slot names one of these regions.
    pub(crate) fn names_any(&self, regions: &[RegionId]) -> bool {
        let named = self.slots.iter().filter_map(|slot| slot.block.as_ref()?.block.region);
        named.into_iter().any(|region| regions.contains(&region))
    }

    /// Blocks that the queue has accepted and not reported.
    pub(crate) fn in_queue(&self) -> usize {
        self.queue.in_flight()
    }

    /// Hands queued blocks to the queue, as many as it takes now. False if there were some and it took none.
    pub(crate) fn submit(&mut self) -> io::Result<bool> {
        if self.batch.is_empty() {
            return Ok(true);
        }
        // SAFETY: every block of the batch has a slot, whose staging buffer and whose run (with the op's descriptor
        // and the open file) own what the block points to. They stay in `slots` and `runs` until `reap` has seen the
        // completion, and are leaked by `close` if it never comes (the module's invariant).
        let accepted = match unsafe { self.queue.submit(&self.batch) } {
            Ok(accepted) => accepted.min(self.batch.len()),
            Err(error) if is_transient(&error) => 0,
            Err(error) => return Err(error),
        };
        self.batch.drain(..accepted);
        Ok(accepted > 0)
    }

    /// Waits for completions, which [`next_done`](Self::next_done) then gives out. On an error those that were reaped
    /// before it count.
    pub(crate) fn reap(&mut self, min: usize, timeout: Option<Duration>) -> io::Result<()> {
        self.queue.reap(min, timeout, &mut self.done)
    }

    /// Whether completions were reaped that [`next_done`](Self::next_done) has not given out.
    pub(crate) fn has_done(&self) -> bool {
        self.given_out < self.done.len()
    }

    /// The next completion that was reaped, oldest first. Its block is to be [pushed again](Self::push_again) or
    /// [released](Self::release); until then it keeps its slot.
    pub(crate) fn next_done(&mut self) -> Option<Result<Done, UnknownToken>> {
        let Some(done) = self.done.get_mut(self.given_out) else {
            self.done.clear();
            self.given_out = 0;
            return None;
        };
        self.given_out += 1;
        let Completion { token: reported, ref mut result } = *done;
        let index = (reported & u64::from(u32::MAX)) as usize;
        match self.slots.get_mut(index) {
            Some(slot) if slot.token == Some(reported) => {
                slot.token = None;
                Some(Ok(Done { index, result: std::mem::replace(result, Ok(0)) }))
            }
            _ => Some(Err(UnknownToken(reported))),
        }
    }

    /// The end of the queue: waits until nothing is in flight and closes it. Gives what is left of the runs; if the
    /// kernel may still use their memory, it has been leaked and the ops are marked as lost.
    pub(crate) fn close(&mut self) -> Vec<Run> {
        let left = self.drain_and_drop_queue();
        let lost = left > 0;
        if lost {
            // Which blocks the kernel still has is not known, so all of their memory is.
            for slot in &mut self.slots {
                std::mem::forget(slot.block.take());
            }
        }
        self.slots.clear();
        self.free_slots.clear();
        self.batch.clear();
        let runs: Vec<Run> = self.runs.drain(..).flatten().collect();
        for run in runs.iter().filter(|_| lost) {
            run.op.state.set_lost();
            std::mem::forget((run.op.clone(), run.opened.clone()));
        }
        if lost {
            log(|| {
                tracing::error!(
                    left,
                    "an I/O queue is broken and cannot be drained: leaking the memory it may still use"
                );
            });
        }
        runs
    }

    fn drain_and_drop_queue(&mut self) -> usize {
        if self.capacity == 0 {
            return 0;
        }
        self.capacity = 0;
        let queue = &mut self.queue;
        let left = contain(|| queue.drain()).unwrap_or(usize::MAX);
        if left == 0 {
            // SAFETY: dropped once, because capacity 0 marks it as gone, and not used afterwards.
            let queue = unsafe { ManuallyDrop::take(&mut self.queue) };
            report_drop(queue);
        }
        left
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        drop(self.close());
    }
}

/// What a queue reported of the block in a slot.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) index: usize,
    pub(crate) result: io::Result<usize>,
}

/// A queue reported a block that it did not have.
#[derive(Debug)]
pub(crate) struct UnknownToken(pub(crate) u64);

fn token(index: usize, generation: u32) -> u64 {
    // The top bit stays clear, so no token is u64::MAX.
    u64::from(generation & (u32::MAX >> 1)) << 32 | index as u64
}
