//! The main job: write tensors to files and read them back, on every backend, several times, and compare every byte.

mod backend_pass;
mod gpt2;
mod groups;
mod parallel;
mod progress;
mod report;
pub(crate) mod tensors;
mod transfer;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use aio::backend::Unavailable;
use aio::{AioConfig, Backend};

use crate::cli::SwapArgs;
use crate::failure::Failure;
use crate::host::{disk, memory};
use crate::interrupt::{self, Made};
use crate::output;
use backend_pass::Pass;
use progress::Progress;
use report::Report;
use tensors::TensorSet;
use transfer::{Files, file_sizes};

/// Passes without `--passes`, if there is time.
const PASSES: u32 = 3;

/// The time limit for them, apart from the first.
const TIME: Duration = Duration::from_secs(60);

/// Runs the job, prints the result, and fails unless everything verified.
pub(crate) fn swap(args: &SwapArgs) -> Result<(), Failure> {
    let mut config = args.engine.config();
    config.direct = args.direct;
    config.validate_ranges()?;
    let dir = disk::require_folder(&args.dir)?;
    let usable = usable_backends(args.backend, &config)?;
    let set = tensor_set(args)?;
    let sizes: Vec<_> = set.tensors.iter().map(|tensor| tensor.bytes).collect();
    let groups = groups::plan(&sizes, memory::budget())?;
    disk::require_room(&dir, groups.iter().flat_map(|group| file_sizes(args.layout, &sizes[group.clone()])))?;

    let folder = Made::folder_in(&dir)?;
    let mut report = Report::new(&dir, args.layout, &config, &set, groups.len());
    let working: Vec<_> = usable.iter().filter(|(_, probed)| probed.is_ok()).map(|&(backend, _)| backend).collect();
    for (backend, probed) in usable {
        report.add_backend(backend, probed.err());
    }
    let mut passes = passes(&working, args.passes.unwrap_or(PASSES));
    let progress = Progress::new(set.bytes());
    let files = Files { folder: folder.path(), layout: args.layout };
    let pass = Pass { config: &config, set: &set, groups: &groups, files, progress: &progress };
    let (started, mut done) = (Instant::now(), 0);
    while let Some((number, backend)) = passes.pop_front() {
        progress.pass(number, backend, done, passes.len() + 1);
        done += 1;
        if !report.add_pass(number, backend, pass.run(backend)) {
            passes.retain(|&(_, other)| other != backend);
        }
        report.planned = passes.back().map_or(number, |&(last, _)| last);
        if report.partial {
            break;
        }
        if number == 1 && args.passes.is_none() && passes.front().is_some_and(|&(next, _)| next > 1) {
            let fit = passes_that_fit(started.elapsed());
            passes.retain(|&(number, _)| number <= fit);
        }
    }
    drop(progress);
    drop(folder);
    let printed = output::result(&report, args.json);
    // After SIGHUP the terminal takes no report; the signal is still the reason for the end.
    interrupt::check()?;
    printed?;
    report.verdict()
}

fn tensor_set(args: &SwapArgs) -> Result<TensorSet, Failure> {
    match (args.from.as_slice(), args.tensors, args.tensor_size) {
        ([], Some(count), Some(bytes)) => Ok(TensorSet::uniform(count, bytes)),
        ([], ..) => Ok(TensorSet::gpt2()),
        (paths, ..) => TensorSet::open(paths),
    }
}

/// Each pass starts with a different backend, so that effects of the device's warm-up or load spread over all.
fn passes(backends: &[Backend], count: u32) -> VecDeque<(u32, Backend)> {
    let from = |first: u32| backends.iter().cycle().skip(first as usize).take(backends.len());
    (0..count).flat_map(|pass| from(pass).map(move |&backend| (pass + 1, backend))).collect()
}

/// How many passes fit, if each takes as long as the first.
fn passes_that_fit(first: Duration) -> u32 {
    (TIME.as_secs_f64() / first.as_secs_f64().max(1e-9)).clamp(1.0, PASSES.into()) as u32
}

/// A backend, and the result of its probe.
type Probed = (Backend, Result<(), Unavailable>);

/// The backend that the user named, which has to work, or all that are compiled in, of which one has to.
fn usable_backends(asked: Option<Backend>, config: &AioConfig) -> Result<Vec<Probed>, Failure> {
    if let Some(backend) = asked {
        aio::builder().config(config.clone()).backend(backend).build()?.close()?;
        return Ok(vec![(backend, Ok(()))]);
    }
    let all: Vec<_> = Backend::COMPILED.iter().map(|&backend| (backend, backend.probe().map(drop))).collect();
    if all.iter().any(|(_, probed)| probed.is_ok()) {
        return Ok(all);
    }
    let reasons: Vec<_> = all.into_iter().filter_map(|(_, probed)| probed.err()).map(|why| why.to_string()).collect();
    Err(Failure::Failed(format!("no backend works here: {}", reasons.join("; "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_backend_is_first_and_last_as_often_as_the_others() {
        let (a, b, c) = (Backend::Uring, Backend::Libaio, Backend::Pthread);
        let expected = [(1, a), (1, b), (1, c), (2, b), (2, c), (2, a), (3, c), (3, a), (3, b)];
        assert_eq!(passes(&[a, b, c], 3), expected);
    }

    #[test]
    fn a_slow_device_has_fewer_passes_and_at_least_one() {
        for (first, passes) in [(0, 3), (20, 3), (21, 2), (30, 2), (31, 1), (3600, 1)] {
            assert_eq!(passes_that_fit(Duration::from_secs(first)), passes, "{first}");
        }
    }
}
