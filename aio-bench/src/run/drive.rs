//! The timed part, with as little as possible beside the I/O.
//!
//! The cost per op: one look at the clock (its end is the start of the next op), one histogram count, one relaxed load
//! for Ctrl-C. Buffers come back from tickets and go into the next op; nothing is allocated. What only some jobs need
//! is in separate types, [`Work`] and [`Watch`], and costs the others nothing.

mod blocking;
mod budget;

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use aio::Ticket;
use hdrhistogram::Histogram;

use super::watch::Watch;
use aio_cli::host::cpu::{Elapsed, Stopwatch};
use aio_cli::interrupt;
pub(crate) use blocking::{Blocking, Call};
use budget::Budget;
pub(crate) use budget::Limit;

/// The measurements.
#[derive(Debug)]
pub(crate) struct Drive {
    /// Blocks that moved.
    pub(crate) blocks: u64,
    pub(crate) elapsed: Elapsed,
    /// Nanoseconds per op.
    pub(crate) latency: Histogram<u64>,
    /// Ops that failed. The first failure ends the job.
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
}

/// How long a job lasts, and how it is cut into ops.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// How long to run before anything counts.
    pub(crate) ramp: Option<Duration>,
    pub(crate) limit: Limit,
    /// Most blocks of an op.
    pub(crate) per_op: usize,
}

/// What the ops of a job do with memory.
pub(crate) trait Work<T> {
    /// What to remember of an op in flight.
    type Note: Note;

    /// Whether `prepare` and `ended` take time, which must not count as the op's.
    fn checks(&self) -> bool;
    /// Prepares memory before an op of this many blocks.
    fn prepare(&mut self, memory: &mut T, blocks: usize) -> Self::Note;
    fn submit(&mut self, memory: T, blocks: usize, note: &Self::Note) -> Ticket<T>;
    /// Checks the result of an op.
    fn ended(&mut self, memory: &mut T, note: Self::Note) -> Result<(), String>;
}

/// Tells which kind of op it belongs to.
pub(crate) trait Note {
    fn kind(&self) -> usize;
}

impl Note for () {
    fn kind(&self) -> usize {
        0
    }
}

/// Ops of one kind that need no preparation.
pub(crate) struct Plain<F>(pub(crate) F);

impl<T, F: FnMut(T, usize) -> Ticket<T>> Work<T> for Plain<F> {
    type Note = ();

    fn checks(&self) -> bool {
        false
    }

    fn prepare(&mut self, _: &mut T, _: usize) {}

    #[inline]
    fn submit(&mut self, memory: T, blocks: usize, (): &()) -> Ticket<T> {
        (self.0)(memory, blocks)
    }

    fn ended(&mut self, _: &mut T, (): ()) -> Result<(), String> {
        Ok(())
    }
}

/// Keeps an op in flight for each of `memory`. Calls `border` when the ramp ends.
///
/// The queue stays full at the border: ops in flight there count, as they end in the time that counts.
pub(crate) fn tickets<T, W: Work<T>>(
    plan: &Plan,
    memory: Vec<T>,
    work: W,
    watch: &mut impl Watch,
    border: impl FnOnce(),
) -> Drive {
    let mut queue = Queue { in_flight: VecDeque::with_capacity(memory.len()), idle: memory.into(), work, watch };
    let mut drive = Drive::new();
    if let Some(ramp) = plan.ramp {
        let start = Instant::now();
        let mut budget = Budget::new(Limit::Time(ramp), plan.per_op, start);
        let mut uncounted = Drive::new();
        queue.fill(&mut budget, start);
        queue.turn(&mut budget, &mut uncounted, Spent::Return);
        if uncounted.errors > 0 || interrupt::check().is_err() {
            queue.turn(&mut budget, &mut uncounted, Spent::Drain);
            return uncounted.uncounted();
        }
    }
    border();
    let stopwatch = Stopwatch::start();
    queue.watch.begin(stopwatch.started());
    let in_flight = queue.in_flight.iter().map(|op| op.blocks).sum();
    let mut budget = Budget::new(plan.limit, plan.per_op, stopwatch.started()).without(in_flight);
    queue.fill(&mut budget, stopwatch.started());
    queue.turn(&mut budget, &mut drive, Spent::Drain);
    drive.elapsed = stopwatch.stop();
    drive
}

struct Queue<'a, T, W: Work<T>, O> {
    in_flight: VecDeque<InFlight<T, W::Note>>,
    idle: VecDeque<T>,
    work: W,
    watch: &'a mut O,
}

struct InFlight<T, N> {
    ticket: Ticket<T>,
    began: Instant,
    blocks: usize,
    note: N,
}

/// What to do with ops in flight when the budget is spent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spent {
    /// Leave them.
    Return,
    /// Wait for them.
    Drain,
}

impl<T, W: Work<T>, O: Watch> Queue<'_, T, W, O> {
    /// Starts an op with each idle memory.
    fn fill(&mut self, budget: &mut Budget, mut now: Instant) {
        while !self.idle.is_empty() {
            let blocks = budget.take(now);
            if blocks == 0 {
                break;
            }
            if let Some(memory) = self.idle.pop_front() {
                self.start(memory, blocks, now);
            }
            now = Instant::now();
        }
    }

    /// Waits for ops in order, and starts another with the memory of each.
    fn turn(&mut self, budget: &mut Budget, drive: &mut Drive, spent: Spent) {
        while let Some(InFlight { ticket, began, blocks, note }) = self.in_flight.pop_front() {
            let ended = ticket.wait();
            let mut now = Instant::now();
            let mut memory = match ended {
                Ok(memory) => memory,
                Err(failed) => {
                    drive.fail(failed.error());
                    budget.spend();
                    continue;
                }
            };
            drive.count(blocks, now - began);
            self.watch.ended(note.kind(), blocks, now - began, now);
            if let Err(fault) = self.work.ended(&mut memory, note) {
                drive.fail(&fault);
                budget.spend();
            }
            if self.work.checks() {
                now = Instant::now();
            }
            let blocks = budget.take(now);
            if blocks > 0 {
                self.start(memory, blocks, now);
                continue;
            }
            self.idle.push_back(memory);
            if spent == Spent::Return {
                return;
            }
        }
    }

    #[inline]
    fn start(&mut self, mut memory: T, blocks: usize, mut began: Instant) {
        let note = self.work.prepare(&mut memory, blocks);
        if self.work.checks() {
            began = Instant::now();
        }
        let ticket = self.work.submit(memory, blocks, &note);
        self.in_flight.push_back(InFlight { ticket, began, blocks, note });
    }
}

/// An empty histogram of nanoseconds.
pub(crate) fn histogram() -> Histogram<u64> {
    /// An hour, longer than any op.
    const LONGEST: u64 = 3_600_000_000_000;
    Histogram::new_with_bounds(1, LONGEST, 3)
        .unwrap_or_else(|error| unreachable!("the bounds are constants that the histogram takes: {error}"))
}

impl Drive {
    fn new() -> Self {
        Self { blocks: 0, elapsed: Elapsed::default(), latency: histogram(), errors: 0, first_error: None }
    }

    /// The result of a ramp: only why it ended.
    pub(crate) fn uncounted(self) -> Self {
        Self { errors: self.errors, first_error: self.first_error, ..Self::new() }
    }

    #[inline]
    fn count(&mut self, blocks: usize, took: Duration) {
        self.blocks += blocks as u64;
        // A u64 holds centuries of nanoseconds.
        self.latency.saturating_record(took.as_nanos() as u64);
    }

    #[cold]
    fn fail(&mut self, error: &impl fmt::Display) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }
}
