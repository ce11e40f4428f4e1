//! The result of a soak.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::counts::Seen;
use super::lane::Ended;
use crate::cli::SoakArgs;
use crate::output::{self, lossy, sentence};
use crate::size;

/// The result. `docs/schema/soak.json` describes it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    schema: &'static str,
    /// Whether a signal ended it early.
    partial: bool,
    #[serde(serialize_with = "lossy")]
    dir: PathBuf,
    seed: u64,
    faults_injected: bool,
    size_bytes: u64,
    seconds: f64,
    backends: Vec<Backend>,
    /// What the process holds more of than before; `null` if nothing.
    left_behind: Option<String>,
    passed: bool,
}

#[derive(Debug, Serialize)]
struct Backend {
    backend: &'static str,
    #[serde(flatten)]
    seen: Seen,
    /// Counts by kind; `null` without --faults.
    faults_by_kind: Option<FaultsByKind>,
    /// The first errors.
    sentences: Vec<String>,
}

#[derive(Debug, Serialize)]
struct FaultsByKind {
    short_transfers: u64,
    interrupted_or_again: u64,
    delayed_blocks: u64,
    refused_submissions: u64,
    partial_submissions: u64,
    slow_reaps: u64,
    bad_pages: u64,
}

impl Report {
    pub(crate) fn new(
        args: &SoakArgs,
        seed: u64,
        took: Duration,
        lanes: Vec<Ended>,
        left_behind: Option<String>,
        partial: bool,
    ) -> Self {
        let backends: Vec<_> = lanes.into_iter().map(Backend::from).collect();
        let wrong: u64 = backends.iter().map(|lane| lane.seen.mismatches + lane.seen.errors).sum();
        Self {
            schema: "tensor-aio/soak/1",
            partial,
            dir: args.dir.clone(),
            seed,
            faults_injected: args.faults,
            size_bytes: args.size,
            seconds: took.as_secs_f64(),
            passed: wrong == 0 && left_behind.is_none(),
            backends,
            left_behind,
        }
    }

    /// What was wrong, in a sentence; `None` if nothing was.
    pub(crate) fn verdict(&self) -> Option<String> {
        let all: Seen = self.backends.iter().map(|lane| lane.seen).sum();
        let mut wrong = Vec::new();
        if all.mismatches > 0 {
            wrong.push(format!("{} cells held the wrong bytes", all.mismatches));
        }
        if all.errors > 0 {
            wrong.push(format!("unexpected errors: {}", all.errors));
        }
        if let Some(first) = self.backends.iter().find_map(|lane| lane.sentences.first()) {
            wrong.push(format!("the first: {first}"));
        }
        if let Some(left) = &self.left_behind {
            wrong.push(format!("something was left behind: {left}"));
        }
        (!wrong.is_empty()).then(|| format!("{} (--seed {})", wrong.join("; "), self.seed))
    }
}

impl From<Ended> for Backend {
    fn from(Ended { backend, seen, injected, sentences }: Ended) -> Self {
        let faults_by_kind = injected.map(|injected| FaultsByKind {
            short_transfers: injected.short,
            interrupted_or_again: injected.again,
            delayed_blocks: injected.delayed,
            refused_submissions: injected.refused_submits,
            partial_submissions: injected.partial_submits,
            slow_reaps: injected.slow_reaps,
            bad_pages: injected.bad_pages,
        });
        Self { backend, seen, faults_by_kind, sentences }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults = if self.faults_injected { "with injected faults" } else { "without injected faults" };
        writeln!(f, "{}", sentence(&format!("soak of {:.1} s {faults}, seed {}", self.seconds, self.seed)))?;
        if self.partial {
            writeln!(f, "{}", sentence(output::PARTIAL))?;
        }
        // More columns would not fit on a narrow terminal.
        let header = ["backend", "ops", "written", "verified", "faults", "failed as planned", "wrong"];
        let row = |Backend { backend, seen, .. }: &Backend| {
            [
                (*backend).to_owned(),
                seen.ops.to_string(),
                size::show(seen.bytes_written),
                size::show(seen.bytes_verified),
                seen.faults.to_string(),
                seen.failed_as_planned.to_string(),
                (seen.mismatches + seen.errors).to_string(),
            ]
        };
        write!(f, "{}", output::figures(header, self.backends.iter().map(row)))?;
        for wrong in self.backends.iter().flat_map(|lane| &lane.sentences) {
            write!(f, "\n{}", output::wrap("  ", "  ", wrong, output::width()))?;
        }
        let all: Seen = self.backends.iter().map(|lane| lane.seen).sum();
        let left = self.left_behind.as_deref().unwrap_or("nothing");
        let sum = format!(
            "{} ops, {} written, {} verified, {} faults survived; {} mismatches, {} errors",
            all.ops,
            size::show(all.bytes_written),
            size::show(all.bytes_verified),
            all.faults,
            all.mismatches,
            all.errors,
        );
        write!(f, "\n{}\n{}", sentence(&sum), sentence(&format!("left behind: {left}")))
    }
}
