//! What is in flight: the one module of the engine that hands memory to the kernel.
//!
//! Everything `unsafe` about a transfer rests on one invariant: **a block's memory has an owner in this module from
//! before it is submitted until its completion was reaped.** The owners are the [`Run`] that the block belongs to,
//! which holds the op and so its descriptor, and the block's staging buffer. A run leaves only when none of its
//! blocks is in flight; and when a queue breaks so badly that blocks can never be reaped, their owners are leaked.
#![allow(unsafe_code)]

use std::io;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::time::Duration;

use crate::arena::AlignedBuf;
use crate::backend::{Completion, IoBlock, IoQueue};
use crate::engine::op::Transfer;
use crate::file::OpenFile;
use crate::plan::BlockRange;

/// Neighbouring blocks of one op that a worker has claimed.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) op: Arc<Transfer>,
    /// Keeps the descriptors open that its blocks name.
    pub(crate) file: OpenFile,
    /// The next block to issue, and the end.
    pub(crate) next: usize,
    pub(crate) end: usize,
    /// The segment of the block before `next`.
    pub(crate) segment: usize,
    /// Blocks of this run that are done with, and the bytes they moved; given to the op when the run is over.
    pub(crate) finished: usize,
    pub(crate) bytes: u64,
    /// Blocks of this run that hold a slot.
    in_flight: usize,
}

impl Run {
    pub(crate) fn new(op: Arc<Transfer>, file: OpenFile, next: usize, end: usize) -> Self {
        let segment = op.state.plan.get().map_or(0, |plan| plan.segment_of(next));
        Self { op, file, next, end, segment, finished: 0, bytes: 0, in_flight: 0 }
    }

    /// What the op gets to know at the end of the run. The file goes first: whoever ends the op closes it, and wants to
    /// be the last to hold it.
    pub(crate) fn into_account(self) -> (Arc<Transfer>, usize, u64) {
        drop(self.file);
        (self.op, self.finished, self.bytes)
    }

    /// Blocks that were issued and never came back.
    pub(crate) fn unreaped(&self) -> usize {
        self.in_flight
    }
}

/// Names a run of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunId(usize);

/// A block on its way.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) run: RunId,
    pub(crate) range: BlockRange,
    /// What is still to be transferred of it.
    pub(crate) block: IoBlock,
    /// Bytes of it that are transferred.
    pub(crate) done: usize,
    /// The memory it passes through.
    pub(crate) staging: Option<AlignedBuf>,
    pub(crate) direct: bool,
    pub(crate) retries: u32,
}

/// A queue, and everything whose memory it may touch.
pub(crate) struct InFlight {
    /// Dropped first, by hand, and only when it has nothing in flight.
    queue: ManuallyDrop<Box<dyn IoQueue>>,
    capacity: usize,
    runs: Vec<Option<Run>>,
    free_runs: Vec<usize>,
    /// The generation tells a late completion from one of the slot's next block.
    slots: Vec<(u32, Option<Slot>)>,
    free_slots: Vec<usize>,
    /// Blocks that the queue has not accepted yet; all of them have slots.
    batch: Vec<IoBlock>,
    done: Vec<Completion>,
}

