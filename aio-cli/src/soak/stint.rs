//! The work done with one handle.

use aio::{AioFile, AioHandle};

use super::cells;
use super::counts::Counts;
use super::expected::Expected;
use super::lane::Lane;
use super::ledger::{Ended, Held, Ledger, Memory, Op, Subject};
use crate::failure::Failure;
use crate::pattern::{self, Label};

/// A handle, its files, and what is in flight.
pub(crate) struct Stint<'a> {
    ledger: Ledger<'a>,
    handle: AioHandle,
    files: Vec<AioFile>,
}

impl<'a> Stint<'a> {
    /// Opens the files, and cuts some of them anew.
    pub(crate) fn begin(lane: &'a mut Lane, handle: AioHandle, counts: &'a Counts) -> Result<Self, Failure> {
        let mut files = Vec::new();
        for index in 0..lane.files.len() {
            let file = handle.create(lane.path(index))?;
            if lane.random.below(4) == 0 {
                lane.files[index].cut(&mut lane.random);
                if lane.random.below(2) == 0 {
                    file.set_len(0).wait()?;
                }
            }
            files.push(file);
        }
        Ok(Self { ledger: Ledger::new(lane, counts), handle, files })
    }

    /// Starts and ends some hundred ops, or fewer if `until` becomes true; now and then, and at the end, checks
    /// everything of known content.
    pub(crate) fn run(mut self, until: &dyn Fn() -> bool) -> Result<(), Failure> {
        if until() || self.ledger.below(4) == 0 {
            self.check_all()?;
        }
        for _ in 0..50 + self.ledger.below(1000) {
            if until() {
                break;
            }
            self.turn()?;
            if let Some(plan) = &self.ledger.lane.plan {
                let injected = plan.injected().total();
                self.ledger.counts.count(|seen| seen.faults = injected);
            }
        }
        self.end();
        Ok(())
    }

    fn turn(&mut self) -> Result<(), Failure> {
        match self.ledger.below(100) {
            0..30 => self.cells(true)?,
            30..56 => self.cells(false)?,
            56..63 => self.scope(),
            63..72 => self.blocking(),
            72..80 => self.tensor(),
            80..83 => self.sync(),
            83..85 => self.wait_all(),
            _ => self.ledger.finish_any(),
        }
        while self.ledger.is_full() {
            self.ledger.finish_any();
        }
        Ok(())
    }

    /// Claims up to `most` cells of one file for one op. `None` if there are none now.
    fn claim(&mut self, write: bool, most: usize, validate: bool) -> Option<Op> {
        let file = self.ledger.below(self.files.len());
        let count = 1 + self.ledger.below(most);
        let Lane { files, random, .. } = &mut *self.ledger.lane;
        let cells: Vec<_> = (0..count).map_while(|_| files[file].claim(write, random)).collect();
        (!cells.is_empty()).then(|| self.op(file, cells, write, validate))
    }

    fn op(&mut self, file: usize, cells: Vec<usize>, write: bool, validate: bool) -> Op {
        let generation = write.then(|| self.ledger.lane.next_generation());
        let stretches: Vec<_> = cells.iter().map(|cell| self.stretch(file, *cell)).collect();
        let bytes = stretches.iter().map(|(_, len)| len).sum();
        let expected = Expected::new(self.ledger.lane.plan.as_deref(), write, validate, stretches);
        Op { subject: Subject::Cells { file, cells }, generation, expected, bytes }
    }

    /// Offset and length of a cell.
    fn stretch(&self, file: usize, cell: usize) -> (u64, usize) {
        let cell = self.ledger.lane.files[file].cell(cell);
        (cell.offset, cell.len)
    }

    fn with_options(&mut self, file: usize, validate: bool) -> AioFile {
        let durable = self.ledger.below(8) == 0;
        let file = self.files[file].validated(validate).durable(durable);
        if self.ledger.below(4) == 0 { file.background() } else { file }
    }

    fn cells(&mut self, write: bool) -> Result<(), Failure> {
        let validate = self.ledger.below(10) == 0;
        match self.claim(write, 4, validate) {
            Some(op) => self.start(op, validate),
            None => {
                self.ledger.finish_any();
                Ok(())
            }
        }
    }

    /// Starts an op on cells, with a ticket.
    fn start(&mut self, op: Op, validate: bool) -> Result<(), Failure> {
        let Subject::Cells { file, cells } = &op.subject else { return Ok(()) };
        let file = *file;
        let mut extents = Vec::new();
        for (offset, len) in cells.iter().map(|cell| self.stretch(file, *cell)) {
            let mut buffer = self.handle.alloc(len)?;
            self.prepare(&mut buffer, file, offset, op.generation);
            extents.push((offset, buffer));
        }
        let file = self.with_options(file, validate);
        let ticket = if op.generation.is_some() { file.write_vectored(extents) } else { file.read_vectored(extents) };
        self.ledger.add(op, Held::Cells(ticket));
        Ok(())
    }

