//! The search: successive halving (Jamieson and Talwalkar 2016), then rounds among the last few.
//!
//! It knows neither files nor engines: a [`Bench`] measures, and tells the time. Each rung measures all remaining
//! candidates once, in a new random order, so that a drift of the device affects all alike; the better half goes on and
//! is measured with twice the bytes. All rungs cost about the same, so one measurement of the defaults tells how many
//! candidates the time allows.

mod finals;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use super::sample::{Goal, Pair};
use crate::generate::SplitMix64;

pub(crate) trait Bench<C> {
    /// Why the search has to end at once.
    type Stop;

    /// Time since some start.
    fn now(&self) -> Duration;

    /// Measures a candidate in both directions.
    fn measure(&mut self, candidate: &C, effort: Effort) -> Result<Outcome, Self::Stop>;

    /// Reports a stage, the best so far and its ratio to the defaults.
    fn stage(&mut self, stage: &str, best: Option<(&C, f64)>);
}

/// How much to do in one measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// In each direction.
    pub(crate) bytes: u64,
    /// Ends a direction after this time; bytes moved by then count.
    pub(crate) read_at_most: Duration,
    pub(crate) write_at_most: Duration,
    pub(crate) reads_first: bool,
}

/// The result of one measurement.
#[derive(Debug)]
pub(crate) enum Outcome {
    Measured(Pair),
    /// This candidate does not work here, for this reason.
    Refused(String),
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// When to finish, on the clock of the bench.
    pub(crate) end: Duration,
    /// Bytes of a measurement in the first rung, and the most in any.
    pub(crate) least: u64,
    pub(crate) most: u64,
    pub(crate) seed: u64,
}

/// A candidate and its measurements.
#[derive(Debug)]
pub(crate) struct Entry<C> {
    pub(crate) candidate: C,
    pub(crate) trials: Vec<Trial>,
    /// Why it was given up, other than for being slow.
    pub(crate) refused: Option<String>,
    /// Time and bytes of its last measurement.
    cost: (Duration, u64),
}

/// The measurements of one rung.
#[derive(Debug)]
pub(crate) struct Trial {
    /// 0 is the warm-up, which is not compared; the last is that of the final rounds.
    pub(crate) rung: usize,
    pub(crate) bytes: u64,
    pub(crate) pairs: Vec<Pair>,
}

/// The result of a search. The first entry is that of the defaults.
#[derive(Debug)]
pub(crate) struct Found<C, S> {
    /// In the order of `candidates`.
    pub(crate) entries: Vec<Entry<C>>,
    /// Candidates that the time was too short for.
    pub(crate) left_out: usize,
    /// The rung of the final rounds, if there were any.
    pub(crate) final_rung: Option<usize>,
    /// What ended it early.
    pub(crate) stopped: Option<S>,
}

/// Non-defaults that go into the final rounds.
const FINALISTS: usize = 4;
/// The share of the time for the rungs before the final rounds.
const HALVING: f64 = 0.55;
/// Candidates are often slower than the defaults.
const SLACK: f64 = 1.3;
/// A measurement that takes this many times longer than the defaults is cut short.
const PATIENCE: u32 = 4;

/// Searches for something better than the first candidate, the defaults.
pub(crate) fn search<C, B: Bench<C>>(bench: &mut B, plan: &Plan, candidates: Vec<C>) -> Found<C, B::Stop> {
    let entry = |candidate| Entry { candidate, trials: Vec::new(), refused: None, cost: (Duration::ZERO, 1) };
    let entries = candidates.into_iter().map(entry).collect();
    let mut search = Search { bench, plan, entries, rung: 0, not_admitted: 0, order: SplitMix64::new(plan.seed) };
    let ended = search.run();
    let (final_rung, stopped) = match ended {
        Ok(final_rung) => (final_rung, None),
        Err((final_rung, stop)) => (final_rung, Some(stop)),
    };
    let reached = |entry: &Entry<C>| entry.refused.is_some() || !entry.trials.is_empty();
    let left_out = search.not_admitted + search.entries.iter().filter(|entry| !reached(entry)).count();
    Found { entries: search.entries, left_out, final_rung, stopped }
}

