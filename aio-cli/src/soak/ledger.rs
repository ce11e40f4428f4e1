//! Ops in flight, and how they ended.

use std::path::Path;
use std::time::Duration;

use aio::buf::AlignedBuf;
use aio::{Error, Ticket};
use aio_core::shown;

use super::counts::Counts;
use super::expected::{Expected, Verdict};
use super::lane::{Lane, Tensor};
use crate::pattern;

/// The most ops with a ticket at once, and their bytes.
const MOST_TICKETS: usize = 40;
const MOST_BYTES: usize = 32 << 20;

/// The ops of a stint.
pub(super) struct Ledger<'a> {
    pub(super) lane: &'a mut Lane,
    pub(super) counts: &'a Counts,
    flying: Vec<Flight>,
    /// Ops whose tickets were dropped.
    dropped: Vec<Op>,
    /// Bytes in flight, with a ticket.
    bytes: usize,
}

/// An op, and how it may end.
pub(super) struct Op {
    pub(super) subject: Subject,
    /// The number of a write.
    pub(super) generation: Option<u64>,
    pub(super) expected: Expected,
    pub(super) bytes: usize,
}

/// What it reads or writes.
pub(super) enum Subject {
    Cells { file: usize, cells: Vec<usize> },
    Tensor(usize),
}

struct Flight {
    op: Op,
    ticket: Held,
}

/// A ticket, by the memory that it returns.
pub(super) enum Held {
    Cells(Ticket<Vec<(u64, AlignedBuf)>>),
    Tensor(Ticket<Vec<u8>>),
}

/// How an op ended, and its memory, unless the op kept that.
pub(super) struct Ended {
    pub(super) error: Option<Error>,
    pub(super) memory: Vec<Memory>,
}

pub(super) enum Memory {
    Aligned(AlignedBuf),
    Vec(Vec<u8>),
}

impl<'a> Ledger<'a> {
    pub(super) fn new(lane: &'a mut Lane, counts: &'a Counts) -> Self {
        Self { lane, counts, flying: Vec::new(), dropped: Vec::new(), bytes: 0 }
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.lane.random.below(bound as u64) as usize
    }

    /// Adds an op in flight.
    pub(super) fn add(&mut self, op: Op, ticket: Held) {
        self.bytes += op.bytes;
        self.flying.push(Flight { op, ticket });
    }

    /// Whether enough is in flight.
    pub(super) fn is_full(&self) -> bool {
        self.flying.len() > MOST_TICKETS || self.bytes > MOST_BYTES
    }

    /// Waits for all tickets.
    pub(super) fn finish_all(&mut self) {
        std::mem::take(&mut self.flying).into_iter().for_each(|flight| self.finish(flight));
    }

    /// Ends one of the ops in flight, in one of the ways in which a user can.
    pub(super) fn finish_any(&mut self) {
        if self.flying.is_empty() {
            return;
        }
        let index = self.below(self.flying.len());
        let mut flight = self.flying.swap_remove(index);
        let way = self.below(12);
        if way < 2 {
            flight.op.expected.cancel();
            flight.ticket.cancel();
        }
        match way {
            1 | 2 => {
                self.bytes -= flight.op.bytes;
                self.dropped.push(flight.op);
            }
            3 => match flight.ticket.wait_timeout(Duration::from_millis(1)) {
                Ok(true) => self.finish(flight),
                Ok(false) => self.flying.push(flight),
                Err(error) => self.counts.error(error.to_string()),
            },
            _ => self.finish(flight),
        }
    }

    fn finish(&mut self, Flight { op, ticket }: Flight) {
        self.bytes -= op.bytes;
        let ended = ticket.wait();
        self.ended(op, ended);
    }

    /// Judges an ended op.
    pub(super) fn ended(&mut self, op: Op, Ended { error, memory }: Ended) {
        self.counts.count(|seen| seen.ops += 1);
        let verdict = op.expected.judge(error.as_ref());
        match &verdict {
            Verdict::Done => {}
            Verdict::Planned => self.counts.count(|seen| seen.failed_as_planned += 1),
            Verdict::Cancelled => self.counts.count(|seen| seen.cancelled += 1),
            Verdict::Wrong(sentence) => self.counts.error(format!("{}: {sentence}", self.lane.name)),
        }
        let done = verdict == Verdict::Done;
        if done && op.generation.is_some() {
            self.counts.count(|seen| seen.bytes_written += op.bytes as u64);
        }
        if done && op.generation.is_none() {
            self.verify(&op, &memory);
        }
        self.release(&op, done);
    }

