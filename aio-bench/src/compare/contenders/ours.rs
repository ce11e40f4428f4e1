//! This library at its defaults, one backend at a time.

use std::collections::{BTreeMap, VecDeque};

use aio::buf::AlignedBuf;
use aio::error::OpError;
use aio::tensor::{SafeTensors, Tensor};
use aio::{AioFile, AioHandle, Backend, OpenOptions, Ticket};

use crate::compare::contender::{Contender, failed, timed};
use crate::compare::model::Model;
use crate::compare::plan::Start;
use crate::compare::work::Work;
use aio_cli::failure::Failure;
use aio_cli::generate;
use aio_cli::host::cpu::Elapsed;
use aio_cli::host::disk;
use aio_cli::warm_up;

/// The name in tables.
pub(crate) fn name(backend: Backend) -> String {
    format!("tensor-aio {backend}")
}

/// One engine for all workloads.
pub(crate) struct Engine {
    backend: Backend,
    handle: AioHandle,
    depth: usize,
    /// The memory of the last workload, for reuse.
    memory: Vec<AlignedBuf>,
}

impl Engine {
    /// Starts the engine, if the backend works here.
    pub(crate) fn new(backend: Backend, depth: usize) -> Result<Self, String> {
        let handle = start(backend, depth, None).map_err(|error| error.to_string())?;
        Ok(Self { backend, handle, depth, memory: Vec::new() })
    }

    /// Takes a buffer per block in flight, or per block if all blocks are one op.
    fn take_memory(&mut self, work: &Work) -> Result<Vec<AlignedBuf>, Failure> {
        let count = if work.spec.at_once { work.order().len() } else { self.depth.min(work.order().len()) };
        let mut memory = std::mem::take(&mut self.memory);
        if memory.len() != count || memory.iter().any(|buffer| buffer.len() != work.spec.block) {
            memory.clear();
            let less = match (work.spec.at_once, work.spec.file_per_block) {
                (true, _) => "a smaller --tensors or --tensor-size",
                (false, true) => "a smaller --tensor-size or --queue-depth",
                (false, false) => "a smaller --queue-depth",
            };
            memory = warm_up::allocate(&self.handle, (count, work.spec.block), less)?;
            memory.iter_mut().zip(0..).for_each(|(buffer, seed)| generate::fill(buffer, seed));
        }
        Ok(memory)
    }

    fn work(&self, work: &Work, memory: Vec<AlignedBuf>) -> Result<Vec<AlignedBuf>, Failure> {
        if work.spec.file_per_block {
            let handle = &self.handle;
            return match work.spec.writes {
                true => rolling(work, memory, |block, buffer| handle.write_new(work.place(block).0, buffer)),
                false => rolling(work, memory, |block, buffer| handle.read_path(work.place(block).0, buffer)),
            };
        }
        let file = self.open(work)?;
        let memory = match (work.spec.at_once, work.spec.writes) {
            (true, _) => vectored(work, &file, memory)?,
            (false, true) => rolling(work, memory, |block, buffer| file.write(buffer, work.place(block).1))?,
            (false, false) => rolling(work, memory, |block, buffer| file.read(buffer, work.place(block).1))?,
        };
        if work.spec.durable {
            file.sync_all().wait()?;
        }
        file.close()?;
        Ok(memory)
    }

    fn open(&self, work: &Work) -> Result<AioFile, Failure> {
        let options = OpenOptions::new().read(true).write(work.spec.writes).create_new(work.spec.start == Start::New);
        let file = self.handle.open_with(&work.files()[0], &options)?;
        if work.spec.start == Start::New {
            disk::allocate(&file, work.file_len())?;
        }
        Ok(file)
    }
}

/// An engine with these defaults; one with a limit has an arena of its own.
fn start(backend: Backend, depth: usize, arena_limit: Option<u64>) -> aio::Result<AioHandle> {
    let mut config = aio::AioConfig::default();
    (config.queue_depth, config.arena_limit) = (depth, arena_limit);
    aio::builder().backend(backend).config(config).build()
}

impl Contender for Engine {
    fn run(&mut self, work: &Work) -> Result<Elapsed, Failure> {
        let mut memory = Some(self.take_memory(work)?);
        let elapsed = timed(|| {
            memory = Some(self.work(work, memory.take().unwrap_or_default())?);
            Ok(())
        });
        self.memory = memory.unwrap_or_default();
        elapsed
    }

    /// On an engine of its own, whose memory is fresh.
    fn run_model(&mut self, model: &Model) -> Result<Elapsed, Failure> {
        /// For blocks in flight, headers, and the ends of pages.
        const SPARE: u64 = 1 << 30;
        self.memory.clear();
        let handle = start(self.backend, self.depth, Some(model.spec.bytes + SPARE))?;
        if model.saves() {
            let (options, views) = (model.options(), model.views()?);
            return timed(|| options.save(&handle, model.index(), views).map_err(failed));
        }
        let mut loaded = BTreeMap::new();
        let elapsed = timed(|| {
            loaded = SafeTensors::open(&handle, model.index()).and_then(|opened| opened.load()).map_err(failed)?;
            Ok(())
        })?;
        model.check(|tensor| loaded.get(&tensor.name).map(Tensor::bytes))?;
        Ok(elapsed)
    }
}

/// Runs an op per block, with one in flight for each of `memory`.
fn rolling(
    work: &Work,
    memory: Vec<AlignedBuf>,
    mut submit: impl FnMut(u64, AlignedBuf) -> Ticket<AlignedBuf>,
) -> Result<Vec<AlignedBuf>, Failure> {
    let mut free = memory;
    let mut in_flight: VecDeque<(u64, Ticket<AlignedBuf>)> = VecDeque::with_capacity(free.len());
    for &block in work.order() {
        let mut buffer = match free.pop() {
            Some(buffer) => buffer,
            None => match in_flight.pop_front() {
                Some((block, ticket)) => ended(work, block, ticket.wait())?,
                None => return Err(Failure::Failed("there is no memory to work with".to_owned())),
            },
        };
        if work.spec.writes {
            work.stamp(block, &mut buffer)?;
        }
        in_flight.push_back((block, submit(block, buffer)));
    }
    for (block, ticket) in in_flight {
        free.push(ended(work, block, ticket.wait())?);
    }
    Ok(free)
}

fn ended(work: &Work, block: u64, result: Result<AlignedBuf, OpError<AlignedBuf>>) -> Result<AlignedBuf, Failure> {
    let buffer = result?;
    if !work.spec.writes {
        work.check(block, &buffer)?;
    }
    Ok(buffer)
}

/// Runs one op with all blocks.
fn vectored(work: &Work, file: &AioFile, memory: Vec<AlignedBuf>) -> Result<Vec<AlignedBuf>, Failure> {
    let mut extents: Vec<_> =
        work.order().iter().zip(memory).map(|(&block, buffer)| (work.place(block).1, buffer)).collect();
    if work.spec.writes {
        for (&block, (_, buffer)) in work.order().iter().zip(&mut extents) {
            work.stamp(block, buffer)?;
        }
        extents = file.write_vectored(extents).wait()?;
    } else {
        extents = file.read_vectored(extents).wait()?;
        for (&block, (_, buffer)) in work.order().iter().zip(&extents) {
            work.check(block, buffer)?;
        }
    }
    Ok(extents.into_iter().map(|(_, buffer)| buffer).collect())
}
