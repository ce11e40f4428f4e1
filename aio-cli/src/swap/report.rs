//! What came of it: an object for programs, and in `text` a table for people.

mod text;

use std::path::{Path, PathBuf};

use aio::backend::Unavailable;
use aio::{AioConfig, Backend};
use serde::Serialize;

use super::tensors::TensorSet;
use crate::cli::Layout;
use crate::failure::Failure;
use crate::host::cpu::Elapsed;
use crate::host::resident::Memory;
use crate::paths::Paths;

/// The name and version of the object that programs get: `docs/schema/swap.json`.
const SCHEMA: &str = "tensor-aio/swap/1";

/// The result of all backends.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    schema: &'static str,
    /// A signal ended it early: the last backend is not through, and those after it are not there.
    pub(crate) partial: bool,
    source: String,
    dir: PathBuf,
    layout: &'static str,
    tensors: usize,
    bytes: u64,
    /// In how many pieces the set went through memory.
    groups: usize,
    queue_depth: usize,
    block_size: usize,
    threads: usize,
    backends: Vec<Row>,
    /// Whether every tensor came back as it was, on every backend that is available.
    verified: bool,
}

/// What happened on one backend.
#[derive(Debug)]
pub(crate) enum Outcome {
    Done(Done),
    Failed(String),
    /// A signal ended it early, with this much done.
    Interrupted(Done),
    Unavailable(Unavailable),
}

/// All tensors went out and something came back.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// The backend, also when `auto` was asked for.
    pub(crate) backend: &'static str,
    /// Starting the engine, allocating memory and registering it with the kernel.
    pub(crate) setup: Elapsed,
    /// `None` until all of it went out.
    pub(crate) swap_out: Option<Elapsed>,
    /// `None` until all of it came back and was compared.
    pub(crate) swap_in: Option<Elapsed>,
    /// How many tensors came back as they were.
    pub(crate) verified: usize,
    /// Names of those that did not.
    pub(crate) differing: Vec<String>,
    pub(crate) paths: Paths,
    pub(crate) memory: Option<Memory>,
}

#[derive(Debug, Serialize)]
struct Row {
    backend: String,
    available: bool,
    /// Why it is not available, or what it failed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    verified: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    differing: Vec<String>,
    /// Spent before anything is timed: threads started, memory allocated and registered.
    setup_seconds: Option<f64>,
    swap_out: Option<Rate>,
    swap_in: Option<Rate>,
    paths: Option<Paths>,
    memory: Option<Memory>,
}

#[derive(Debug, Serialize)]
struct Rate {
    seconds: f64,
    gb_per_s: f64,
    cpu_seconds: f64,
    cpu_seconds_per_gb: f64,
}

impl Report {
    /// With no backend in it yet.
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
            backends: Vec::new(),
            verified: false,
        }
    }

    /// Adds what happened on `backend`.
    pub(crate) fn add(&mut self, backend: Backend, outcome: Outcome) {
        let empty = Row {
            backend: backend.to_string(),
            available: true,
            reason: None,
            verified: 0,
            differing: Vec::new(),
            setup_seconds: None,
            swap_out: None,
            swap_in: None,
            paths: None,
            memory: None,
        };
        let row = match outcome {
            Outcome::Unavailable(why) => Row { available: false, reason: Some(why.reason), ..empty },
            Outcome::Failed(reason) => Row { reason: Some(reason), ..empty },
            Outcome::Interrupted(done) => {
                self.partial = true;
                Row {
                    // Until the engine stands there is only what was asked for.
                    backend: if done.backend.is_empty() { empty.backend } else { done.backend.to_owned() },
                    reason: Some("interrupted".to_owned()),
                    verified: done.verified,
                    differing: done.differing,
                    swap_out: done.swap_out.map(|elapsed| Rate::of(self.bytes, elapsed)),
                    swap_in: done.swap_in.map(|elapsed| Rate::of(self.bytes, elapsed)),
                    ..empty
                }
            }
            Outcome::Done(done) => Row {
                backend: done.backend.to_owned(),
                verified: done.verified,
                differing: done.differing,
                setup_seconds: Some(done.setup.wall.as_secs_f64()),
                swap_out: done.swap_out.map(|elapsed| Rate::of(self.bytes, elapsed)),
                swap_in: done.swap_in.map(|elapsed| Rate::of(self.bytes, elapsed)),
                paths: Some(done.paths),
                memory: done.memory,
                ..empty
            },
        };
        self.backends.push(row);
        let all = self.backends.iter().all(|row| !row.available || row.verified == self.tensors);
        self.verified = all && !self.partial;
    }

    /// Fails, with every reason, unless everything verified.
    pub(crate) fn verdict(&self) -> Result<(), Failure> {
        let reasons: Vec<_> = self.backends.iter().filter_map(|row| row.reason_of_failure(self.tensors)).collect();
        if reasons.is_empty() { Ok(()) } else { Err(Failure::Failed(reasons.join("\n"))) }
    }
}