    /// Compares the bytes of a read with the last write.
    fn verify(&self, op: &Op, memory: &[Memory]) {
        match &op.subject {
            Subject::Cells { file, cells } => {
                let (path, cells_of) = (self.lane.path(*file), &self.lane.files[*file]);
                for (index, memory) in cells.iter().zip(memory) {
                    let cell = cells_of.cell(*index);
                    self.check(&path, cells_of.label, cell.offset, cell.generation, memory.bytes());
                }
            }
            Subject::Tensor(index) => {
                let Tensor { path, label, holds, .. } = &self.lane.tensors[*index];
                let generation = holds.map(|(_, generation)| generation);
                memory.iter().for_each(|memory| self.check(path, *label, 0, generation, memory.bytes()));
            }
        }
    }

    /// Frees the cells of an op. After a write that succeeded their content is known; after any other it is not.
    fn release(&mut self, op: &Op, done: bool) {
        match &op.subject {
            Subject::Cells { file, cells } => {
                let cells_of = &mut self.lane.files[*file];
                for index in cells {
                    let before = cells_of.cell(*index).generation;
                    cells_of.release(*index, op.generation.map_or(before, |generation| done.then_some(generation)));
                }
            }
            Subject::Tensor(index) => {
                let tensor = &mut self.lane.tensors[*index];
                if let Some(generation) = op.generation {
                    tensor.holds = done.then_some((op.bytes, generation));
                }
                tensor.busy = false;
            }
        }
    }

    fn check(&self, path: &Path, label: u64, offset: u64, generation: Option<u64>, bytes: &[u8]) {
        let sentence = match pattern::check(bytes, label, offset) {
            Ok(found) if Some(found) == generation => {
                return self.counts.count(|seen| seen.bytes_verified += bytes.len() as u64);
            }
            Ok(found) => format!("offset {offset} holds write {found}, and not {generation:?}"),
            Err(fault) => fault.to_string(),
        };
        self.counts.mismatch(format!("{}: {}: {sentence}", self.lane.name, shown(path)));
    }

    /// Frees the cells of an op whose result is unknown.
    pub(super) fn settle(&mut self, op: &Op) {
        self.counts.count(|seen| seen.ops += 1);
        self.release(op, !op.expected.may_fail());
    }

    /// Frees the cells of ops without a ticket, which have all ended; `result` is what the engine reported of them.
    pub(super) fn settle_dropped(&mut self, result: Option<aio::Result<()>>) {
        let dropped = std::mem::take(&mut self.dropped);
        if let Some(result) = result {
            self.explain(dropped.iter(), result);
        }
        for op in &dropped {
            self.settle(op);
        }
    }

    pub(super) fn explain<'b>(&self, ops: impl Iterator<Item = &'b Op>, result: aio::Result<()>) {
        let errors = match result {
            Ok(()) => Vec::new(),
            Err(Error::Failures(failures)) => failures.errors,
            Err(error) => vec![error],
        };
        let ops: Vec<_> = ops.map(|op| &op.expected).collect();
        if let Some(sentence) = Expected::explain(&ops, &errors) {
            self.counts.error(format!("{}: {sentence}", self.lane.name));
        }
    }
}

impl Held {
    fn cancel(&self) {
        match self {
            Self::Cells(ticket) => ticket.cancel(),
            Self::Tensor(ticket) => ticket.cancel(),
        }
    }

    fn wait_timeout(&self, timeout: Duration) -> aio::Result<bool> {
        match self {
            Self::Cells(ticket) => ticket.wait_timeout(timeout),
            Self::Tensor(ticket) => ticket.wait_timeout(timeout),
        }
    }

    fn wait(self) -> Ended {
        match self {
            Self::Cells(ticket) => match ticket.wait() {
                Ok(extents) => {
                    let memory = extents.into_iter().map(|(_, buffer)| Memory::Aligned(buffer)).collect();
                    Ended { error: None, memory }
                }
                Err(failed) => Ended { error: Some(failed.into_error()), memory: Vec::new() },
            },
            Self::Tensor(ticket) => match ticket.wait() {
                Ok(buffer) => Ended { error: None, memory: vec![Memory::Vec(buffer)] },
                Err(failed) => Ended { error: Some(failed.into_error()), memory: Vec::new() },
            },
        }
    }
}

impl Memory {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Aligned(buffer) => buffer,
            Self::Vec(bytes) => bytes,
        }
    }
}
