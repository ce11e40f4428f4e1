//! The result for programs; [`text`] is for people.

mod text;

use std::path::PathBuf;

use serde::Serialize;

use super::candidate::Candidate;
use super::folder::{DataFile, Place};
use super::sample::{Pair, Sample};
use super::search::{Entry, Found};
use super::together::{Rates, Together};
use super::verdict::{Choice, ROUNDS_TO_TELL, Verdict, verdict};
use super::workload::{Direction, Shape};
use crate::estimate::Estimate;
use crate::output::lossy;

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) schema: &'static str,
    /// A signal ended it early.
    pub(crate) partial: bool,
    pub(crate) budget_seconds: f64,
    pub(crate) elapsed_seconds: f64,
    pub(crate) seed: u64,
    pub(crate) op_bytes: usize,
    pub(crate) ops_in_flight: usize,
    /// Memory for data, per folder that is measured at the same time.
    pub(crate) buffer_bytes: usize,
    pub(crate) unavailable_backends: Vec<Unavailable>,
    pub(crate) folders: Vec<FolderReport>,
    /// Rates of all folders at the same time; `null` for one folder.
    pub(crate) together: Option<TogetherReport>,
    pub(crate) notes: Vec<String>,
    /// The file that `--write` made.
    pub(crate) written: Option<String>,
}

/// A backend that the search leaves out, and why.
#[derive(Debug, Serialize)]
pub(crate) struct Unavailable {
    pub(crate) backend: &'static str,
    pub(crate) reason: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct FolderReport {
    #[serde(serialize_with = "lossy")]
    pub(crate) dir: PathBuf,
    pub(crate) file_system: Option<String>,
    pub(crate) direct_io: bool,
    /// The backend of the defaults.
    pub(crate) auto_backend: &'static str,
    pub(crate) file_bytes: u64,
    /// Candidates that were measured, including the defaults.
    pub(crate) measured: usize,
    /// Candidates that the time was too short for.
    pub(crate) left_out: usize,
    pub(crate) refused: Vec<Refused>,
    /// Rounds of the last rung.
    pub(crate) rounds: usize,
    /// `null` if it was interrupted before anything was measured.
    pub(crate) best: Option<Best>,
    pub(crate) recommendation: Option<Recommendation>,
    pub(crate) trials: Vec<TrialReport>,
    #[serde(skip)]
    contenders: Vec<Contender>,
}

/// A candidate that does not work here, and why.
#[derive(Debug, Serialize)]
pub(crate) struct Refused {
    pub(crate) config: Candidate,
    pub(crate) reason: String,
}

/// The best configurations, by the last rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Best {
    pub(crate) defaults: Contender,
    pub(crate) overall: Contender,
    pub(crate) read: Contender,
    pub(crate) write: Contender,
}

/// A configuration of the last rounds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Contender {
    pub(crate) config: Candidate,
    pub(crate) read: Figures,
    pub(crate) write: Figures,
    /// Its ratio to the defaults of the same round, in the direction it is best in.
    pub(crate) ratio: Estimate,
    pub(crate) beats_defaults: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct Recommendation {
    pub(crate) config: Candidate,
    pub(crate) is_defaults: bool,
    pub(crate) reason: String,
}

/// One direction of all measurements of a rung.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    pub(crate) gb_per_s: Values,
    pub(crate) cpu_seconds_per_gb: f64,
}

/// The values of all measurements, and their summary.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Values {
    pub(crate) values: Vec<f64>,
    #[serde(flatten)]
    pub(crate) spread: Estimate,
}

/// One direction of a candidate in a rung.
#[derive(Debug, Serialize)]
pub(crate) struct TrialReport {
    pub(crate) config: Candidate,
    pub(crate) rung: usize,
    pub(crate) stage: &'static str,
    pub(crate) direction: &'static str,
    pub(crate) bytes: u64,
    #[serde(flatten)]
    pub(crate) figures: Figures,
}

/// All folders at the same time, each with its recommended configuration.
#[derive(Debug, Serialize)]
pub(crate) struct TogetherReport {
    pub(crate) read: TogetherRates,
    pub(crate) write: TogetherRates,
}

/// In GB/s.
#[derive(Debug, Serialize)]
pub(crate) struct TogetherRates {
    /// The median of each folder alone, in order.
    pub(crate) alone: Vec<f64>,
    pub(crate) sum_of_alone: f64,
    /// Each folder beside the others.
    pub(crate) each: Vec<Values>,
    /// All bytes, until the last folder finished.
    pub(crate) together: Values,
}