struct Search<'a, C, B> {
    bench: &'a mut B,
    plan: &'a Plan,
    entries: Vec<Entry<C>>,
    rung: usize,
    not_admitted: usize,
    order: SplitMix64,
}

/// The rung of the final rounds, if reached, and what stopped the search.
type Stopped<S> = (Option<usize>, S);

impl<C, B: Bench<C>> Search<'_, C, B> {
    fn run(&mut self) -> Result<Option<usize>, Stopped<B::Stop>> {
        let early = |stop| (None, stop);
        self.tell("warming up");
        self.look(0, self.plan.least).map_err(early)?;
        if self.entries.first().is_none_or(|defaults| defaults.refused.is_some()) {
            return Ok(None);
        }
        self.admit();
        let ranking = self.halve().map_err(early)?;
        self.final_rounds(ranking)
    }

    /// Admits as many candidates as the time allows.
    fn admit(&mut self) {
        let left = self.left().as_secs_f64() * HALVING;
        let one = self.entries[0].cost.0.as_secs_f64() * SLACK;
        let fits = |count: &usize| (count * rungs(*count)) as f64 * one <= left;
        let all = self.entries.len();
        let admitted = (1..=all).rev().find(fits).unwrap_or(1);
        self.entries.truncate(admitted);
        self.not_admitted = all - admitted;
    }

    /// Halves them until few are left; returns these, the best first, without the defaults.
    fn halve(&mut self) -> Result<Vec<usize>, B::Stop> {
        let deadline = self.bench.now() + self.left().mul_f64(HALVING);
        let mut alive: Vec<usize> = (1..self.entries.len()).collect();
        let mut bytes = self.plan.least;
        while !alive.is_empty() {
            self.rung += 1;
            let all = self.in_rung(&alive);
            for (done, &index) in all.iter().enumerate() {
                self.tell(&format!("rung {}: {done} of {}", self.rung, all.len()));
                if self.bench.now() >= deadline {
                    return Ok(self.cut_short(alive));
                }
                self.look(index, bytes)?;
            }
            alive.retain(|&index| self.entries[index].refused.is_none());
            let keep = alive.len().div_ceil(2).max(FINALISTS);
            let was = alive.len();
            alive = self.best_of(&alive, self.rung, keep);
            if was <= 2 * FINALISTS || self.defaults_in(self.rung).is_none() {
                break;
            }
            bytes = bytes.saturating_mul(2).min(self.plan.most);
        }
        Ok(alive)
    }

    /// Ranks the candidates when the time ends within a rung: by the rung before, or, in the first, by what was
    /// measured.
    fn cut_short(&mut self, mut alive: Vec<usize>) -> Vec<usize> {
        let decides = self.rung.saturating_sub(1).max(1);
        alive
            .retain(|&index| self.entries[index].refused.is_none() && self.entries[index].pair_of(decides).is_some());
        self.best_of(&alive, decides, FINALISTS)
    }

    /// The defaults and `alive`, in a new order.
    fn in_rung(&mut self, alive: &[usize]) -> Vec<usize> {
        let mut all: Vec<usize> = [0].iter().chain(alive).copied().collect();
        for last in (1..all.len()).rev() {
            all.swap(last, self.order.below(last as u64 + 1) as usize);
        }
        all
    }

    /// The best `keep` of `from`, by each goal in turn, so that the best in one direction only stays in as well.
    fn best_of(&self, from: &[usize], rung: usize, keep: usize) -> Vec<usize> {
        let Some(base) = self.defaults_in(rung) else { return Vec::new() };
        let ranked = Goal::ALL.map(|goal| {
            let ratio = |index: &usize| self.entries[*index].pair_of(rung).map_or(0.0, |pair| goal.ratio(pair, base));
            let mut ranked = from.to_vec();
            ranked.sort_by(|a, b| ratio(b).total_cmp(&ratio(a)));
            ranked
        });
        let mut kept = BTreeSet::new();
        let in_turn = (0..from.len()).flat_map(|place| ranked.each_ref().map(|ranked| ranked[place]));
        in_turn.filter(|index| kept.insert(*index)).take(keep).collect()
    }

    /// The defaults' measurement in a rung, or, if the first rung ended before they were measured, in the warm-up,
    /// which moves as many bytes.
    fn defaults_in(&self, rung: usize) -> Option<&Pair> {
        let defaults = self.entries.first()?;
        defaults.pair_of(rung).or_else(|| if rung == 1 { defaults.pair_of(0) } else { None })
    }

    /// Measures a candidate once, and records the result.
    fn look(&mut self, index: usize, bytes: u64) -> Result<(), B::Stop> {
        let (began, left) = (self.bench.now(), self.left());
        let effort = self.effort(bytes, left);
        let entry = &mut self.entries[index];
        match self.bench.measure(&entry.candidate, effort)? {
            Outcome::Refused(reason) => entry.refused = Some(reason),
            Outcome::Measured(pair) => {
                entry.cost = (self.bench.now().saturating_sub(began), bytes);
                match entry.trials.last_mut().filter(|trial| trial.rung == self.rung) {
                    Some(trial) => trial.pairs.push(pair),
                    None => entry.trials.push(Trial { rung: self.rung, bytes, pairs: vec![pair] }),
                }
            }
        }
        Ok(())
    }

    fn effort(&mut self, bytes: u64, left: Duration) -> Effort {
        // In less time the scheduler decides, not the candidate.
        const AT_LEAST: Duration = Duration::from_millis(100);
        let reads_first = self.order.next_u64().is_multiple_of(2);
        let warm_up = self.entries[0].trials.first().and_then(|trial| Some((trial.pairs.first()?, trial.bytes)));
        let Some((pair, moved)) = warm_up else {
            return Effort { bytes, read_at_most: left / 4, write_at_most: left / 4, reads_first };
        };
        let times = bytes as f64 / moved as f64 * f64::from(PATIENCE);
        let at_most = |seconds: f64| Duration::from_secs_f64(seconds * times).max(AT_LEAST).min(left.max(AT_LEAST));
        let (read_at_most, write_at_most) = (at_most(pair.read.seconds), at_most(pair.write.seconds));
        Effort { bytes, read_at_most, write_at_most, reads_first }
    }

    fn left(&self) -> Duration {
        self.plan.end.saturating_sub(self.bench.now())
    }

    fn tell(&mut self, stage: &str) {
        let done = self.rung.saturating_sub(1).max(1);
        let base = self.defaults_in(done).copied();
        let ratios = self
            .entries
            .iter()
            .filter_map(|entry| Some((&entry.candidate, Goal::Overall.ratio(entry.pair_of(done)?, &base?))));
        let best = ratios.max_by(|(_, a), (_, b)| a.total_cmp(b));
        self.bench.stage(stage, best);
    }
}

impl<C> Entry<C> {
    /// The first measurement of a rung.
    fn pair_of(&self, rung: usize) -> Option<&Pair> {
        self.pairs(rung)?.first()
    }

    /// All measurements of a rung; `None` if there are none.
    pub(crate) fn pairs(&self, rung: usize) -> Option<&[Pair]> {
        self.trials.iter().find(|trial| trial.rung == rung).map(|trial| trial.pairs.as_slice())
    }
}

/// Rungs from this many entries, including the defaults, to the final rounds.
fn rungs(entries: usize) -> usize {
    let (mut alive, mut rungs) = (entries - 1, usize::from(entries > 1));
    while alive > 2 * FINALISTS {
        alive = alive.div_ceil(2);
        rungs += 1;
    }
    rungs
}
