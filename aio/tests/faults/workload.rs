//! Random ops in flight together, against a model of the file in memory.

use std::ops::Range;
use std::path::{Path, PathBuf};

use aio::{AioFile, AioHandle, Error, Ticket};

use crate::support::random::Random;
use crate::support::{Kind, Memory, evict, pattern};

/// Length of the file at first; it grows by as much again.
const LEN: usize = 512 << 10;

/// Whether this op may fail with this error.
type Excuse<'a> = Box<dyn Fn(&Op, &Error) -> bool + 'a>;

/// A file, and what it must hold.
pub(crate) struct Workload<'a> {
    aio: &'a AioHandle,
    file: AioFile,
    content: Vec<u8>,
    random: Random,
    /// What the file holds in truth.
    pub(crate) truth: Box<dyn Fn() -> Vec<u8> + 'a>,
    /// By default none is excused.
    pub(crate) excuse: Excuse<'a>,
    /// Ops that failed.
    pub(crate) failed: usize,
}

/// One transfer.
#[derive(Debug, Clone)]
pub(crate) struct Op {
    pub(crate) write: bool,
    pub(crate) range: Range<usize>,
    /// On the thread of the user, rather than by a ticket.
    pub(crate) blocking: bool,
    content: u64,
}

impl<'a> Workload<'a> {
    /// A new file at `path`, filled.
    pub(crate) fn new(aio: &'a AioHandle, path: &Path, seed: u64) -> Self {
        let content = pattern(seed, LEN);
        let file = aio.create(path).unwrap();
        file.write(content.clone(), 0).wait().unwrap();
        let path = PathBuf::from(path);
        Self {
            aio,
            file,
            content,
            random: Random::new(seed),
            truth: Box::new(move || std::fs::read(&path).unwrap()),
            excuse: Box::new(|_, _| false),
            failed: 0,
        }
    }

    /// Runs this many batches, and ends with what the device has.
    pub(crate) fn run(&mut self, batches: usize) {
        for batch in 0..batches {
            self.batch(batch);
        }
        self.file.sync_all().wait().unwrap();
        evict(self.file.path());
        let back = self.file.read(vec![0; self.content.len()], 0).wait().unwrap();
        assert!(back == self.content, "read back after a sync: byte {:?}", first_difference(&back, &self.content));
    }

    /// Ops that are in flight together and do not overlap; then the whole file.
    pub(crate) fn batch(&mut self, batch: usize) {
        let before = self.content.clone();
        let ops = self.ops();
        let (blocking, in_flight): (Vec<_>, Vec<_>) = ops.into_iter().partition(|op| op.blocking);
        let started: Vec<_> = in_flight.into_iter().map(|op| (self.start(&op), op)).collect();
        let mut failed = Vec::new();
        for op in blocking {
            let mut memory = self.content_of(&op);
            let offset = op.range.start as u64;
            let result =
                if op.write { self.file.write_at(&memory, offset) } else { self.file.read_at(&mut memory, offset) };
            self.ended(op, result.map(|()| memory), &before, &mut failed);
        }
        for (ticket, op) in started {
            let result = ticket.wait().map_err(aio::error::OpError::into_error);
            self.ended(op, result.map(|memory| memory.bytes().to_vec()), &before, &mut failed);
        }
        self.failed += failed.len();
        self.compare(&failed, batch);
    }

    fn ops(&mut self) -> Vec<Op> {
        let random = &mut self.random;
        let (mut ops, mut at) = (Vec::new(), random.below(20_000));
        while ops.len() < 24 {
            let len = match random.below(4) {
                0 => 1 + random.below(700),
                1 => 4096 * (1 + random.below(4)),
                2 => 4000 + random.below(200),
                _ => 1 + random.below(90_000),
            };
            at = if random.one_in(2) { at.next_multiple_of(4096) } else { at + random.below(600) };
            let range = at..at + len;
            at = range.end;
            // Reads end where the file ends.
            let write = range.end > self.content.len() || random.one_in(2);
            if range.end > 2 * LEN {
                break;
            }
            ops.push(Op { write, range, blocking: random.one_in(4), content: random.next() });
        }
        ops
    }

    fn content_of(&self, op: &Op) -> Vec<u8> {
        if op.write { pattern(op.content, op.range.len()) } else { vec![0xDB; op.range.len()] }
    }

    fn start(&mut self, op: &Op) -> Ticket<Memory> {
        let len = op.range.len();
        let mut memory = self.random.of(&Kind::ALL).memory(self.aio, len);
        memory.bytes_mut().copy_from_slice(&self.content_of(op));
        let offset = op.range.start as u64;
        if op.write { self.file.write(memory, offset) } else { self.file.read(memory, offset) }
    }

    fn ended(&mut self, op: Op, result: Result<Vec<u8>, Error>, before: &[u8], failed: &mut Vec<Op>) {
        match result {
            Ok(_) if op.write => {
                let len = self.content.len().max(op.range.end);
                self.content.resize(len, 0);
                let new = self.content_of(&op);
                self.content[op.range].copy_from_slice(&new);
            }
            Ok(bytes) => {
                let expected = &before[op.range.clone()];
                assert!(bytes == expected, "{op:?}: byte {:?}", first_difference(&bytes, expected));
            }
            Err(error) => {
                assert!((self.excuse)(&op, &error), "{op:?}: {error}");
                failed.push(op);
            }
        }
    }

    /// The file has what was written; where a write failed, each byte is the old one or the new one.
    fn compare(&mut self, failed: &[Op], batch: usize) {
        let truth = (self.truth)();
        let failed: Vec<_> = failed.iter().filter(|op| op.write).collect();
        let longest = failed.iter().map(|op| op.range.end).fold(self.content.len(), usize::max);
        assert!((self.content.len()..=longest).contains(&truth.len()), "{} bytes, batch {batch}", truth.len());
        self.content.resize(truth.len(), 0);
        for op in failed {
            let new = self.content_of(op);
            for (at, new) in op.range.clone().zip(new).take_while(|(at, _)| *at < truth.len()) {
                let (old, found) = (self.content[at], truth[at]);
                assert!(found == old || found == new, "byte {at} of the failed {op:?} is neither old nor new");
                self.content[at] = found;
            }
        }
        assert!(truth == self.content, "batch {batch}: byte {:?}", first_difference(&truth, &self.content));
    }
}

fn first_difference(found: &[u8], expected: &[u8]) -> Option<usize> {
    found.iter().zip(expected).position(|(found, expected)| found != expected)
}