impl Report {
    pub(crate) fn new(budget_seconds: f64, seed: u64, shape: Shape, unavailable: Vec<Unavailable>) -> Self {
        Self {
            schema: "tensor-aio/tune/1",
            partial: false,
            budget_seconds,
            elapsed_seconds: 0.0,
            seed,
            op_bytes: shape.op_bytes,
            ops_in_flight: shape.ops_in_flight,
            buffer_bytes: shape.buffer_bytes(),
            unavailable_backends: unavailable,
            folders: Vec::new(),
            together: None,
            notes: Vec::new(),
            written: None,
        }
    }
}

impl FolderReport {
    pub(crate) fn new<S>(place: &Place, data: &DataFile, found: &Found<Candidate, S>) -> Self {
        let last = last_rung(found);
        let in_last: Vec<(&Entry<Candidate>, &[Pair])> =
            found.entries.iter().filter_map(|entry| Some((entry, entry.pairs(last)?))).collect();
        let rounds: Vec<&[Pair]> = in_last.iter().map(|(_, pairs)| *pairs).collect();
        let verdict = verdict(&rounds);
        let contender = |choice: &Choice| {
            let (entry, pairs) = in_last.get(choice.index)?;
            Some(Contender::new(&entry.candidate, pairs, choice))
        };
        let contenders: Vec<_> = verdict.iter().flat_map(|verdict| &verdict.choices).filter_map(contender).collect();
        let best = verdict.as_ref().and_then(|verdict| {
            let (defaults, overall) = (contender(verdict.choices.first()?)?, contender(&verdict.overall)?);
            Some(Best { defaults, overall, read: contender(&verdict.read)?, write: contender(&verdict.write)? })
        });
        let recommendation = verdict.as_ref().and_then(|verdict| {
            let config = in_last.get(verdict.recommended.index)?.0.candidate.clone();
            let reason = reason(verdict, &in_last.get(verdict.overall.index)?.0.candidate);
            Some(Recommendation { config, is_defaults: verdict.recommended.index == 0, reason })
        });
        let refused = found
            .entries
            .iter()
            .filter_map(|entry| Some(Refused { config: entry.candidate.clone(), reason: entry.refused.clone()? }));
        Self {
            dir: place.dir.clone(),
            file_system: place.file_system.clone(),
            direct_io: data.direct,
            auto_backend: data.auto_backend,
            file_bytes: data.bytes,
            measured: found.entries.iter().filter(|entry| !entry.trials.is_empty()).count(),
            left_out: found.left_out,
            refused: refused.collect(),
            rounds: verdict.as_ref().map_or(0, |verdict| verdict.rounds),
            best,
            recommendation,
            trials: found.entries.iter().flat_map(|entry| trials(entry, found.final_rung)).collect(),
            contenders,
        }
    }

    /// The recommended configuration, and what it did alone.
    pub(crate) fn recommended(&self) -> Option<&Contender> {
        let config = &self.recommendation.as_ref()?.config;
        self.contenders.iter().find(|contender| contender.config == *config)
    }
}

/// The final rounds, or the last rung that compared something with the defaults.
fn last_rung<S>(found: &Found<Candidate, S>) -> usize {
    let compared = |rung: &usize| {
        let (defaults, others) = (found.entries.first(), found.entries.iter().skip(1));
        defaults.is_some_and(|entry| entry.pairs(*rung).is_some())
            && others.clone().any(|entry| entry.pairs(*rung).is_some())
    };
    let rungs = found.entries.iter().flat_map(|entry| entry.trials.iter().map(|trial| trial.rung));
    found.final_rung.or_else(|| rungs.filter(compared).max()).unwrap_or(0)
}

