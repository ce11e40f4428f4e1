//! One fio-like job through the library's public API.

mod aside;
mod bare;
mod blocks;
mod drive;
mod job;
mod live;
mod log;
mod mix;
mod offsets;
mod report;
mod target;
mod verify;
mod watch;

use std::time::Instant;

use aio::{AioConfig, AioFile, AioHandle};
use aio_core::shown;

use crate::cli::RunArgs;
use aio_cli::failure::Failure;
use aio_cli::host::resident::PeakWatch;
use aio_cli::host::{cpu, disk, limits};
use aio_cli::interrupt;
use aio_cli::output;
use aio_cli::paths::Paths;
use aio_cli::pattern;
use aside::{LaidOut, ReadBack};
use bare::Bare;
use drive::{Limit, Plan};
use job::{Job, Measured};
use live::Live;
use log::Log;
use report::{NewFile, Outcome, Report};
use target::Target;
use verify::Verifier;
use watch::{Figures, Observer, Quiet};

/// Runs the job, prints the result, and fails if an I/O failed or a block was wrong.
///
/// When a signal ends it early, it prints what it measured until then, marked as partial.
pub(crate) fn run(args: &RunArgs) -> Result<(), Failure> {
    let config = config(args);
    config.validate_ranges()?;
    check(args, &config)?;
    let target = Target::look(args)?;
    check_extents(args, &target)?;
    let plan = Plan { ramp: args.ramp, limit: limit(args, &target)?, per_op: args.extents as usize };
    if args.verify {
        check_room_to_move(args, &config, &target, &plan)?;
    }
    if let Some(cpu) = args.cpu {
        // Before the engine starts threads: they inherit it.
        cpu::pin(cpu)?;
    }
    let (log, intervals) = args.log.as_ref().map(|path| Log::create(path, args)).transpose()?.unzip();
    let laid_out = target.lays_out().then(|| aside::lay_out(args, &config, &target)).transpose()?;

    let memory = PeakWatch::start();
    let handle = aside::engine(args.backend, &config)?;
    let (file, new, mut verifier) = open(args, &target, &handle, laid_out)?;
    let direct = file.is_direct();
    let mut observer = Observer { log: intervals, ..Observer::default() };
    let job = Job { args, handle: &handle, file: &file, blocks: target.blocks(), plan, verifier: verifier.as_mut() };
    let measured = watched(job, &mut observer)?;
    if let Some(intervals) = observer.log.take() {
        intervals.finish(Instant::now());
    }
    let memory = memory.stop(measured.buffer_bytes);

    let closing = Instant::now();
    file.close()?;
    let close = closing.elapsed();
    // The counts are complete once the threads have ended.
    handle.clone().close()?;
    let paths = Paths::from(handle.stats()).since(&measured.before);
    let new_file = new.as_ref().map(|new| NewFile::new(new, measured.drive.elapsed.wall, close));
    let read_back = match &mut verifier {
        Some(verifier) if args.writes() && measured.first_error().is_none() && interrupt::check().is_ok() => {
            aside::read_back(args, &config, &target, verifier)
        }
        _ => None,
    };
    let interrupted = interrupt::check();
    let outcome = Outcome {
        direct,
        measured: &measured,
        kinds: &observer.kinds,
        paths,
        memory,
        new_file,
        verified: verifier.as_ref().map(Verifier::bytes),
        read_back: read_back.as_ref(),
        partial: interrupted.is_err(),
    };
    output::result(&Report::new(args, &handle, outcome), args.json)?;
    log.map_or(Ok(()), Log::finish)?;
    let fault = read_back.and_then(|ReadBack { fault, .. }| fault);
    if let Some(error) = measured.first_error().map(str::to_owned).or(fault) {
        return Err(Failure::Failed(error));
    }
    interrupted?;
    if let Some(new) = new {
        new.made.keep();
    }
    Ok(())
}

/// Opens the job's file, after `laid_out`, which is there for jobs that need it.
fn open(
    args: &RunArgs,
    target: &Target<'_>,
    handle: &AioHandle,
    laid_out: Option<LaidOut>,
) -> Result<(AioFile, Option<target::New>, Option<Verifier>), Failure> {
    if let Some(LaidOut { new, verifier }) = laid_out {
        return Ok((target.reopen(handle)?, new, verifier));
    }
    let (file, new) = target.open(handle)?;
    let verifier = || Verifier::new(target.path(), target.blocks(), args.block_size as u64, args.writes());
    Ok((file, new, args.verify.then(verifier).transpose()?))
}

