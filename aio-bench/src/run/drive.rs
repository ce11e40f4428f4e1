//! The timed part: as little as possible per I/O besides the I/O.
//!
//! Per op: one look at the clock (its end is the start of the op that takes its place), one histogram count, one
//! relaxed load for Ctrl-C. Buffers come back from tickets and go into the next op; nothing is allocated here.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use aio::Ticket;
use hdrhistogram::Histogram;

use crate::host::cpu::{Elapsed, Stopwatch};
use crate::interrupt;

/// When to stop.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    Blocks(u64),
    Time(Duration),
}

/// What was measured.
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

/// Blocking calls, one after the other, in as many stretches as the caller likes.
#[derive(Debug)]
pub(crate) struct Blocking {
    drive: Drive,
    left: Limit,
}

impl Blocking {
    /// Nothing done yet.
    pub(crate) fn new(limit: Limit) -> Self {
        Self { drive: Drive::new(), left: limit }
    }

    /// Calls `transfer`, which moves one block, until the limit, or for `at_most` this time.
    pub(crate) fn go_on<E: fmt::Display>(
        &mut self,
        at_most: Option<Duration>,
        mut transfer: impl FnMut() -> Result<(), E>,
    ) {
        let watch = Stopwatch::start();
        let mut budget = Budget::of_stretch(self.left, at_most, watch.started());
        let mut began = watch.started();
        while budget.take(began) > 0 {
            let moved = transfer();
            let now = Instant::now();
            match moved {
                Ok(()) => self.drive.count(1, now - began),
                Err(error) => {
                    self.drive.fail(&error);
                    budget.spend();
                }
            }
            began = now;
        }
        let elapsed = watch.stop();
        self.drive.elapsed += elapsed;
        self.left = match self.left {
            Limit::Time(time) if budget.blocks > 0 => Limit::Time(time.saturating_sub(elapsed.wall)),
            _ => Limit::Blocks(budget.blocks),
        };
    }

    /// Whether nothing is left to do, or a signal asked for an end.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.left, Limit::Blocks(0) | Limit::Time(Duration::ZERO)) || interrupt::check().is_err()
    }

    /// Whether a call failed; then nothing is left to do, either.
    pub(crate) fn has_failed(&self) -> bool {
        self.drive.errors > 0
    }

    /// What all stretches measured together.
    pub(crate) fn finish(self) -> Drive {
        self.drive
    }
}

/// Keeps an op in flight for each of `memory`: `submit` starts one of the given number of blocks, at most `per_op`.
pub(crate) fn tickets<T>(
    limit: Limit,
    per_op: usize,
    memory: Vec<T>,
    mut submit: impl FnMut(T, usize) -> Ticket<T>,
) -> Drive {
    let mut drive = Drive::new();
    let mut in_flight = VecDeque::with_capacity(memory.len());
    let watch = Stopwatch::start();
    let mut budget = Budget::new(limit, per_op, watch.started());
    let mut now = watch.started();
    for buffer in memory {
        let blocks = budget.take(now);
        if blocks == 0 {
            break;
        }
        in_flight.push_back((submit(buffer, blocks), now, blocks));
        now = Instant::now();
    }
    while let Some((ticket, began, blocks)) = in_flight.pop_front() {
        let ended = ticket.wait();
        now = Instant::now();
        match ended {
            Ok(buffer) => {
                drive.count(blocks, now - began);
                let blocks = budget.take(now);
                if blocks > 0 {
                    in_flight.push_back((submit(buffer, blocks), now, blocks));
                }
            }
            Err(failed) => {
                drive.fail(failed.error());
                budget.spend();
            }
        }
    }
    drive.elapsed = watch.stop();
    drive
}

impl Drive {
    fn new() -> Self {
        /// An hour: nobody waits longer for one op.
        const LONGEST: u64 = 3_600_000_000_000;
        let latency = Histogram::new_with_bounds(1, LONGEST, 3)
            .unwrap_or_else(|error| unreachable!("the bounds are constants that the histogram takes: {error}"));
        Self { blocks: 0, elapsed: Elapsed::default(), latency, errors: 0, first_error: None }
    }