impl InFlight {
    pub(crate) fn new(queue: Box<dyn IoQueue>) -> Self {
        let capacity = queue.capacity().max(1);
        Self {
            queue: ManuallyDrop::new(queue),
            capacity,
            runs: Vec::new(),
            free_runs: Vec::new(),
            slots: (0..capacity).map(|_| (0, None)).collect(),
            free_slots: (0..capacity).rev().collect(),
            batch: Vec::with_capacity(capacity),
            done: Vec::with_capacity(capacity),
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
        if entry.as_ref().is_some_and(|run| run.next >= run.end && run.in_flight == 0) {
            self.free_runs.push(id.0);
            return entry.take();
        }
        None
    }

    /// A free slot for a block of this run; [`push`](Self::push) fills it, [`release`](Self::release) gives it back.
    pub(crate) fn reserve(&mut self, run: RunId) -> Option<usize> {
        let index = self.free_slots.pop()?;
        if let Some(run) = self.run(run) {
            run.in_flight += 1;
        }
        Some(index)
    }

    /// Queues a block for the next submission, in a slot that was reserved, or that [`next_done`](Self::next_done) gave
    /// out and that was not released since. Its token is set here.
    pub(crate) fn push(&mut self, index: usize, mut slot: Slot) {
        let (generation, place) = &mut self.slots[index];
        *generation = generation.wrapping_add(1);
        slot.block.token = token(index, *generation);
        self.batch.push(slot.block);
        *place = Some(slot);
    }

    /// The block in this slot is over, or there never was one.
    pub(crate) fn release(&mut self, index: usize, run: RunId) {
        self.free_slots.push(index);
        if let Some(run) = self.run(run) {
            run.in_flight -= 1;
        }
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
        let reaped = self.queue.reap(min, timeout, &mut self.done);
        self.done.reverse();
        reaped
    }

    /// The next completion that was reaped, oldest first, with its slot, which is then out of the table: to be pushed
    /// again, or released.
    pub(crate) fn next_done(&mut self) -> Option<Result<Done, UnknownToken>> {
        let Completion { token: reported, result } = self.done.pop()?;
        let index = (reported & u64::from(u32::MAX)) as usize;
        let slot = match self.slots.get_mut(index) {
            Some((generation, slot)) if token(index, *generation) == reported => slot.take(),
            _ => None,
        };
        Some(slot.map(|slot| Done { index, slot, result }).ok_or(UnknownToken(reported)))
    }

    /// The end of the queue: waits until nothing is in flight and closes it. Gives what is left of the runs; if the
    /// kernel may still use their memory, it has been leaked and the ops are marked as lost.
    pub(crate) fn close(&mut self) -> Vec<Run> {
        let lost = self.drain_and_drop_queue() > 0;
        if lost {
            // Which blocks the kernel still has is not known, so all of their memory is.
            for (_, slot) in &mut self.slots {
                std::mem::forget(slot.take());
            }
        }
        self.slots.clear();
        self.free_slots.clear();
        self.batch.clear();
        let runs: Vec<Run> = self.runs.drain(..).flatten().collect();
        for run in runs.iter().filter(|_| lost) {
            run.op.state.set_lost();
            std::mem::forget((run.op.clone(), run.file.clone()));
        }
        runs
    }

    fn drain_and_drop_queue(&mut self) -> usize {
        use std::panic::{AssertUnwindSafe, catch_unwind};

        if self.capacity == 0 {
            return 0;
        }
        self.capacity = 0;
        let queue = &mut self.queue;
        let left = catch_unwind(AssertUnwindSafe(|| queue.drain())).unwrap_or(usize::MAX);
        if left == 0 {
            // SAFETY: dropped once, because capacity 0 marks it as gone, and not used afterwards.
            let queue = unsafe { ManuallyDrop::take(&mut self.queue) };
            if catch_unwind(AssertUnwindSafe(|| drop(queue))).is_err() {
                tracing::error!("an I/O queue panicked while it was closed");
            }
        } else {
            tracing::error!(
                left,
                "an I/O queue is broken and cannot be drained: leaking the memory it may still use"
            );
        }
        left
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        drop(self.close());
    }
}

/// A block that was reaped: pushed again under the same index, or released.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) index: usize,
    pub(crate) slot: Slot,
    pub(crate) result: io::Result<usize>,
}

/// A queue reported a block that it did not have.
#[derive(Debug)]
pub(crate) struct UnknownToken(pub(crate) u64);

fn token(index: usize, generation: u32) -> u64 {
    // The top bit stays clear, so no token is u64::MAX.
    u64::from(generation & (u32::MAX >> 1)) << 32 | index as u64
}

/// Errors that mean "again, later".
pub(crate) fn is_transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}
