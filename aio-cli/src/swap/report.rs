//! The result: an object for programs, and in `text` a table for people.

mod text;

use std::path::{Path, PathBuf};

use aio::backend::Unavailable;
use aio::{AioConfig, Backend};
use aio_core::Printable;
use serde::Serialize;

use super::tensors::TensorSet;
use crate::cli::Layout;
use crate::estimate::Estimate;
use crate::failure::Failure;
use crate::host::cpu::Elapsed;
use crate::host::resident::Memory;
use crate::output::lossy;
use crate::paths::Paths;

/// The name and version of the object that programs get: `docs/schema/swap.json`.
const SCHEMA: &str = "tensor-aio/swap/2";

/// The reason of the backend that a signal stopped.
const INTERRUPTED: &str = "interrupted";

/// The result of all backends.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    schema: &'static str,
    /// A signal ended it early: one backend has not finished the last pass, and others may not have begun it.
    pub(crate) partial: bool,
    source: String,
    #[serde(serialize_with = "lossy")]
    dir: PathBuf,
    layout: &'static str,
    tensors: usize,
    bytes: u64,
    /// The number of groups.
    groups: usize,
    queue_depth: usize,
    block_size: usize,
    threads: usize,
    /// Passes that were begun.
    passes: u32,
    /// Passes that were to be.
    #[serde(skip)]
    pub(crate) planned: u32,
    backends: Vec<Row>,
    /// Whether every tensor came back unchanged, in every pass of every available backend.
    verified: bool,
}

/// How a pass of a backend ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Done(Done),
    Failed(String),
    /// A signal ended it early, after this much.
    Interrupted(Done),
}

/// What a backend did in one pass.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// The backend in use, also for `auto`.
    pub(crate) backend: &'static str,
    /// Starting the engine, allocating memory and registering it with the kernel.
    pub(crate) setup: Elapsed,
    /// `None` until all tensors are written.
    pub(crate) swap_out: Option<Elapsed>,
    /// `None` until all tensors are read back and compared.
    pub(crate) swap_in: Option<Elapsed>,
    /// How many tensors came back unchanged.
    pub(crate) verified: usize,
    /// Names of tensors that came back different.
    pub(crate) differing: Vec<String>,
    pub(crate) paths: Paths,
    pub(crate) memory: Option<Memory>,
}

#[derive(Debug, Serialize)]
struct Row {
    #[serde(skip)]
    asked: Backend,
    backend: String,
    available: bool,
    /// Why it is not available, its error, or which tensors came back different.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    swap_out: Option<Rates>,
    swap_in: Option<Rates>,
    passes: Vec<PassRow>,
}

/// Rates over all passes.
#[derive(Debug, Clone, Copy, Serialize)]
struct Rates {
    gb_per_s: Estimate,
    cpu_seconds_per_gb: Estimate,
}

#[derive(Debug, Serialize)]
struct PassRow {
    /// How many tensors came back unchanged.
    verified: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    differing: Vec<String>,
    /// Time before anything is timed: starting threads, allocating and registering memory.
    setup_seconds: Option<f64>,
    swap_out: Option<Rate>,
    swap_in: Option<Rate>,
    paths: Option<Paths>,
    memory: Option<Memory>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Rate {
    seconds: f64,
    gb_per_s: f64,
    cpu_seconds: f64,
    cpu_seconds_per_gb: f64,
}

impl Report {
    /// A report without backends.
    pub(crate) fn new(dir: &Path, layout: Layout, config: &AioConfig, set: &TensorSet, groups: usize) -> Self {
        Self {
            schema: SCHEMA,
            partial: false,
            source: set.description.clone(),
            dir: dir.to_owned(),
            layout: layout.name(),
            tensors: set.tensors.len(),
            bytes: set.bytes(),
            groups,
            queue_depth: config.queue_depth,
            block_size: config.block_size,
            threads: config.intra_op_parallelism,
            passes: 0,
            planned: 0,
            backends: Vec::new(),
            verified: false,
        }
    }

    /// Adds a backend, without passes.
    pub(crate) fn add_backend(&mut self, asked: Backend, unavailable: Option<Unavailable>) {
        let (available, reason) = (unavailable.is_none(), unavailable.map(|why| why.reason));
        let backend = asked.to_string();
        let row = Row { asked, backend, available, reason, swap_out: None, swap_in: None, passes: Vec::new() };
        self.backends.push(row);
    }

