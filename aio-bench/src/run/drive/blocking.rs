//! Blocking calls, one after the other.

use std::fmt;
use std::time::{Duration, Instant};

use super::budget::{Budget, Limit};
use super::{Drive, Note};
use crate::run::watch::Watch;
use aio_cli::host::cpu::Stopwatch;
use aio_cli::interrupt;

/// A call that moves one block. Closures are calls that need no preparation.
pub(crate) trait Call {
    /// What to remember during the call.
    type Note: Note;
    type Error: fmt::Display;

    /// Whether `prepare` and `ended` take time, which must not count as the call's.
    fn checks(&self) -> bool;
    fn prepare(&mut self) -> Self::Note;
    fn call(&mut self, note: &Self::Note) -> Result<(), Self::Error>;
    /// Checks the result of a call.
    fn ended(&mut self, note: Self::Note) -> Result<(), String>;
}

impl<F: FnMut() -> Result<(), E>, E: fmt::Display> Call for F {
    type Note = ();
    type Error = E;

    fn checks(&self) -> bool {
        false
    }

    fn prepare(&mut self) {}

    #[inline]
    fn call(&mut self, (): &()) -> Result<(), E> {
        self()
    }

    fn ended(&mut self, (): ()) -> Result<(), String> {
        Ok(())
    }
}

/// Calls in several stretches.
#[derive(Debug)]
pub(crate) struct Blocking {
    drive: Drive,
    left: Limit,
}

impl Blocking {
    pub(crate) fn new(limit: Limit) -> Self {
        Self { drive: Drive::new(), left: limit }
    }

    /// Calls until the limit, or for `at_most` in this stretch.
    pub(crate) fn go_on(&mut self, at_most: Option<Duration>, call: &mut impl Call, watch: &mut impl Watch) {
        let stopwatch = Stopwatch::start();
        let mut budget = Budget::of_stretch(self.left, at_most, stopwatch.started());
        let mut began = stopwatch.started();
        while budget.take(began) > 0 {
            let note = call.prepare();
            if call.checks() {
                began = Instant::now();
            }
            let moved = call.call(&note);
            let mut now = Instant::now();
            match moved {
                Ok(()) => {
                    self.drive.count(1, now - began);
                    watch.ended(note.kind(), 1, now - began, now);
                    if let Err(fault) = call.ended(note) {
                        self.drive.fail(&fault);
                        budget.spend();
                    }
                    if call.checks() {
                        now = Instant::now();
                    }
                }
                Err(error) => {
                    self.drive.fail(&error);
                    budget.spend();
                }
            }
            began = now;
        }
        let elapsed = stopwatch.stop();
        self.drive.elapsed += elapsed;
        self.left = match self.left {
            Limit::Time(time) if budget.blocks > 0 => Limit::Time(time.saturating_sub(elapsed.wall)),
            _ => Limit::Blocks(budget.blocks),
        };
    }

    /// Whether the limit is reached, or a signal asked for an end.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.left, Limit::Blocks(0) | Limit::Time(Duration::ZERO)) || interrupt::check().is_err()
    }

    /// Whether a call failed, which also ends it.
    pub(crate) fn has_failed(&self) -> bool {
        self.drive.errors > 0
    }

    /// The measurements of all stretches together.
    pub(crate) fn finish(self) -> Drive {
        self.drive
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::watch::Quiet;

    #[test]
    fn a_failure_ends_the_job_and_is_told() {
        for limit in [Limit::Blocks(10), Limit::Time(Duration::from_secs(600))] {
            let (mut calls, mut blocking) = (0, Blocking::new(limit));
            for _ in 0..2 {
                let mut call = || {
                    calls += 1;
                    if calls == 3 { Err(aio::Error::Closed) } else { Ok(()) }
                };
                blocking.go_on(None, &mut call, &mut Quiet);
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
            // The first look at the clock starts the stretch, so each stretch moves a block.
            let mut call = || {
                calls += 1;
                Ok::<_, aio::Error>(())
            };
            blocking.go_on(Some(Duration::from_nanos(1)), &mut call, &mut Quiet);
        }
        assert_eq!((calls, blocking.finish().blocks), (10, 10));
        assert!(stretches > 1, "{stretches}");

        let mut blocking = Blocking::new(Limit::Time(Duration::from_millis(5)));
        while !blocking.is_done() {
            blocking.go_on(Some(Duration::from_millis(1)), &mut || Ok::<_, aio::Error>(()), &mut Quiet);
        }
        let drive = blocking.finish();
        assert!(drive.elapsed.wall >= Duration::from_millis(5), "{:?}", drive.elapsed);
    }
}