/// Runs the job with its observers.
fn watched(job: Job<'_>, observer: &mut Observer) -> Result<Measured, Failure> {
    let (args, plan) = (job.args, job.plan);
    if args.is_mixed() {
        observer.kinds = args.ops.iter().map(|_| Figures::new()).collect();
    }
    // Beside bare calls the line would show only half of the work.
    let live = if args.bare { None } else { Live::start("", &plan, args.block_size as u64) };
    let (_line, counter) = live.unzip();
    observer.live = counter;
    if observer.is_idle() { job.measure(&mut Quiet) } else { job.measure(observer) }
}

/// Refuses options that contradict each other.
fn check(args: &RunArgs, config: &AioConfig) -> Result<(), Failure> {
    if args.bare {
        Bare::check(args, config.intra_op_parallelism)?;
    }
    for (index, op) in args.ops.iter().enumerate() {
        if args.ops[..index].iter().any(|earlier| earlier.op == op.op) {
            return Err(Failure::Usage(format!("--op {} is given twice: one weight says it", op.op.name())));
        }
    }
    if let Some(log) = args.log.as_ref().filter(|log| disk::is_same_place(log, &args.file)) {
        return Err(Failure::Usage(format!("--file and --log are the same file, {}", shown(log))));
    }
    if args.verify && args.block_size < pattern::SMALLEST {
        return Err(Failure::Usage(format!(
            "--verify needs blocks of at least {} bytes, to write there what they are: --block-size is {}",
            pattern::SMALLEST,
            args.block_size
        )));
    }
    Ok(())
}

/// Fails if an op has more blocks than the file: some would be in it twice.
fn check_extents(args: &RunArgs, target: &Target<'_>) -> Result<(), Failure> {
    if u64::from(args.extents) <= target.blocks() {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "--extents {} is more than the {} blocks that are used of {}: fewer --extents, or a larger --size helps",
        args.extents,
        target.blocks(),
        shown(target.path())
    )))
}

/// Fails if the file has too few blocks. A block that is being written must be in no other op, so one is always free
/// only if the file has as many blocks as can be in flight.
fn check_room_to_move(args: &RunArgs, config: &AioConfig, target: &Target<'_>, plan: &Plan) -> Result<(), Failure> {
    let depth = job::depth(args, config.intra_op_parallelism) as u64;
    let in_flight = match plan.limit {
        Limit::Blocks(blocks) if plan.ramp.is_none() => blocks.min(depth),
        _ => depth,
    };
    if !args.writes() || in_flight <= target.blocks() {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "with --verify a block that is written is in flight alone, and {in_flight} blocks in flight are more than the \
         {} that are used of {}: a smaller --queue-depth, fewer --threads or --extents, or a larger --size helps",
        target.blocks(),
        shown(target.path())
    )))
}

/// When to stop.
fn limit(args: &RunArgs, target: &Target<'_>) -> Result<Limit, Failure> {
    let block = args.block_size as u64;
    match (args.runtime, args.bytes) {
        (Some(time), _) => Ok(Limit::Time(time)),
        (None, Some(bytes)) if bytes < block => {
            Err(Failure::Usage(format!("--bytes {bytes} is less than one block of {block} bytes")))
        }
        (None, Some(bytes)) => Ok(Limit::Blocks(bytes / block)),
        (None, None) => Ok(Limit::Blocks(target.blocks())),
    }
}

/// The engine's configuration: its block is the job's, unless the engine takes no block that small.
fn config(args: &RunArgs) -> AioConfig {
    let page = usize::try_from(limits::page_size()).unwrap_or(4096);
    let mut config = AioConfig::default();
    config.block_size = args.block_size.checked_next_multiple_of(page).unwrap_or(usize::MAX);
    config.queue_depth = args.queue_depth;
    config.intra_op_parallelism = args.threads.unwrap_or(config.intra_op_parallelism);
    config.direct = args.direct;
    config
}
