//! The report for programs. [`table`](super::table), [`markdown`](super::markdown) and [`picture`](super::picture) show
//! it to people.

use aio::Backend;
use aio_core::Printable;
use serde::Serialize;

use super::contender::Entrant;
use super::contenders::{fio, ours};
use super::measure::{Measured, Summary};
use crate::cli::CompareArgs;
use crate::compare::machine::Machine;
use aio_cli::estimate::Estimate;
use aio_cli::host::page_cache::PageCache;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    schema: &'static str,
    /// Whether a signal ended it early: workloads or rounds are missing.
    pub(crate) partial: bool,
    /// The command line.
    pub(crate) command: String,
    pub(crate) machine: Machine,
    pub(crate) queue_depth: u16,
    pub(crate) rounds: u16,
    /// How long each measurement lasted at least.
    pub(crate) runtime_seconds: f64,
    /// Whether the kernel tells what is in the page cache; if not, that cold files are cold was not checked.
    pub(crate) page_cache_checked: bool,
    pub(crate) contenders: Vec<ContenderReport>,
    pub(crate) workloads: Vec<WorkloadReport>,
}

/// A contender.
#[derive(Debug, Serialize)]
pub(crate) struct ContenderReport {
    pub(crate) name: String,
    pub(crate) available: bool,
    /// Why it did not take part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// A note for the reader.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<&'static str>,
}

#[derive(Debug, Serialize)]
pub(crate) struct WorkloadReport {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) bytes: u64,
    /// None for tensors of mixed sizes.
    pub(crate) block_size: Option<usize>,
    pub(crate) files: u64,
    /// The rate of the faster fio line.
    pub(crate) best_fio_gb_per_s: Option<f64>,
    pub(crate) results: Vec<ResultReport>,
}

/// The result of one contender.
#[derive(Debug, Serialize)]
pub(crate) struct ResultReport {
    pub(crate) contender: String,
    pub(crate) rounds: usize,
    /// Of all rounds.
    pub(crate) passes: u64,
    pub(crate) gb_per_s: Option<Estimate>,
    /// The median, divided by that of the best fio line.
    pub(crate) of_best_fio: Option<f64>,
    pub(crate) cpu_seconds_per_gb: Option<Estimate>,
    /// Why there is no figure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

impl Report {
    /// A report without workloads.
    pub(crate) fn new(args: &CompareArgs, machine: Machine, contenders: Vec<ContenderReport>) -> Self {
        let words = std::env::args_os().skip(1).map(|word| Printable(word.display()).to_string());
        Self {
            schema: "aio-bench/compare/3",
            partial: false,
            command: std::iter::once("aio-bench".to_owned()).chain(words).collect::<Vec<_>>().join(" "),
            machine,
            queue_depth: args.queue_depth,
            rounds: args.rounds,
            runtime_seconds: args.runtime.as_secs_f64(),
            page_cache_checked: PageCache::counts_files_in(&args.dir),
            contenders,
            workloads: Vec::new(),
        }
    }
}

impl ContenderReport {
    /// The report of a contender.
    pub(crate) fn of(Entrant { name, contender }: &Entrant) -> Self {
        let (note, reason) = match contender {
            Ok(contender) => (contender.note(), None),
            Err(reason) => (None, Some(reason.clone())),
        };
        Self { name: name.clone(), available: reason.is_none(), reason, note }
    }
}

impl WorkloadReport {
    /// The results of all rounds, by contender.
    pub(crate) fn new(work: &Summary, field: &[Entrant], results: &[Result<Vec<Measured>, String>]) -> Self {
        let results =
            field.iter().zip(results).map(|(entrant, rounds)| ResultReport::new(entrant, work.bytes, rounds));
        let mut report = Self {
            name: work.name,
            what: work.what,
            bytes: work.bytes,
            block_size: work.block,
            files: work.files,
            best_fio_gb_per_s: None,
            results: results.collect(),
        };
        report.compare();
        report
    }

    fn compare(&mut self) {
        let is_fio = |name: &str| fio::Engine::ALL.iter().any(|engine| engine.name() == name);
        let fio = self.results.iter().filter(|result| is_fio(&result.contender));
        self.best_fio_gb_per_s = fio.filter_map(|result| Some(result.gb_per_s?.median)).max_by(f64::total_cmp);
        for result in &mut self.results {
            let rates = result.gb_per_s.zip(self.best_fio_gb_per_s);
            result.of_best_fio = rates.map(|(rate, best)| rate.median / best);
        }
    }
}

impl ResultReport {
    fn new(Entrant { name, contender }: &Entrant, bytes: u64, rounds: &Result<Vec<Measured>, String>) -> Self {
        let rounds_measured = rounds.as_deref().unwrap_or_default();
        let measured = rounds_measured.iter().map(|round| (round.passes * bytes) as f64 / 1e9).zip(rounds_measured);
        let rates = measured.clone().map(|(gigabytes, round)| gigabytes / round.elapsed.wall.as_secs_f64().max(1e-9));
        let cpu = measured.map(|(gigabytes, round)| round.elapsed.cpu.as_secs_f64() / gigabytes);
        Self {
            contender: name.clone(),
            rounds: rounds_measured.len(),
            passes: rounds_measured.iter().map(|round| round.passes).sum(),
            gb_per_s: Estimate::of(rates),
            of_best_fio: None,
            cpu_seconds_per_gb: Estimate::of(cpu),
            error: contender.as_ref().err().or(rounds.as_ref().err()).cloned(),
        }
    }

    /// The rate, or in a few words why there is none.
    pub(crate) fn rate(&self) -> Result<Estimate, String> {
        self.gb_per_s.ok_or_else(|| self.error.clone().unwrap_or_else(|| "interrupted".to_owned()))
    }

    /// Whether it is this library's.
    pub(crate) fn is_ours(&self) -> bool {
        Backend::COMPILED.iter().any(|&backend| ours::name(backend) == self.contender)
    }
}
