//! The search on a made-up machine: a known best, noise, and a clock that only measurements move.

use std::collections::HashSet;

use super::*;
use crate::tune::sample::Sample;
use crate::tune::verdict::{Verdict, verdict};

/// A candidate is its number; 0 is the defaults.
struct Machine {
    now: Duration,
    noise: SplitMix64,
    /// The noise of rates, as a fraction.
    amplitude: f64,
    /// Seconds in which all rates double, if they drift.
    drift: Option<f64>,
    /// GB/s of reads and writes.
    rates: fn(u32) -> (f64, f64),
    refuses: fn(u32) -> bool,
    /// Ends with an error at this measurement.
    stops_at: Option<usize>,
    looks: Vec<(u32, u64)>,
    stages: Vec<String>,
}

/// The time to start an engine.
const OVERHEAD: Duration = Duration::from_millis(50);

impl Machine {
    fn new(seed: u64, rates: fn(u32) -> (f64, f64)) -> Self {
        Self {
            now: Duration::ZERO,
            noise: SplitMix64::new(seed),
            amplitude: 0.05,
            drift: None,
            rates,
            refuses: |_| false,
            stops_at: None,
            looks: Vec::new(),
            stages: Vec::new(),
        }
    }

    fn sample(&mut self, rate: f64, bytes: u64, at_most: Duration) -> Sample {
        let unit = self.noise.below(1 << 20) as f64 / f64::from(1 << 20);
        let drift = self.drift.map_or(1.0, |doubling| (self.now.as_secs_f64() / doubling).exp2());
        let gb_per_s = rate * drift * (1.0 + self.amplitude * (2.0 * unit - 1.0));
        let seconds = (bytes as f64 / 1e9 / gb_per_s).min(at_most.as_secs_f64());
        self.now += Duration::from_secs_f64(seconds);
        Sample { gb_per_s, cpu_seconds_per_gb: 0.1, seconds }
    }

    fn search(&mut self, seconds: u64, candidates: u32) -> Found<u32, &'static str> {
        let plan = Plan { end: Duration::from_secs(seconds), least: 100_000_000, most: 1_000_000_000, seed: 7 };
        search(self, &plan, (0..candidates).collect())
    }
}

impl Bench<u32> for Machine {
    type Stop = &'static str;

    fn now(&self) -> Duration {
        self.now
    }

    fn measure(&mut self, candidate: &u32, effort: Effort) -> Result<Outcome, &'static str> {
        if self.stops_at.is_some_and(|look| self.looks.len() >= look) {
            return Err("stopped");
        }
        self.looks.push((*candidate, effort.bytes));
        self.now += OVERHEAD;
        if (self.refuses)(*candidate) {
            return Ok(Outcome::Refused("it is odd".to_owned()));
        }
        let (read, write) = (self.rates)(*candidate);
        let read = self.sample(read, effort.bytes, effort.read_at_most);
        let write = self.sample(write, effort.bytes, effort.write_at_most);
        Ok(Outcome::Measured(Pair { read, write }))
    }

    fn stage(&mut self, stage: &str, _: Option<(&u32, f64)>) {
        self.stages.push(stage.to_owned());
    }
}

/// One hill with its top at 37; the defaults at 0 are halfway up.
fn hill(candidate: u32) -> (f64, f64) {
    let height = 3.0 - (f64::from(candidate) - 37.0).abs() / 20.0;
    if candidate == 0 { (2.0, 1.5) } else { (height.max(0.3), (height * 0.7).max(0.2)) }
}

/// All equal.
fn plain(_: u32) -> (f64, f64) {
    (2.0, 1.5)
}

fn judged<S>(found: &Found<u32, S>) -> (Vec<u32>, Verdict) {
    let last = found.final_rung.expect("there were final rounds");
    let in_last: Vec<_> = found.entries.iter().filter(|entry| entry.pairs(last).is_some()).collect();
    let rounds: Vec<_> = in_last.iter().filter_map(|entry| entry.pairs(last)).collect();
    (in_last.iter().map(|entry| entry.candidate).collect(), verdict(&rounds).unwrap())
}

#[test]
fn it_finds_the_top_of_a_hill_in_its_time() {
    for seed in 0..20 {
        let mut machine = Machine::new(seed, hill);
        let found = machine.search(60, 64);
        let (finalists, verdict) = judged(&found);
        let best = finalists[verdict.recommended.index];
        assert!((35..=39).contains(&best), "{seed}: {best} of {finalists:?}");
        assert!(verdict.recommended.beats_defaults && verdict.rounds >= 5, "{verdict:?}");
        assert!(machine.now <= Duration::from_secs(61), "{:?}", machine.now);
        assert!(machine.now >= Duration::from_secs(50), "it uses its time: {:?}", machine.now);
    }
}

#[test]
fn drift_hits_all_alike() {
    for seed in 0..20 {
        let mut machine = Machine { drift: Some(30.0), ..Machine::new(seed, hill) };
        let found = machine.search(60, 64);
        let (finalists, verdict) = judged(&found);
        let best = finalists[verdict.overall.index];
        assert!((33..=41).contains(&best), "{seed}: {best} of {finalists:?}");
    }
}

#[test]
fn where_all_are_alike_the_defaults_win() {
    let wins = (0..200).filter(|seed| {
        let found = Machine::new(*seed, plain).search(60, 64);
        judged(&found).1.recommended.index != 0
    });
    // Chance wins sometimes, as in any test of significance.
    assert!(wins.count() <= 4);
}