    /// Adds a pass of `backend`; returns whether it can run another.
    pub(crate) fn add_pass(&mut self, pass: u32, backend: Backend, outcome: Outcome) -> bool {
        self.passes = pass;
        let Some(row) = self.backends.iter_mut().find(|row| row.asked == backend) else { return false };
        let (done, through) = match outcome {
            Outcome::Done(done) => (done, true),
            Outcome::Failed(reason) => {
                row.reason = Some(reason);
                (Done::default(), false)
            }
            Outcome::Interrupted(done) => {
                self.partial = true;
                row.reason = Some(INTERRUPTED.to_owned());
                (done, false)
            }
        };
        // Until the engine starts, only the requested backend is known.
        if !done.backend.is_empty() {
            done.backend.clone_into(&mut row.backend);
        }
        if !done.differing.is_empty() {
            row.reason = Some(differing(&done.differing, self.tensors));
        }
        row.passes.push(PassRow {
            verified: done.verified,
            differing: done.differing,
            setup_seconds: through.then_some(done.setup.wall.as_secs_f64()),
            swap_out: done.swap_out.map(|elapsed| Rate::of(self.bytes, elapsed)),
            swap_in: done.swap_in.map(|elapsed| Rate::of(self.bytes, elapsed)),
            paths: through.then_some(done.paths),
            memory: done.memory,
        });
        row.swap_out = Rates::of(row.passes.iter().filter_map(|pass| pass.swap_out));
        row.swap_in = Rates::of(row.passes.iter().filter_map(|pass| pass.swap_in));
        let fit = row.reason.is_none();
        let whole = |row: &Row| !row.available || (row.reason.is_none() && row.passes.len() == pass as usize);
        self.verified = self.backends.iter().all(whole);
        fit
    }

    /// Fails, with every reason, unless everything verified.
    pub(crate) fn verdict(&self) -> Result<(), Failure> {
        let failed = self.backends.iter().filter(|row| row.available);
        let reasons: Vec<_> =
            failed.filter_map(|row| Some(format!("{}: {}", row.backend, row.reason.as_ref()?))).collect();
        if reasons.is_empty() { Ok(()) } else { Err(Failure::Failed(reasons.join("\n"))) }
    }
}

impl Row {
    fn mostly_buffered(&self) -> bool {
        self.passes.iter().any(|pass| pass.paths.is_some_and(|paths| paths.mostly_buffered()))
    }

