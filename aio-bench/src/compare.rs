//! The same work, done by each contender.

mod contender;
mod contenders;
mod files;
mod machine;
mod markdown;
mod measure;
mod model;
mod picture;
mod plan;
mod report;
mod table;
mod work;

use std::fs;
use std::path::Path;
use std::time::Duration;

use aio_core::shown;

use crate::cli::CompareArgs;
use crate::compare::machine::Machine;
use aio_cli::failure::Failure;
use aio_cli::host::disk;
use aio_cli::output::{self, Bar};
use contender::{Entrant, field};
use measure::{Measured, measure};
pub(crate) use plan::LARGE;
use plan::{Plan, plans};
use report::{ContenderReport, Report, WorkloadReport};

/// Runs the workloads and prints the results. When a signal ends it early, it prints what it has.
pub(crate) fn compare(args: &CompareArgs) -> Result<(), Failure> {
    let dir = disk::require_folder(&args.dir)?;
    let plans = chosen(args)?;
    for plan in &plans {
        // The files of one workload exist at a time.
        let (files, bytes) = plan.room();
        disk::require_room(&dir, (0..files).map(|_| bytes / files))?;
    }
    if let Some(out) = &args.out {
        // Fails now, and not after minutes of work.
        fs::create_dir_all(out).map_err(|error| Failure::Failed(format!("cannot make {}: {error}", shown(out))))?;
    }
    let mut field = field(args);
    let contenders = field.iter().map(ContenderReport::of).collect();
    let mut report = Report::new(args, Machine::of(&dir), contenders);
    let turns = plans.len() * field.len() * (usize::from(args.rounds) + 1);
    let bar = Bar::new(turns as u64, "[{bar:20}] {percent:>3}%, {eta} left  {wide_msg}");
    let mut ended = Ok(());
    for plan in plans {
        let (workload, result) = one(plan, &dir, &mut field, args, &bar);
        report.workloads.extend(workload);
        ended = result;
        if ended.is_err() {
            break;
        }
    }
    drop(bar);
    match ended {
        Err(Failure::Interrupted(_)) => report.partial = true,
        Err(failure) => return Err(failure),
        Ok(()) => {}
    }
    if let Some(out) = &args.out {
        output::to_file(&out.join("report.json"), output::json(&report)?.as_bytes())?;
        output::to_file(&out.join("report.svg"), picture::svg(&report)?.as_bytes())?;
        output::to_file(&out.join("report.md"), markdown::markdown(&report).as_bytes())?;
    }
    output::result(&report, args.json)?;
    ended
}

fn chosen(args: &CompareArgs) -> Result<Vec<Plan>, Failure> {
    let all = plans(args);
    if let Some(unknown) = args.only.iter().find(|name| all.iter().all(|plan| plan.name() != **name)) {
        let names: Vec<_> = all.iter().map(Plan::name).collect();
        return Err(Failure::Usage(format!("there is no workload {unknown:?}; there are {}", names.join(", "))));
    }
    Ok(all
        .into_iter()
        .filter(|plan| args.only.is_empty() || args.only.iter().any(|name| name == plan.name()))
        .collect())
}

/// Runs one workload: a round of one pass that does not count, then those that do, each begun by a different contender.
/// Returns what it has also when it ends early.
fn one(
    plan: Plan,
    dir: &Path,
    field: &mut [Entrant],
    args: &CompareArgs,
    bar: &Bar,
) -> (Option<WorkloadReport>, Result<(), Failure>) {
    let mut work = match plan.make(dir) {
        Ok(work) => work,
        Err(failure) => return (None, Err(failure)),
    };
    let summary = work.summary();
    let mut results: Vec<Result<Vec<Measured>, String>> = field.iter().map(|_| Ok(Vec::new())).collect();
    let mut go = || {
        for round in 0..=usize::from(args.rounds) {
            let least = if round > 0 { args.runtime } else { Duration::ZERO };
            for turn in 0..field.len() {
                let at = (turn + round) % field.len();
                let Entrant { name, contender } = &mut field[at];
                bar.inc(1);
                bar.set_message(format!("{}: {name}", summary.name));
                let (Ok(contender), Ok(samples)) = (contender, &mut results[at]) else { continue };
                match measure(&mut *work, &mut **contender, least) {
                    Ok(measured) if round > 0 => samples.push(measured),
                    Ok(_) => {}
                    Err(Failure::Failed(reason)) => results[at] = Err(reason),
                    Err(other) => return Err(other),
                }
            }
        }
        Ok(())
    };
    let ended = go();
    (Some(WorkloadReport::new(&summary, field, &results)), ended)
}
