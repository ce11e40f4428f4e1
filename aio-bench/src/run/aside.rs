//! What runs before and after the timed part, on engines of its own, so that no figure of the job counts it.

use aio::buf::AlignedBuf;
use aio::{AioConfig, AioHandle, Backend};

use super::blocks::{self, LESS};
use super::drive::{self, Drive, Limit, Plan};
use super::live::Live;
use super::mix::{Mix, Singles};
use super::target::{New, Target};
use super::verify::Verifier;
use super::watch::Observer;
use crate::cli::{Op, RunArgs, WeightedOp};
use aio_cli::failure::Failure;
use aio_cli::interrupt;
use aio_cli::warm_up::buffers;

/// The file after its first writing.
pub(crate) struct LaidOut {
    pub(crate) new: Option<New>,
    /// Knows what was written.
    pub(crate) verifier: Option<Verifier>,
}

/// The result of reading back.
pub(crate) struct ReadBack {
    pub(crate) bytes: u64,
    pub(crate) fault: Option<String>,
}

/// An engine configured like that of the job.
pub(crate) fn engine(backend: Backend, config: &AioConfig) -> Result<AioHandle, Failure> {
    Ok(aio::builder().backend(backend).config(config.clone()).build()?)
}

/// Makes the file if it does not exist, and writes all of its blocks once.
pub(crate) fn lay_out(args: &RunArgs, config: &AioConfig, target: &Target<'_>) -> Result<LaidOut, Failure> {
    let handle = engine(args.backend, config)?;
    let (file, new) = target.open(&handle)?;
    let (blocks, block_size) = (target.blocks(), args.block_size as u64);
    let mut verifier = args.verify.then(|| Verifier::new(target.path(), blocks, block_size, true)).transpose()?;
    let writes = [WeightedOp { op: Op::Write, weight: 1 }];
    let mix = Mix::new(&file, &writes, blocks, block_size, verifier.as_mut());
    let mut memory = buffers(&handle, &file, (in_flight(config, blocks), args.block_size), LESS)?;
    blocks::fill(&mut memory);
    let drive = shown("writing all of it first: ", args, blocks, memory, mix);
    interrupt::check()?;
    if let Some(error) = drive.first_error {
        return Err(Failure::Failed(error));
    }
    file.close()?;
    handle.close()?;
    Ok(LaidOut { new, verifier })
}

/// Reads and checks all that the job has written. Ends early on a signal; `None` if that came before it began.
pub(crate) fn read_back(
    args: &RunArgs,
    config: &AioConfig,
    target: &Target<'_>,
    verifier: &mut Verifier,
) -> Option<ReadBack> {
    match try_read_back(args, config, target, verifier) {
        Ok(read_back) => Some(read_back),
        Err(Failure::Interrupted(_)) => None,
        // The measurements stand, so this failure is reported with them.
        Err(failure) => {
            Some(ReadBack { bytes: 0, fault: Some(format!("cannot read back what was written: {failure}")) })
        }
    }
}

fn try_read_back(
    args: &RunArgs,
    config: &AioConfig,
    target: &Target<'_>,
    verifier: &mut Verifier,
) -> Result<ReadBack, Failure> {
    let (written, before) = (verifier.written(), verifier.bytes());
    let count = written.len() as u64;
    if count == 0 {
        return Ok(ReadBack { bytes: 0, fault: None });
    }
    let handle = engine(args.backend, config)?;
    let file = target.reopen(&handle)?;
    let memory = buffers(&handle, &file, (in_flight(config, count), args.block_size), LESS)?;
    let mix = Mix::reads_of(&file, written, verifier);
    let drive = shown("reading back: ", args, count, memory, mix);
    file.close()?;
    handle.close()?;
    Ok(ReadBack { bytes: verifier.bytes() - before, fault: drive.first_error })
}

/// Runs ops one after the other until `blocks` have moved, with a line on the terminal.
fn shown(what: &'static str, args: &RunArgs, blocks: u64, memory: Vec<AlignedBuf>, mix: Mix<'_>) -> Drive {
    let plan = Plan { ramp: None, limit: Limit::Blocks(blocks), per_op: 1 };
    let (_line, live) = Live::start(what, &plan, args.block_size as u64).unzip();
    let mut observer = Observer { live, ..Observer::default() };
    drive::tickets(&plan, memory, Singles(mix), &mut observer, || ())
}

fn in_flight(config: &AioConfig, blocks: u64) -> usize {
    let depth = config.queue_depth * config.intra_op_parallelism;
    depth.min(usize::try_from(blocks).unwrap_or(usize::MAX))
}