fn reason(verdict: &Verdict, overall: &Candidate) -> String {
    let Verdict { recommended, overall: best, rounds, .. } = verdict;
    let Estimate { median, low, high } = if recommended.index == 0 { best.ratio } else { recommended.ratio };
    let spread = format!("[{low:.2}..{high:.2}] in {rounds} rounds");
    if recommended.index != 0 {
        return format!("{median:.2} times the defaults {spread}, further than they vary by themselves");
    }
    if best.index == 0 {
        return "nothing that was measured is faster than the defaults in both directions together".to_owned();
    }
    if *rounds < ROUNDS_TO_TELL {
        return format!(
            "nothing is known to be faster: {ROUNDS_TO_TELL} rounds tell a difference from noise, and there was time \
             for {rounds}; a longer --runtime may show that ({overall}) is"
        );
    }
    format!(
        "nothing is faster by more than noise: the best ({overall}) had {median:.2} of their rates {spread}, within \
         what they vary by themselves"
    )
}

fn trials(entry: &Entry<Candidate>, final_rung: Option<usize>) -> impl Iterator<Item = TrialReport> + '_ {
    entry.trials.iter().flat_map(move |trial| {
        let stage = match trial.rung {
            0 => "warm_up",
            rung if Some(rung) == final_rung => "final",
            _ => "halving",
        };
        [Direction::Read, Direction::Write].map(|direction| TrialReport {
            config: entry.candidate.clone(),
            rung: trial.rung,
            stage,
            direction: match direction {
                Direction::Read => "read",
                Direction::Write => "write",
            },
            bytes: trial.bytes,
            figures: Figures::new(&trial.pairs, direction),
        })
    })
}

impl Contender {
    fn new(config: &Candidate, pairs: &[Pair], choice: &Choice) -> Self {
        Self {
            config: config.clone(),
            read: Figures::new(pairs, Direction::Read),
            write: Figures::new(pairs, Direction::Write),
            ratio: choice.ratio,
            beats_defaults: choice.beats_defaults,
        }
    }
}

impl Figures {
    fn new(pairs: &[Pair], direction: Direction) -> Self {
        let samples = pairs.iter().map(|pair| match direction {
            Direction::Read => pair.read,
            Direction::Write => pair.write,
        });
        let cpu = Estimate::of_most(samples.clone().map(|sample| sample.cpu_seconds_per_gb));
        Self {
            gb_per_s: Values::new(samples.map(|sample: Sample| sample.gb_per_s).collect()),
            cpu_seconds_per_gb: cpu.map_or(0.0, |cpu| cpu.median),
        }
    }
}

impl Values {
    /// All 0 without values.
    fn new(values: Vec<f64>) -> Self {
        let none = Estimate { median: 0.0, low: 0.0, high: 0.0 };
        Self { spread: Estimate::of_most(values.iter().copied()).unwrap_or(none), values }
    }
}

impl TogetherReport {
    /// `alone`: the read and write rate of each folder alone.
    pub(crate) fn new(found: Together, alone: &[(f64, f64)]) -> Self {
        let rates = |rates: Rates, alone: Vec<f64>| TogetherRates {
            sum_of_alone: alone.iter().sum(),
            alone,
            each: rates.each.into_iter().map(Values::new).collect(),
            together: Values::new(rates.all),
        };
        Self {
            read: rates(found.read, alone.iter().map(|(read, _)| *read).collect()),
            write: rates(found.write, alone.iter().map(|(_, write)| *write).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text about candidates with these rates beside the defaults, round by round.
    fn said(defaults: &[f64], other: &[f64]) -> String {
        let sample = |gb_per_s| Sample { gb_per_s, cpu_seconds_per_gb: 0.0, seconds: 1.0 };
        let rounds = |rates: &[f64]| -> Vec<Pair> {
            rates.iter().map(|rate| Pair { read: sample(*rate), write: sample(*rate) }).collect()
        };
        reason(&verdict(&[&rounds(defaults), &rounds(other)]).unwrap(), &Candidate::defaults())
    }

    #[test]
    fn what_is_no_win_is_not_said_to_be_faster() {
        let slow = said(&[1.0; 5], &[0.9; 5]);
        assert!(slow.starts_with("nothing that was measured is faster"), "{slow}");
        let few = said(&[1.0; 2], &[1.5; 2]);
        assert!(few.starts_with("nothing is known to be faster") && few.contains("--runtime"), "{few}");
        let noise = said(&[1.0, 1.1, 1.2, 1.3, 1.4], &[1.02, 1.12, 1.22, 1.32, 1.42]);
        assert!(noise.starts_with("nothing is faster by more than noise") && noise.contains("1.02 of"), "{noise}");
        let win = said(&[1.0; 5], &[1.5; 5]);
        assert!(win.starts_with("1.50 times the defaults"), "{win}");
    }
}