impl Row {
    fn reason_of_failure(&self, tensors: usize) -> Option<String> {
        const NAMED: usize = 8;
        let Self { backend, available, reason, verified, differing, .. } = self;
        match reason {
            _ if !available || *verified == tensors => None,
            Some(reason) => Some(format!("{backend}: {reason}")),
            None => {
                let named = differing.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
                let and_more = if differing.len() > NAMED { ", ..." } else { "" };
                Some(format!(
                    "{backend}: {} of {tensors} tensors came back with other bytes: {named}{and_more}",
                    differing.len()
                ))
            }
        }
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

    fn report() -> Report {
        let set = TensorSet::uniform(2, 500_000_000);
        Report::new(Path::new("/data"), Layout::Files, &AioConfig::default(), &set, 1)
    }

    fn done(verified: usize, differing: &[&str]) -> Outcome {
        let elapsed = Elapsed { wall: Duration::from_millis(500), cpu: Duration::from_millis(100) };
        Outcome::Done(Done {
            backend: "pthread",
            swap_out: Some(elapsed),
            swap_in: Some(elapsed),
            verified,
            differing: differing.iter().map(|name| (*name).to_owned()).collect(),
            ..Done::default()
        })
    }

    #[test]
    fn rates_are_decimal_gigabytes_per_second() {
        let mut report = report();
        report.add(Backend::Pthread, done(2, &[]));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["backends"][0]["swap_out"]["gb_per_s"], 2.0);
        assert_eq!(json["backends"][0]["swap_in"]["cpu_seconds_per_gb"], 0.1);
        assert_eq!((&json["verified"], &json["bytes"]), (&true.into(), &1_000_000_000.into()));
        report.verdict().unwrap();
    }

    #[test]
    fn a_backend_that_is_not_available_is_shown_and_is_no_failure() {
        let mut report = report();
        report.add(Backend::Pthread, done(2, &[]));
        report.add(Backend::Uring, Outcome::Unavailable(Unavailable::new("uring", "seccomp refuses it", None)));
        assert!(report.verified && report.verdict().is_ok());
        assert!(report.to_string().contains("uring is not available: seccomp refuses it"), "{report}");
    }

    #[test]
    fn what_was_interrupted_is_partial_and_keeps_what_was_done() {
        let mut report = report();
        report.add(Backend::Pthread, done(2, &[]));
        let Outcome::Done(half) = done(1, &[]) else { unreachable!() };
        report.add(Backend::Auto, Outcome::Interrupted(Done { swap_in: None, ..half }));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["partial"], &json["verified"]), (&true.into(), &false.into()));
        let [through, cut] = [&json["backends"][0], &json["backends"][1]];
        assert_eq!((&through["verified"], &through["swap_in"]["gb_per_s"]), (&2.into(), &2.0.into()));
        assert_eq!((&cut["backend"], &cut["reason"]), (&"pthread".into(), &"interrupted".into()));
        assert_eq!((&cut["swap_out"]["gb_per_s"], &cut["swap_in"]), (&2.0.into(), &().into()));
        let text = report.to_string();
        assert!(
            text.contains("PARTIAL") && text.contains("1 of 2, interrupted") && text.contains("2 of 2"),
            "{text}"
        );
    }

    #[test]
    fn what_differs_or_fails_is_named() {
        let mut report = report();
        report.add(Backend::Pthread, done(1, &["tensor.1"]));
        report.add(Backend::Libaio, Outcome::Failed("the disk is full".to_owned()));
        let verdict = report.verdict().unwrap_err().to_string();
        assert!(verdict.contains("pthread: 1 of 2 tensors") && verdict.contains("tensor.1"), "{verdict}");
        assert!(verdict.contains("libaio: the disk is full"), "{verdict}");
        assert!(!report.verified);
    }
}