    /// Fills memory with what to write, or, for a read, with bytes that no file holds.
    fn prepare(&self, memory: &mut [u8], file: usize, offset: u64, generation: Option<u64>) {
        match generation {
            Some(generation) => {
                pattern::fill(memory, Label { file: self.ledger.lane.files[file].label, offset, generation })
            }
            None => memory.fill(0xDB),
        }
    }

    /// Reads or writes in a scope, on borrowed memory at an odd address.
    fn scope(&mut self) {
        let mut ops = Vec::new();
        for _ in 0..=self.ledger.below(4) {
            let write = self.ledger.below(2) == 0;
            let validate = self.ledger.below(10) == 0;
            let Some(op) = self.claim(write, 1, validate) else { break };
            let Subject::Cells { file, cells } = &op.subject else { continue };
            let (file, (offset, len)) = (*file, self.stretch(*file, cells[0]));
            let mut memory = vec![0; len + 1];
            self.prepare(&mut memory[1..], file, offset, op.generation);
            ops.push((op, self.with_options(file, validate), offset, memory));
        }
        let result = self.handle.scope(|scope| {
            for (op, file, offset, memory) in &mut ops {
                match op.generation {
                    Some(_) => scope.write(file, &memory[1..], *offset),
                    None => scope.read(file, &mut memory[1..], *offset),
                }
            }
        });
        self.ledger.explain(ops.iter().map(|(op, ..)| op), result);
        for (op, _, _, mut memory) in ops {
            if op.expected.may_fail() {
                self.ledger.settle(&op);
            } else {
                memory.remove(0);
                self.ledger.ended(op, Ended { error: None, memory: vec![Memory::Vec(memory)] });
            }
        }
    }

    fn blocking(&mut self) {
        let write = self.ledger.below(2) == 0;
        let validate = self.ledger.below(10) == 0;
        let Some(op) = self.claim(write, 1, validate) else { return };
        let Subject::Cells { file, cells } = &op.subject else { return };
        let (file, (offset, len)) = (*file, self.stretch(*file, cells[0]));
        let mut memory = vec![0; len];
        self.prepare(&mut memory, file, offset, op.generation);
        let file = self.with_options(file, validate);
        let result = if write { file.write_at(&memory, offset) } else { file.read_at(&mut memory, offset) };
        self.ledger.ended(op, Ended { error: result.err(), memory: vec![Memory::Vec(memory)] });
    }

    /// Writes or reads a file by path.
    fn tensor(&mut self) {
        let index = self.ledger.below(self.ledger.lane.tensors.len());
        if self.ledger.lane.tensors[index].busy {
            return self.ledger.finish_any();
        }
        self.ledger.lane.tensors[index].busy = true;
        let write = self.ledger.lane.tensors[index].holds.is_none() || self.ledger.below(2) == 0;
        let len = match self.ledger.lane.tensors[index].holds {
            Some((len, _)) if !write => len,
            _ => cells::length(&mut self.ledger.lane.random) as usize,
        };
        let generation = write.then(|| self.ledger.lane.next_generation());
        let tensor = &self.ledger.lane.tensors[index];
        let expected = Expected::new(self.ledger.lane.plan.as_deref(), write, false, [(0, len)]);
        let mut memory = vec![0xDB; len];
        let (path, label) = (tensor.path.clone(), tensor.label);
        let handle = self.handle.durable(self.ledger.below(8) == 0);
        let ticket = match generation {
            Some(generation) => {
                pattern::fill(&mut memory, Label { file: label, offset: 0, generation });
                if path.exists() { handle.write_path(&path, memory) } else { handle.write_new(&path, memory) }
            }
            None => handle.read_path(&path, memory),
        };
        let op = Op { subject: Subject::Tensor(index), generation, expected, bytes: len };
        self.ledger.add(op, Held::Tensor(ticket));
    }

    fn sync(&mut self) {
        let file = self.ledger.below(self.files.len());
        let file = &self.files[file];
        let ticket = if self.ledger.lane.random.below(2) == 0 { file.sync_data() } else { file.sync_all() };
        self.ledger.counts.count(|seen| seen.ops += 1);
        if let Err(failed) = ticket.wait() {
            self.ledger.counts.error(failed.to_string());
        }
    }

    fn wait_all(&mut self) {
        let result = self.handle.wait().map(drop);
        self.ledger.settle_dropped(Some(result));
    }

    /// Reads everything of known content.
    fn check_all(&mut self) -> Result<(), Failure> {
        for file in 0..self.files.len() {
            for cells in self.ledger.lane.files[file].claim_all().chunks(8) {
                let op = self.op(file, cells.to_vec(), false, false);
                self.start(op, false)?;
                if self.ledger.is_full() {
                    self.ledger.finish_all();
                }
            }
        }
        self.ledger.finish_all();
        Ok(())
    }

    /// Closes or drops the handle, with or without ops in flight.
    fn end(mut self) {
        let way = self.ledger.below(3);
        if way == 0 {
            self.ledger.finish_all();
        }
        let Self { mut ledger, handle, files } = self;
        drop(files);
        if way < 2 {
            let closed = handle.close();
            ledger.settle_dropped(Some(closed));
        } else {
            drop(handle);
            ledger.settle_dropped(None);
        }
        ledger.finish_all();
    }
}
