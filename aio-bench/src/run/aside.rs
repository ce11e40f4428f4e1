//! What comes before and after the timed part, on engines of its own: so nothing of it is in a figure of the job.

use aio::{AioConfig, AioHandle, Backend};

use super::blocks;
use super::drive::{self, Drive, Limit, Plan};
use super::mix::{Mix, Singles};
use super::target::{New, Target};
use super::verify::Verifier;
use super::watch::Quiet;
use crate::cli::{Op, RunArgs, WeightedOp};
use crate::failure::Failure;
use crate::interrupt;

/// What was written first.
pub(crate) struct LaidOut {
    pub(crate) new: Option<New>,
    /// Knows it.
    pub(crate) verifier: Option<Verifier>,
}

/// What was read in the end.
pub(crate) struct ReadBack {
    pub(crate) bytes: u64,
    pub(crate) fault: Option<String>,
}

/// An engine like that of the job.
pub(crate) fn engine(backend: Backend, config: &AioConfig) -> Result<AioHandle, Failure> {
    Ok(AioHandle::builder().backend(backend).config(config.clone()).build()?)
}

/// Makes the file if it is not there, and writes all of its blocks, once.
pub(crate) fn lay_out(args: &RunArgs, config: &AioConfig, target: &Target<'_>) -> Result<LaidOut, Failure> {
    let handle = engine(args.backend, config)?;
    let (file, new) = target.open(&handle)?;
    let (blocks, block_size) = (target.blocks(), args.block_size as u64);
    let mut verifier = args.verify.then(|| Verifier::new(target.path(), blocks, block_size, true)).transpose()?;
    let writes = [WeightedOp { op: Op::Write, weight: 1 }];
    let mix = Mix::new(&file, &writes, blocks, block_size, verifier.as_mut());
    let mut memory = blocks::aligned(&handle, &file, in_flight(config, blocks), args.block_size)?;
    blocks::fill(&mut memory);
    let drive = drive::tickets(&all(blocks), memory, Singles(mix), &mut Quiet, || ());
    interrupt::check()?;
    if let Some(error) = drive.first_error {
        return Err(Failure::Failed(error));
    }
    file.close()?;
    handle.close()?;
    Ok(LaidOut { new, verifier })
}

/// Reads all that the job has written, and checks it. Ends early when a signal asks for it.
pub(crate) fn read_back(
    args: &RunArgs,
    config: &AioConfig,
    target: &Target<'_>,
    verifier: &mut Verifier,
) -> Result<ReadBack, Failure> {
    let written = verifier.written();
    if written.is_empty() {
        return Ok(ReadBack { bytes: 0, fault: None });
    }
    let handle = engine(args.backend, config)?;
    let file = target.reopen(&handle)?;
    let count = written.len() as u64;
    let memory = blocks::aligned(&handle, &file, in_flight(config, count), args.block_size)?;
    let mix = Mix::reads_of(&file, written, verifier);
    let Drive { blocks, first_error, .. } = drive::tickets(&all(count), memory, Singles(mix), &mut Quiet, || ());
    file.close()?;
    handle.close()?;
    // A block that is not what it should be was read, too.
    let bad = u64::from(first_error.is_some());
    Ok(ReadBack { bytes: blocks.saturating_sub(bad) * args.block_size as u64, fault: first_error })
}

fn all(blocks: u64) -> Plan {
    Plan { ramp: None, limit: Limit::Blocks(blocks), per_op: 1 }
}

fn in_flight(config: &AioConfig, blocks: u64) -> usize {
    let depth = config.queue_depth * config.intra_op_parallelism;
    depth.min(usize::try_from(blocks).unwrap_or(usize::MAX))
}
