//! What is in flight, and what ended how.

use std::path::Path;
use std::time::Duration;

use aio::buf::AlignedBuf;
use aio::{Error, Ticket};

use super::counts::Counts;
use super::expected::{Expected, Verdict};
use super::lane::Lane;
use crate::pattern;

/// Ops with a ticket at once, and the bytes that they may have.
const MOST_TICKETS: usize = 40;
const MOST_BYTES: usize = 32 << 20;

/// The ops of a stint.
pub(super) struct Ledger<'a> {
    pub(super) lane: &'a mut Lane,
    pub(super) counts: &'a Counts,
    flying: Vec<Flight>,
    /// Ops whose tickets were dropped.
    dropped: Vec<Op>,
    /// In flight, with a ticket.
    bytes: usize,
}

/// An op, as far as it is known how it may end.
pub(super) struct Op {
    pub(super) subject: Subject,
    /// Of a write: its number.
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

/// A ticket, by the memory that it gives back.
pub(super) enum Held {
    Cells(Ticket<Vec<(u64, AlignedBuf)>>),
    Tensor(Ticket<Vec<u8>>),
}

/// How an op ended, and the memory it had, unless that stayed with it.
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

    /// An op is in flight.
    pub(super) fn add(&mut self, op: Op, ticket: Held) {
        self.bytes += op.bytes;
        self.flying.push(Flight { op, ticket });
    }

    /// Whether as much is in flight as there should be.
    pub(super) fn is_full(&self) -> bool {
        self.flying.len() > MOST_TICKETS || self.bytes > MOST_BYTES
    }

    /// Waits for all tickets.
    pub(super) fn finish_all(&mut self) {
        std::mem::take(&mut self.flying).into_iter().for_each(|flight| self.finish(flight));
    }

    /// Ends one of the ops in flight, in one of the ways in which users do.
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

    /// An op has ended, and this is how.
    pub(super) fn ended(&mut self, op: Op, Ended { error, memory }: Ended) {
        self.counts.op();
        let verdict = op.expected.judge(error.as_ref());
        match &verdict {
            Verdict::Done => {}
            Verdict::Planned => self.counts.failed_as_planned(),
            Verdict::Cancelled => self.counts.cancelled(),
            Verdict::Wrong(sentence) => self.counts.error(format!("{}: {sentence}", self.lane.name)),
        }
        let done = verdict == Verdict::Done;
        if done && op.generation.is_some() {
            self.counts.wrote(op.bytes);
        }
        match op.subject {
            Subject::Cells { file, cells } => {
                for (at, index) in cells.into_iter().enumerate() {
                    let cell = self.lane.files[file].cell(index);
                    let holds =
                        if op.generation.is_some() { op.generation.filter(|_| done) } else { cell.generation };
                    if let (true, None, Some(memory)) = (done, op.generation, memory.get(at)) {
                        let what = self.lane.path(file);
                        self.check(&what, self.lane.files[file].label, cell.offset, cell.generation, memory.bytes());
                    }
                    self.lane.files[file].release(index, holds);
                }
            }
            Subject::Tensor(index) => {
                let tensor = &self.lane.tensors[index];
                let holds = match (op.generation, done) {
                    (Some(generation), true) => Some((op.bytes, generation)),
                    (Some(_), false) => None,
                    (None, _) => tensor.holds,
                };
                if let (true, None, Some(memory)) = (done, op.generation, memory.first()) {
                    let generation = tensor.holds.map(|(_, generation)| generation);
                    self.check(&tensor.path, tensor.label, 0, generation, memory.bytes());
                }
                let tensor = &mut self.lane.tensors[index];
                tensor.holds = holds;
                tensor.busy = false;
            }
        }
    }

    fn check(&self, path: &Path, label: u64, offset: u64, generation: Option<u64>, bytes: &[u8]) {
        let sentence = match pattern::check(bytes, label, offset) {
            Ok(found) if Some(found) == generation => return self.counts.verified(bytes.len()),
            Ok(found) => format!("offset {offset} holds write {found}, and not {generation:?}"),
            Err(fault) => fault.to_string(),
        };
        self.counts.mismatch(format!("{}: {}: {sentence}", self.lane.name, path.display()));
    }

    /// An op of which nobody was told how it ended.
    pub(super) fn settle(&mut self, op: &Op) {
        self.counts.op();
        let known = !op.expected.may_fail();
        match &op.subject {
            Subject::Cells { file, cells } => {
                for index in cells {
                    let before = self.lane.files[*file].cell(*index).generation;
                    let holds = if op.generation.is_some() { op.generation.filter(|_| known) } else { before };
                    self.lane.files[*file].release(*index, holds);
                }
            }
            Subject::Tensor(index) => {
                let tensor = &mut self.lane.tensors[*index];
                if let Some(generation) = op.generation {
                    tensor.holds = known.then_some((op.bytes, generation));
                }
                tensor.busy = false;
            }
        }
    }

    /// All ops have ended; and this is what was said of those without a ticket, if anything was.
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
