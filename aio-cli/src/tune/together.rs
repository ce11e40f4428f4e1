//! All folders at the same time, an engine and a thread each.

use std::thread;
use std::time::{Duration, Instant};

use aio::buf::AlignedBuf;

use super::candidate::Candidate;
use super::folder::{DataFile, Open};
use super::workload::{Direction, pass};
use crate::failure::{Failure, no_thread};
use crate::interrupt;

/// One folder and its rates alone.
#[derive(Debug)]
pub(crate) struct Member<'a> {
    pub(crate) data: &'a DataFile,
    pub(crate) candidate: &'a Candidate,
    /// GB/s.
    pub(crate) alone_read: f64,
    pub(crate) alone_write: f64,
}

/// Rates in one direction, in GB/s, a value per round.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    /// Of each folder.
    pub(crate) each: Vec<Vec<f64>>,
    /// Of all together, until the last one finished.
    pub(crate) all: Vec<f64>,
}

/// Reads and writes.
#[derive(Debug, Default)]
pub(crate) struct Together {
    pub(crate) read: Rates,
    pub(crate) write: Rates,
}

/// Planned number of rounds; the real one follows from the time.
const ROUNDS: u32 = 4;

/// Measures rounds until `end`, at least one.
pub(crate) fn together(members: &[Member<'_>], end: Instant) -> Result<Together, Failure> {
    let engines: Vec<Open> =
        members.iter().map(|member| member.data.open(member.candidate)).collect::<Result<_, _>>()?;
    let mut found = Together::default();
    let began = Instant::now();
    let stretch = end.saturating_duration_since(began) / (2 * ROUNDS);
    for done in 1.. {
        round(members, &engines, Direction::Read, stretch, &mut found.read)?;
        round(members, &engines, Direction::Write, stretch, &mut found.write)?;
        // Stops if another round would not fit in.
        if Instant::now() + began.elapsed() / done > end {
            break;
        }
    }
    engines.into_iter().try_for_each(Open::close)?;
    Ok(found)
}

fn round(
    members: &[Member<'_>],
    engines: &[Open],
    direction: Direction,
    stretch: Duration,
    rates: &mut Rates,
) -> Result<(), Failure> {
    let mut ready: Vec<(&Member<'_>, &Open, Vec<AlignedBuf>)> = Vec::with_capacity(members.len());
    for (member, open) in members.iter().zip(engines) {
        ready.push((member, open, member.data.buffers(open)?));
        member.data.cool(open)?;
    }
    let seconds = members.iter().map(|member| member.longest(direction)).fold(stretch.as_secs_f64(), f64::min);
    let began = Instant::now();
    let passes: Vec<_> = thread::scope(|scope| {
        let start = |(member, open, buffers): (&Member<'_>, _, _)| {
            let bytes = member.bytes_in(direction, seconds);
            let open: &Open = open;
            let measure = move || pass(&open.file, direction, buffers, bytes, 4 * stretch);
            thread::Builder::new().name("folder".to_owned()).spawn_scoped(scope, measure).map_err(no_thread)
        };
        let running = ready.into_iter().map(start).collect::<Result<Vec<_>, _>>()?;
        Ok::<_, Failure>(running.into_iter().map(thread::ScopedJoinHandle::join).collect())
    })?;
    let wall = began.elapsed().as_secs_f64();
    interrupt::check()?;
    let mut moved = 0.0;
    rates.each.resize_with(members.len(), Vec::new);
    for (rates, passed) in rates.each.iter_mut().zip(passes) {
        let passed = passed.map_err(|_| Failure::Failed("a thread that measured panicked".to_owned()))??;
        rates.push(passed.sample.gb_per_s);
        moved += passed.sample.gb_per_s * passed.sample.seconds;
    }
    rates.all.push(moved / wall.max(1e-9));
    Ok(())
}

impl Member<'_> {
    fn alone(&self, direction: Direction) -> f64 {
        match direction {
            Direction::Read => self.alone_read,
            Direction::Write => self.alone_write,
        }
    }

    /// Seconds until it would reach the end of its file.
    fn longest(&self, direction: Direction) -> f64 {
        self.data.bytes as f64 / 1e9 / self.alone(direction)
    }

    /// Bytes it moves in this time if undisturbed, so that all end together; at least enough to keep its ops in flight.
    fn bytes_in(&self, direction: Direction, seconds: f64) -> u64 {
        let bytes = (self.alone(direction) * seconds * 1e9) as u64;
        bytes.max(self.data.shape.buffer_bytes() as u64).min(self.data.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::folder::Place;
    use crate::tune::workload::{Shape, pattern};

    #[test]
    fn every_round_has_a_rate_of_each_and_of_all() {
        let dir = tempfile::tempdir().unwrap();
        let hour = Duration::from_secs(3600);
        let make = |_| {
            let place = Place::look(dir.path()).unwrap();
            DataFile::make(&place, 1 << 20, Shape::of(1 << 20, 2), pattern(1), hour).unwrap()
        };
        let files: Vec<_> = (0..2).map(make).collect();
        let candidate = Candidate::defaults();
        let member = |data| Member { data, candidate: &candidate, alone_read: 1.0, alone_write: 1.0 };
        let members: Vec<_> = files.iter().map(member).collect();
        let found = together(&members, Instant::now() + Duration::from_millis(300)).unwrap();
        for rates in [&found.read, &found.write] {
            assert_eq!(rates.each.len(), 2);
            assert!(!rates.all.is_empty() && rates.each.iter().all(|each| each.len() == rates.all.len()));
            assert!(rates.all.iter().chain(rates.each.iter().flatten()).all(|rate| *rate > 0.0));
        }
    }
}
