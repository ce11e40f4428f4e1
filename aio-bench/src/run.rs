//! One fio-like job through the public API of the library.

mod drive;
mod offsets;
mod report;
mod target;

use std::time::Duration;

use aio::{AioConfig, AioFile, AioHandle, AlignedBuf};

use crate::cli::RunArgs;
use crate::failure::Failure;
use crate::generate;
use crate::host::{cpu, limits};
use crate::interrupt;
use crate::output;
use crate::warm_up::warm_up;
use drive::{Drive, Limit};
use offsets::Offsets;
use report::Report;
use target::Target;

/// Runs the job, prints what was measured, and fails if an I/O did.
pub(crate) fn run(args: &RunArgs) -> Result<(), Failure> {
    let config = config(args);
    config.validate_ranges()?;
    let target = Target::look(args)?;
    let limit = limit(args, &target)?;
    if let Some(cpu) = args.cpu {
        // Before any thread of the engine starts: they inherit it.
        cpu::pin(cpu)?;
    }
    let handle = AioHandle::builder().backend(args.backend).config(config).build()?;
    let (file, made) = target.open(&handle)?;
    let offsets = Offsets::new(args.op.is_random(), target.blocks(), args.block_size as u64);
    let job = Job { args, handle: &handle, file: &file, offsets };
    let drive = job.measure(limit)?;
    interrupt::check()?;

    let report = Report::new(args, &handle, &file, &drive);
    file.close()?;
    handle.close()?;
    output::result(&report, args.json)?;
    if let Some(error) = drive.first_error {
        return Err(Failure::Failed(error));
    }
    if let Some(made) = made {
        made.keep();
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

/// All that the timed part needs, ready.
struct Job<'a> {
    args: &'a RunArgs,
    handle: &'a AioHandle,
    file: &'a AioFile,
    offsets: Offsets,
}

impl Job<'_> {
    fn measure(self, limit: Limit) -> Result<Drive, Failure> {
        let extents = self.args.extents as usize;
        let depth = self.args.queue_depth * self.handle.config().intra_op_parallelism;
        match (depth, extents) {
            (1, 1) => self.blocking(limit),
            (_, 1) => self.one_by_one(limit, depth),
            _ => self.vectored(limit, depth.div_ceil(extents), extents),
        }
    }

    /// Blocking calls: what there is to measure at queue depth 1.
    fn blocking(mut self, limit: Limit) -> Result<Drive, Failure> {
        let mut buffers = self.buffers(1)?;
        let (file, offsets, buffer) = (self.file, &mut self.offsets, &mut buffers[0]);
        Ok(match self.args.op.writes() {
            true => drive::blocking(limit, || file.write_at(buffer, offsets.next())),
            false => drive::blocking(limit, || file.read_at(buffer, offsets.next())),
        })
    }

    /// An op and a ticket per block.
    fn one_by_one(mut self, limit: Limit, ops: usize) -> Result<Drive, Failure> {
        let buffers = self.buffers(ops)?;
        let (file, offsets) = (self.file, &mut self.offsets);
        Ok(match self.args.op.writes() {
            true => drive::tickets(limit, 1, buffers, |buffer, _| file.write(buffer, offsets.next())),
            false => drive::tickets(limit, 1, buffers, |buffer, _| file.read(buffer, offsets.next())),
        })
    }

    /// Vectored ops of several blocks.
    fn vectored(mut self, limit: Limit, ops: usize, extents: usize) -> Result<Drive, Failure> {
        let mut buffers = self.buffers(ops * extents)?.into_iter().map(|buffer| (0, buffer));
        let buffers = (0..ops).map(|_| buffers.by_ref().take(extents).collect::<Vec<_>>()).collect();
        let (file, offsets) = (self.file, &mut self.offsets);
        let mut place = |mut op: Vec<(u64, AlignedBuf)>, blocks: usize| {
            op.truncate(blocks);
            op.iter_mut().for_each(|(offset, _)| *offset = offsets.next());
            op
        };
        Ok(match self.args.op.writes() {
            true => drive::tickets(limit, extents, buffers, |op, blocks| file.write_vectored(place(op, blocks))),
            false => drive::tickets(limit, extents, buffers, |op, blocks| file.read_vectored(place(op, blocks))),
        })
    }

    /// Memory for as many blocks, ready for use, with something in it: devices and file systems have short cuts for
    /// zeros.
    fn buffers(&self, blocks: usize) -> Result<Vec<AlignedBuf>, Failure> {
        let allocate = |_| {
            interrupt::check()?;
            Ok(self.handle.arena().try_alloc(self.args.block_size)?)
        };
        let buffers = (0..blocks).map(allocate).collect::<Result<Vec<_>, Failure>>()?;
        let mut buffers = warm_up(self.file, buffers)?;
        buffers.iter_mut().zip(0..).for_each(|(buffer, seed)| generate::fill(buffer, seed));
        Ok(buffers)
    }
}
