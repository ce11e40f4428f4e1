//! What the measurements prove. Noise is not a win.

use super::sample::{Goal, Pair};
use crate::estimate::Estimate;

/// Fewest rounds in which a candidate can beat the defaults: among equals with five rounds, one of four is ahead in all
/// of them, and its median beyond all of the defaults', about once in a hundred searches.
pub(crate) const ROUNDS_TO_TELL: usize = 5;

/// A contender, compared with the defaults.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Choice {
    /// Its index among the contenders; 0 is the defaults.
    pub(crate) index: usize,
    /// Its ratio to the defaults, round by round.
    pub(crate) ratio: Estimate,
    /// Whether the ratio is more than noise.
    pub(crate) beats_defaults: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verdict {
    /// Every contender by both directions, in order.
    pub(crate) choices: Vec<Choice>,
    pub(crate) overall: Choice,
    pub(crate) read: Choice,
    pub(crate) write: Choice,
    /// The best overall of those that beat the defaults; otherwise the defaults.
    pub(crate) recommended: Choice,
    /// Rounds in which the defaults were measured.
    pub(crate) rounds: usize,
}

/// `contenders`: the rounds of each, the defaults first. `None` if these have no rounds.
pub(crate) fn verdict(contenders: &[&[Pair]]) -> Option<Verdict> {
    let defaults = contenders.first().filter(|rounds| !rounds.is_empty())?;
    let choices = |goal| {
        let choices = contenders.iter().enumerate();
        choices.filter_map(move |(index, rounds)| Choice::of(goal, index, rounds, defaults))
    };
    let best = |goal| choices(goal).max_by(by_ratio);
    let winner = choices(Goal::Overall).filter(|choice| choice.beats_defaults).max_by(by_ratio);
    let itself = choices(Goal::Overall).next()?;
    Some(Verdict {
        overall: best(Goal::Overall)?,
        read: best(Goal::Read)?,
        write: best(Goal::Write)?,
        recommended: winner.unwrap_or(itself),
        choices: choices(Goal::Overall).collect(),
        rounds: defaults.len(),
    })
}

/// Of equals the first is the larger, which is the defaults if they are among them.
fn by_ratio(a: &Choice, b: &Choice) -> std::cmp::Ordering {
    a.ratio.median.total_cmp(&b.ratio.median).then(b.index.cmp(&a.index))
}

impl Choice {
    fn of(goal: Goal, index: usize, rounds: &[Pair], defaults: &[Pair]) -> Option<Self> {
        let ratio = Estimate::of_most(rounds.iter().zip(defaults).map(|(ours, theirs)| goal.ratio(ours, theirs)))?;
        // A common yardstick, so that the spread of the defaults among themselves shows.
        let middle = median_pair(defaults)?;
        let ours = Estimate::of_most(rounds.iter().map(|pair| goal.ratio(pair, &middle)))?;
        let theirs = Estimate::of_most(defaults.iter().map(|pair| goal.ratio(pair, &middle)))?;
        let enough = rounds.len().min(defaults.len()) >= ROUNDS_TO_TELL;
        let beats_defaults = index > 0 && enough && ratio.low > 1.0 && ours.median > theirs.high;
        Some(Self { index, ratio, beats_defaults })
    }
}

/// The medians of both directions.
fn median_pair(pairs: &[Pair]) -> Option<Pair> {
    let mut middle = *pairs.first()?;
    middle.read.gb_per_s = Estimate::of_most(pairs.iter().map(|pair| pair.read.gb_per_s))?.median;
    middle.write.gb_per_s = Estimate::of_most(pairs.iter().map(|pair| pair.write.gb_per_s))?.median;
    Some(middle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::sample::Sample;

    fn rounds(rates: &[(f64, f64)]) -> Vec<Pair> {
        let sample = |gb_per_s| Sample { gb_per_s, cpu_seconds_per_gb: 0.0, seconds: 1.0 };
        rates.iter().map(|&(read, write)| Pair { read: sample(read), write: sample(write) }).collect()
    }

    #[test]
    fn each_direction_has_its_own_best() {
        let defaults = rounds(&[(1.0, 1.0); 5]);
        let (reader, writer) = (rounds(&[(2.0, 0.6); 5]), rounds(&[(0.9, 1.5); 5]));
        let found = verdict(&[&defaults, &reader, &writer]).unwrap();
        assert_eq!((found.read.index, found.write.index, found.overall.index), (1, 2, 2));
        assert!(found.read.beats_defaults && found.write.beats_defaults && found.overall.beats_defaults);
        assert_eq!(found.recommended, found.overall);
    }

    #[test]
    fn what_lies_within_the_spread_of_the_defaults_is_no_win() {
        // Ahead in every round, though both drift by more than their difference.
        let defaults = rounds(&[(1.0, 1.0), (1.1, 1.1), (1.2, 1.2), (1.3, 1.3), (1.4, 1.4)]);
        let better: Vec<(f64, f64)> = [1.02, 1.12, 1.22, 1.32, 1.42].map(|rate| (rate, rate)).to_vec();
        let found = verdict(&[&defaults, &rounds(&better)]).unwrap();
        assert_eq!((found.overall.index, found.recommended.index), (1, 0));
        assert!(!found.overall.beats_defaults);
    }

    #[test]
    fn one_round_behind_is_no_win_and_few_rounds_are_none() {
        let (defaults, mut better) = (rounds(&[(1.0, 1.0); 8]), vec![(1.5, 1.5); 8]);
        assert_eq!(verdict(&[&defaults, &rounds(&better)]).unwrap().recommended.index, 1);
        let few = ROUNDS_TO_TELL - 1;
        assert_eq!(verdict(&[&defaults[..few], &rounds(&better[..few])]).unwrap().recommended.index, 0);
        better[3] = (0.9, 0.9);
        assert_eq!(verdict(&[&defaults, &rounds(&better)]).unwrap().recommended.index, 0);
    }

    #[test]
    fn equals_are_the_defaults_and_nothing_is_nothing() {
        let defaults = rounds(&[(1.0, 1.0); 5]);
        let found = verdict(&[&defaults, &defaults]).unwrap();
        assert_eq!([found.overall.index, found.read.index, found.write.index, found.recommended.index], [0; 4]);
        assert_eq!(verdict(&[]), None);
        assert_eq!(verdict(&[&[], &defaults]), None);
    }
}