    fn count(&mut self, blocks: usize, took: Duration) {
        self.blocks += blocks as u64;
        // Nanoseconds of a u64 last for centuries.
        self.latency.saturating_record(took.as_nanos() as u64);
    }

    #[cold]
    fn fail(&mut self, error: &impl fmt::Display) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }
}

/// What is left to do.
struct Budget {
    blocks: u64,
    deadline: Option<Instant>,
    per_op: usize,
}

impl Budget {
    fn new(limit: Limit, per_op: usize, start: Instant) -> Self {
        match limit {
            Limit::Blocks(blocks) => Self { blocks, deadline: None, per_op },
            Limit::Time(time) => Self { blocks: u64::MAX, deadline: Some(start + time), per_op },
        }
    }

    /// Of blocking calls, which may have to stop early.
    fn of_stretch(limit: Limit, at_most: Option<Duration>, start: Instant) -> Self {
        let budget = Self::new(limit, 1, start);
        let stop = at_most.map(|time| start + time);
        Self { deadline: [budget.deadline, stop].into_iter().flatten().min(), ..budget }
    }

    /// How many blocks the next op moves; 0 ends the job.
    fn take(&mut self, now: Instant) -> usize {
        if self.deadline.is_some_and(|deadline| now >= deadline) || interrupt::check().is_err() {
            return 0;
        }
        let blocks = self.blocks.min(self.per_op as u64);
        self.blocks -= blocks;
        blocks as usize
    }

    /// Ends the job.
    fn spend(&mut self) {
        self.blocks = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_op_moves_what_is_left() {
        let now = Instant::now();
        let mut budget = Budget::new(Limit::Blocks(20), 16, now);
        assert_eq!([budget.take(now), budget.take(now), budget.take(now)], [16, 4, 0]);
    }

    #[test]
    fn time_is_up_at_the_deadline() {
        let now = Instant::now();
        let mut budget = Budget::new(Limit::Time(Duration::from_secs(1)), 1, now);
        assert_eq!(budget.take(now), 1);
        assert_eq!(budget.take(now + Duration::from_secs(1)), 0);
    }

    #[test]
    fn a_failure_ends_the_job_and_is_told() {
        for limit in [Limit::Blocks(10), Limit::Time(Duration::from_secs(600))] {
            let (mut calls, mut blocking) = (0, Blocking::new(limit));
            for _ in 0..2 {
                blocking.go_on(None, || {
                    calls += 1;
                    if calls == 3 { Err(aio::Error::Closed) } else { Ok(()) }
                });
                assert!(blocking.is_done() && blocking.has_failed());
            }
            let drive = blocking.finish();
            assert_eq!((drive.blocks, drive.errors, drive.latency.len()), (2, 1, 2));
            assert!(drive.first_error.is_some_and(|error| error.contains("closed")));
        }
    }

    #[test]
    fn stretches_add_up_to_the_limit() {
        let (mut calls, mut blocking) = (0, Blocking::new(Limit::Blocks(10)));
        let mut stretches = 0;
        while !blocking.is_done() {
            stretches += 1;
            // The first look at the clock is the start of the stretch, so each moves something.
            blocking.go_on(Some(Duration::from_nanos(1)), || {
                calls += 1;
                Ok::<_, aio::Error>(())
            });
        }
        assert_eq!((calls, blocking.finish().blocks), (10, 10));
        assert!(stretches > 1, "{stretches}");

        let mut blocking = Blocking::new(Limit::Time(Duration::from_millis(5)));
        while !blocking.is_done() {
            blocking.go_on(Some(Duration::from_millis(1)), || Ok::<_, aio::Error>(()));
        }
        let drive = blocking.finish();
        assert!(drive.elapsed.wall >= Duration::from_millis(5), "{:?}", drive.elapsed);
    }
}