#[test]
fn the_best_for_one_direction_stays_in() {
    // 5 reads twice as fast, but writes so slowly that it is among the worst overall; 6 is the reverse.
    let rates = |candidate| match candidate {
        5 => (4.0, 0.5),
        6 => (0.5, 3.0),
        other => (2.0 - f64::from(other) / 100.0, 1.5),
    };
    for seed in 0..10 {
        let found = Machine::new(seed, rates).search(60, 40);
        let (finalists, verdict) = judged(&found);
        assert_eq!((finalists[verdict.read.index], finalists[verdict.write.index]), (5, 6), "{finalists:?}");
        assert_eq!(verdict.recommended.index, 0);
    }
}

#[test]
fn the_defaults_are_in_every_rung_and_in_every_round() {
    let found = Machine::new(3, |candidate| if candidate == 0 { (0.5, 0.5) } else { hill(candidate) }).search(60, 64);
    let last = found.final_rung.unwrap();
    let defaults = &found.entries[0];
    assert_eq!(defaults.trials.iter().map(|trial| trial.rung).collect::<Vec<_>>(), (0..=last).collect::<Vec<_>>());
    let rounds = defaults.pairs(last).unwrap().len();
    assert!(found.entries.iter().filter_map(|entry| entry.pairs(last)).all(|pairs| pairs.len() == rounds));
}

#[test]
fn what_was_dropped_is_not_measured_again() {
    let mut machine = Machine { refuses: |candidate| candidate % 2 == 1, ..Machine::new(5, hill) };
    let found = machine.search(60, 64);
    let refused: HashSet<u32> =
        found.entries.iter().filter(|entry| entry.refused.is_some()).map(|entry| entry.candidate).collect();
    assert!(refused.len() > 5 && refused.iter().all(|candidate| candidate % 2 == 1));
    for candidate in &refused {
        assert_eq!(machine.looks.iter().filter(|(looked, _)| looked == candidate).count(), 1, "{candidate}");
    }
    // An entry that is missing in one rung is missing in all later ones.
    for entry in &found.entries {
        let rungs: Vec<_> = entry.trials.iter().map(|trial| trial.rung).collect();
        assert!(rungs.windows(2).all(|pair| pair[1] == pair[0] + 1), "{rungs:?}");
    }
    let (finalists, verdict) = judged(&found);
    assert!((36..=38).contains(&finalists[verdict.recommended.index]), "{finalists:?}");
}

#[test]
fn rungs_halve_the_candidates_and_double_the_amount() {
    let found = Machine::new(1, hill).search(600, 64);
    let last = found.final_rung.unwrap();
    let size = |rung| found.entries.iter().filter(|entry| entry.pairs(rung).is_some()).count();
    assert_eq!((1..=last).map(size).collect::<Vec<_>>(), [64, 33, 17, 9, 5]);
    let bytes = |rung| found.entries[0].trials.iter().find(|trial| trial.rung == rung).unwrap().bytes / 100_000_000;
    assert_eq!((1..last).map(bytes).collect::<Vec<_>>(), [1, 2, 4, 8]);
    assert_eq!(rungs(64), last - 1);
    assert_eq!(found.left_out, 0);
}

#[test]
fn little_time_means_few_candidates_and_it_says_so() {
    for seconds in 1..=10 {
        let mut machine = Machine::new(seconds, hill);
        let found = machine.search(seconds, 64);
        assert!(machine.now <= Duration::from_secs(seconds) + Duration::from_secs(1), "{:?}", machine.now);
        assert!(found.left_out > 0 && found.stopped.is_none(), "{seconds}: {}", found.left_out);
        let defaults = &found.entries[0];
        assert!(!defaults.trials.is_empty());
        let measured = found.entries.iter().filter(|entry| !entry.trials.is_empty()).count();
        assert_eq!(measured + found.left_out, 64, "{seconds}");
    }
}

#[test]
fn slow_candidates_are_cut_short() {
    // One candidate takes ten minutes per measurement.
    let mut machine = Machine::new(1, |candidate| if candidate == 3 { (0.0002, 0.0002) } else { hill(candidate) });
    let found = machine.search(60, 64);
    assert!(machine.now <= Duration::from_secs(61), "{:?}", machine.now);
    assert!((35..=39).contains(&judged(&found).0[judged(&found).1.overall.index]));
}

#[test]
fn what_was_found_before_the_end_is_kept() {
    for look in 0..40 {
        let mut machine = Machine { stops_at: Some(look), ..Machine::new(1, hill) };
        let found = machine.search(60, 64);
        assert_eq!(found.stopped, Some("stopped"));
        let pairs = found.entries.iter().flat_map(|entry| &entry.trials).map(|trial| trial.pairs.len());
        assert_eq!((machine.looks.len(), pairs.sum::<usize>()), (look, look));
        let measured = found.entries.iter().filter(|entry| !entry.trials.is_empty()).count();
        assert_eq!(measured + found.left_out, 64);
    }
}

#[test]
fn defaults_that_are_refused_end_it() {
    let mut machine = Machine { refuses: |candidate| candidate == 0, ..Machine::new(1, hill) };
    let found = machine.search(60, 64);
    assert_eq!((found.entries[0].refused.as_deref(), machine.looks.len()), (Some("it is odd"), 1));
}

#[test]
fn each_stage_is_told() {
    let mut machine = Machine::new(1, hill);
    machine.search(60, 64);
    for stage in ["warming up", "rung 1", "rung 2", "final round 1"] {
        assert!(machine.stages.iter().any(|told| told.starts_with(stage)), "{stage}: {:?}", machine.stages);
    }
}