    /// Passes in which every tensor came back unchanged.
    fn whole_passes(&self, tensors: usize) -> usize {
        self.passes.iter().filter(|pass| pass.swap_in.is_some() && pass.verified == tensors).count()
    }
}

fn differing(names: &[String], tensors: usize) -> String {
    const NAMED: usize = 8;
    let named = names.iter().take(NAMED).map(|name| Printable(name).to_string()).collect::<Vec<_>>().join(", ");
    let and_more = if names.len() > NAMED { ", ..." } else { "" };
    format!("{} of {tensors} tensors came back with other bytes: {named}{and_more}", names.len())
}

impl Rates {
    /// `None` if there are no passes.
    fn of(passes: impl Iterator<Item = Rate> + Clone) -> Option<Self> {
        Some(Self {
            gb_per_s: Estimate::of(passes.clone().map(|rate| rate.gb_per_s))?,
            cpu_seconds_per_gb: Estimate::of(passes.map(|rate| rate.cpu_seconds_per_gb))?,
        })
    }
}

impl Rate {
    fn of(bytes: u64, elapsed: Elapsed) -> Self {
        let gigabytes = bytes as f64 / 1e9;
        let (seconds, cpu_seconds) = (elapsed.wall.as_secs_f64(), elapsed.cpu.as_secs_f64());
        Self {
            seconds,
            gb_per_s: gigabytes / seconds.max(1e-9),
            cpu_seconds,
            cpu_seconds_per_gb: cpu_seconds / gigabytes.max(1e-9),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A report of passes with these outcomes on two backends.
    fn report(passes: [Vec<Outcome>; 2]) -> Report {
        let set = TensorSet::uniform(2, 500_000_000);
        let mut report = Report::new(Path::new("/data"), Layout::Files, &AioConfig::default(), &set, 1);
        for (backend, passes) in [Backend::Pthread, Backend::Auto].into_iter().zip(passes) {
            report.add_backend(backend, None);
            for (outcome, number) in passes.into_iter().zip(1..) {
                report.add_pass(number, backend, outcome);
            }
        }
        report
    }

    fn done(milliseconds: u64) -> Done {
        let elapsed = Elapsed { wall: Duration::from_millis(milliseconds), cpu: Duration::from_millis(100) };
        let (swap_out, swap_in) = (Some(elapsed), Some(elapsed));
        Done { backend: "libaio", swap_out, swap_in, verified: 2, ..Done::default() }
    }

    fn took(backend: &'static str, milliseconds: &[u64]) -> Vec<Outcome> {
        milliseconds.iter().map(|&each| Outcome::Done(Done { backend, ..done(each) })).collect()
    }

    #[test]
    fn rates_are_decimal_gigabytes_per_second_of_all_passes() {
        let report = report([took("pthread", &[500, 250, 1000]), took("libaio", &[500, 500, 500])]);
        let json = serde_json::to_value(&report).unwrap();
        let backend = &json["backends"][0];
        assert_eq!(backend["swap_out"]["gb_per_s"], serde_json::json!({"median": 2.0, "low": 1.0, "high": 4.0}));
        assert_eq!(backend["passes"][1]["swap_in"]["gb_per_s"], 4.0);
        assert_eq!(backend["swap_in"]["cpu_seconds_per_gb"]["median"], 0.1);
        assert_eq!(
            (&json["verified"], &json["bytes"], &json["passes"]),
            (&true.into(), &1_000_000_000.into(), &3.into())
        );
        report.verdict().unwrap();
        assert!(report.to_string().contains("2.00 [1.00..4.00]"), "{report}");
    }

    #[test]
    fn a_difference_is_said_only_where_spreads_lie_apart_in_enough_passes() {
        let said =
            |first: &[u64], second: &[u64]| report([took("pthread", first), took("libaio", second)]).to_string();
        let same = said(&[500, 250, 1000, 250, 500], &[900, 900, 900, 900, 900]);
        assert!(same.contains("swap-out: the spreads overlap: the backends do not differ here"), "{same}");
        let few = said(&[500, 250, 450, 250], &[900, 900, 600, 900]);
        assert!(few.contains("swap-in: pthread came out ahead of libaio; it takes --passes 5 to tell"), "{few}");
        let apart = said(&[500, 250, 450, 250, 500], &[900, 900, 600, 900, 900]);
        assert!(apart.contains("swap-in: pthread is faster than libaio"), "{apart}");
        let alone = report([took("pthread", &[500, 500]), Vec::new()]).to_string();
        assert!(!alone.contains("overlap") && !alone.contains("slower"), "{alone}");
    }

    #[test]
    fn a_backend_that_is_not_available_is_shown_and_is_no_failure() {
        let mut report = report([Vec::new(), Vec::new()]);
        report.backends.pop();
        report.add_backend(Backend::Uring, Some(Unavailable::new("uring", "seccomp refuses it", None)));
        assert!(report.add_pass(1, Backend::Pthread, Outcome::Done(done(500))));
        assert!(report.verified && report.verdict().is_ok());
        assert!(report.to_string().contains("uring is not available: seccomp refuses it"), "{report}");
    }

    #[test]
    fn what_was_interrupted_is_partial_and_keeps_what_was_done() {
        let half = Done { swap_in: None, verified: 1, ..done(500) };
        let report =
            report([took("pthread", &[500, 500]), vec![Outcome::Done(done(250)), Outcome::Interrupted(half)]]);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["partial"], &json["verified"]), (&true.into(), &false.into()));
        let cut = &json["backends"][1];
        assert_eq!((&cut["backend"], &cut["reason"]), (&"libaio".into(), &"interrupted".into()));
        assert_eq!(
            (&cut["swap_out"]["gb_per_s"]["low"], &cut["swap_in"]["gb_per_s"]["low"]),
            (&2.0.into(), &4.0.into())
        );
        assert_eq!((&cut["passes"][1]["swap_in"], &cut["passes"][1]["setup_seconds"]), (&().into(), &().into()));
        let text = report.to_string();
        for words in ["PARTIAL", "1 of 2, interrupted", "2 of 2"] {
            assert!(text.contains(words), "{words}\n{text}");
        }
    }

    #[test]
    fn what_differs_or_fails_is_named_and_comes_no_more() {
        let differing = Outcome::Done(Done {
            verified: 1,
            differing: vec!["tensor.1".to_owned()],
            backend: "pthread",
            ..done(500)
        });
        let mut report = report([took("pthread", &[500]), took("libaio", &[500])]);
        assert!(!report.add_pass(2, Backend::Pthread, differing));
        assert!(!report.add_pass(2, Backend::Auto, Outcome::Failed("the disk is full".to_owned())));
        let verdict = report.verdict().unwrap_err().to_string();
        assert_eq!(verdict, "pthread: 1 of 2 tensors came back with other bytes: tensor.1\nlibaio: the disk is full");
        assert!(!report.verified && report.to_string().contains("1 of 2, failed"), "{report}");
    }
}
