//! One measurement: as many passes over the work as it takes for the time to say something.

use std::ops::AddAssign;
use std::time::Duration;

use super::contender::Contender;
use aio_cli::failure::Failure;
use aio_cli::host::cpu::Elapsed;
use aio_cli::interrupt;

/// Passes over the work, and how long they took together.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) passes: u64,
    pub(crate) elapsed: Elapsed,
}

impl Measured {
    /// How many more passes last until `least`, at the rate so far.
    fn missing(&self, least: Duration) -> u64 {
        /// A little more, so that the last pass is not missing again and again.
        const SPARE: f64 = 1.05;
        let missing = least.saturating_sub(self.elapsed.wall).as_secs_f64() * SPARE;
        match self.passes {
            0 => 1,
            passes => (missing / self.elapsed.wall.as_secs_f64().max(1e-6) * passes as f64).ceil().max(1.0) as u64,
        }
    }
}

impl AddAssign for Measured {
    fn add_assign(&mut self, other: Self) {
        self.passes += other.passes;
        self.elapsed += other.elapsed;
    }
}

/// What a workload is, for reports.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Summary {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    /// Bytes that move in a pass.
    pub(crate) bytes: u64,
    /// Bytes of a block, if all have one size.
    pub(crate) block: Option<usize>,
    pub(crate) files: u64,
}

/// Work with its files, which contenders can repeat.
pub(crate) trait Workload {
    /// What it is.
    fn summary(&self) -> Summary;

    /// Brings files and page cache into the state that the next contender starts from. Not timed.
    fn prepare(&mut self) -> Result<(), Failure>;

    /// Has a contender do the work at least once and at most `most` times, and checks what it did, untimed.
    fn pass(&self, contender: &mut dyn Contender, most: u64) -> Result<Measured, Failure>;
}

/// Lets a contender repeat the work until that has taken `least`. Preparing and checking files in between is not timed.
pub(crate) fn measure(
    work: &mut dyn Workload,
    contender: &mut dyn Contender,
    least: Duration,
) -> Result<Measured, Failure> {
    let mut measured = Measured::default();
    loop {
        interrupt::check()?;
        work.prepare()?;
        measured += work.pass(contender, measured.missing(least))?;
        if measured.elapsed.wall >= least {
            return Ok(measured);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::plan::{Spec, Start};
    use crate::compare::work::Work;

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// Takes a millisecond for each pass, of which it makes some at once.
    struct Steady {
        at_once: u64,
        asked: Vec<u64>,
    }

    impl Contender for Steady {
        fn run(&mut self, _: &Work) -> Result<Elapsed, Failure> {
            Ok(Elapsed { wall: MILLISECOND, cpu: MILLISECOND / 2 })
        }

        fn repeat(&mut self, work: &Work, most: u64) -> Result<Measured, Failure> {
            self.asked.push(most);
            let mut measured = Measured::default();
            for _ in 0..most.min(self.at_once) {
                measured += Measured { passes: 1, elapsed: self.run(work)? };
            }
            Ok(measured)
        }
    }

    fn measured(at_once: u64, least: Duration) -> (Measured, Vec<u64>) {
        let dir = tempfile::tempdir().unwrap();
        let mut work = Work::make(Spec::example(false, Start::New, false), dir.path()).unwrap();
        let mut contender = Steady { at_once, asked: Vec::new() };
        let measured = measure(&mut work, &mut contender, least).unwrap();
        (measured, contender.asked)
    }

    #[test]
    fn passes_go_on_until_the_time_is_over() {
        let (one, _) = measured(1, Duration::ZERO);
        assert_eq!((one.passes, one.elapsed.wall), (1, MILLISECOND));
        let (hundred, asked) = measured(1, 100 * MILLISECOND);
        assert_eq!((hundred.passes, hundred.elapsed.wall, asked.len()), (100, 100 * MILLISECOND, 100));
        assert_eq!(hundred.elapsed.cpu, 50 * MILLISECOND);
    }

    #[test]
    fn a_contender_that_repeats_is_asked_for_what_is_missing() {
        let (all, asked) = measured(u64::MAX, 100 * MILLISECOND);
        assert_eq!((asked, all.passes), (vec![1, 104], 105));
        let (some, asked) = measured(60, 100 * MILLISECOND);
        assert_eq!((asked, some.passes), (vec![1, 104, 41], 102));
    }
}
