//! One fio-like job through the public API of the library.

mod bare;
mod blocks;
mod drive;
mod job;
mod offsets;
mod report;
mod target;

use std::time::{Duration, Instant};

use aio::{AioConfig, AioHandle};

use crate::cli::RunArgs;
use crate::failure::Failure;
use crate::host::resident::PeakWatch;
use crate::host::{cpu, limits};
use crate::interrupt;
use crate::output;
use crate::paths::Paths;
use bare::Bare;
use drive::Limit;
use job::Job;
use offsets::Offsets;
use report::{NewFile, Report};
use target::Target;

/// Runs the job, prints what was measured, and fails if an I/O did.
pub(crate) fn run(args: &RunArgs) -> Result<(), Failure> {
    let config = config(args);
    config.validate_ranges()?;
    if args.bare {
        Bare::check(args, config.intra_op_parallelism)?;
    }
    let target = Target::look(args)?;
    let limit = limit(args, &target)?;
    if let Some(cpu) = args.cpu {
        // Before any thread of the engine starts: they inherit it.
        cpu::pin(cpu)?;
    }
    let memory = PeakWatch::start();
    let handle = AioHandle::builder().backend(args.backend).config(config).build()?;
    let (file, new) = target.open(&handle)?;
    let offsets = Offsets::new(args.op.is_random(), target.blocks(), args.block_size as u64);
    let direct = file.is_direct();
    let measured = Job { args, handle: &handle, file: &file, offsets }.measure(limit)?;
    let memory = memory.stop(measured.buffer_bytes);
    interrupt::check()?;

    let closing = Instant::now();
    file.close()?;
    let close = closing.elapsed();
    // Once the threads have ended they have told all that they did.
    handle.clone().close()?;
    let paths = Paths::from(handle.stats()).since(&measured.before);
    let new_file = new.as_ref().map(|new| NewFile::new(new, measured.drive.elapsed.wall, close));
    output::result(&Report::new(args, &handle, direct, &measured, paths, memory, new_file), args.json)?;
    if let Some(error) = measured.first_error() {
        return Err(Failure::Failed(error.to_owned()));
    }
    if let Some(new) = new {
        new.made.keep();
    }
    Ok(())
}

/// When to stop.
fn limit(args: &RunArgs, target: &Target<'_>) -> Result<Limit, Failure> {
    let block = args.block_size as u64;
    match (args.runtime, args.bytes) {
        (Some(seconds), _) => Ok(Limit::Time(Duration::from_secs_f64(seconds))),
        (None, Some(bytes)) if bytes < block => {
            Err(Failure::Usage(format!("--bytes {bytes} is less than one block of {block} bytes")))
        }
        (None, Some(bytes)) => Ok(Limit::Blocks(bytes / block)),
        (None, None) => Ok(Limit::Blocks(target.blocks())),
    }
}

/// A block of the job is a block of the engine, where the engine takes blocks that small.
fn config(args: &RunArgs) -> AioConfig {
    let page = usize::try_from(limits::page_size()).unwrap_or(4096);
    let mut config = AioConfig::default();
    config.block_size = args.block_size.checked_next_multiple_of(page).unwrap_or(usize::MAX);
    config.queue_depth = args.queue_depth;
    config.intra_op_parallelism = args.threads.unwrap_or(config.intra_op_parallelism);
    config.direct = args.direct;
    config
}
