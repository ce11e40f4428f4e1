//! The main job: tensors go out to files and come back, on every backend in turn, and every byte is compared.

mod backend_pass;
mod gpt2;
mod groups;
mod parallel;
mod progress;
mod report;
mod safetensors;
pub(crate) mod tensors;
mod transfer;

use aio::backend::Unavailable;
use aio::{AioConfig, Backend};

use crate::cli::SwapArgs;
use crate::failure::Failure;
use crate::host::{disk, memory};
use crate::interrupt::{self, Made};
use crate::output;
use backend_pass::Pass;
use progress::Progress;
use report::{Outcome, Report};
use tensors::TensorSet;
use transfer::{Files, file_sizes};

/// Runs the job, prints what came of it, and fails if not everything verified.
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
    let progress = Progress::new(set.bytes(), usable.iter().filter(|(_, probed)| probed.is_ok()).count());
    let files = Files { folder: folder.path(), layout: args.layout };
    let pass = Pass { config: &config, set: &set, groups: &groups, files, progress: &progress };
    for (backend, probed) in usable {
        let outcome = match probed {
            Ok(()) => pass.run(backend),
            Err(why) => Outcome::Unavailable(why),
        };
        report.add(backend, outcome);
        if report.partial {
            break;
        }
    }
    drop(progress);
    drop(folder);
    let printed = output::result(&report, args.json);
    // A terminal that went away (SIGHUP) takes no report, and the signal is still what ended it.
    interrupt::check()?;
    printed?;
    report.verdict()
}

fn tensor_set(args: &SwapArgs) -> Result<TensorSet, Failure> {
    match (args.from.as_slice(), args.tensors, args.tensor_size) {
        ([], Some(count), Some(bytes)) => Ok(TensorSet::uniform(count, bytes)),
        ([], ..) => Ok(TensorSet::gpt2()),
        (files, ..) => TensorSet::from_files(files),
    }
}

/// A backend, and what its probe said.
type Probed = (Backend, Result<(), Unavailable>);

/// The backend that was asked for, or all that are compiled in. One that was asked for has to work; of the others one
/// has to.
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
