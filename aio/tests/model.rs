//! Random sequences of ops against a model of the file in memory, on each backend and in each file mode.
//!
//! Ops that are in flight together never overlap in bytes when one of them writes, but they share pages on purpose:
//! their ranges are cut next to each other out of the same few pages.

mod support;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use aio::error::OpError;
use aio::{AioFile, AioHandle, Backend, DirectMode, Error, Ticket};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use support::{Folder, Kind, Memory, backends, pattern};

/// One sequence.
#[derive(Debug, Clone)]
struct Case {
    workers: usize,
    depth: usize,
    block_size: usize,
    overlap: bool,
    single_submit: bool,
    preallocate: bool,
    /// Length of the file at first.
    len: usize,
    /// Whether it lies in the page cache at first.
    resident: bool,
    batches: Vec<Batch>,
}

/// What is in flight together, and what comes before it.
#[derive(Debug, Clone)]
struct Batch {
    before: Between,
    /// First byte of the first op.
    start: usize,
    ops: Vec<Op>,
    sync: bool,
}

#[derive(Debug, Clone)]
enum Between {
    Nothing,
    SetLen(usize),
    PunchHole(usize, usize),
    Allocate(usize, usize),
    Sync,
    Reopen,
}

#[derive(Debug, Clone)]
struct Op {
    write: bool,
    way: Way,
    memory: Kind,
    background: bool,
    validate: bool,
    /// Each with the gap before it; laid out one after the other, so that no two overlap.
    extents: Vec<(usize, usize)>,
    /// The extents of a vectored op are given in this order: as they are, or the other way round.
    reversed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Ticket,
    Dropped,
    Cancelled,
    CancelledAndDropped,
    Scope,
    Blocking,
}

fn lens() -> impl Strategy<Value = usize> {
    prop_oneof![
        1 => Just(0usize),
        3 => 1..700usize,
        2 => Just(512usize),
        3 => (1..5usize).prop_map(|pages| pages * 4096),
        3 => 4000..4200usize,
        2 => 4096..40_000usize,
        1 => 40_000..90_000usize,
    ]
}

fn gaps() -> impl Strategy<Value = usize> {
    prop_oneof![
        6 => Just(0usize),
        3 => 1..600usize,
        2 => (1..4usize).prop_map(|pages| pages * 4096),
        1 => 600..9000usize,
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    let way = prop_oneof![
        5 => Just(Way::Ticket),
        2 => Just(Way::Dropped),
        2 => Just(Way::Cancelled),
        1 => Just(Way::CancelledAndDropped),
        2 => Just(Way::Scope),
        2 => Just(Way::Blocking),
    ];
    let memory = prop::sample::select(&Kind::ALL);
    let extents = prop_oneof![
        3 => prop::collection::vec((gaps(), lens()), 1..2),
        1 => prop::collection::vec((gaps(), lens()), 2..9),
    ];
    (prop::bool::weighted(0.7), way, memory, any::<bool>(), prop::bool::weighted(0.2), extents, any::<bool>())
        .prop_map(|(write, way, memory, background, validate, extents, reversed)| Op {
            write,
            way,
            memory,
            background,
            validate,
            extents,
            reversed,
        })
}

fn batches() -> impl Strategy<Value = Batch> {
    let before = prop_oneof![
        6 => Just(Between::Nothing),
        1 => (0..200_000usize).prop_map(Between::SetLen),
        1 => (0..150_000usize, 0..50_000usize).prop_map(|(at, len)| Between::PunchHole(at, len)),
        1 => (0..150_000usize, 0..50_000usize).prop_map(|(at, len)| Between::Allocate(at, len)),
        1 => Just(Between::Sync),
        1 => Just(Between::Reopen),
    ];
    let start =
        prop_oneof![3 => 0..20_000usize, 1 => 0..150_000usize, 1 => (0..30usize).prop_map(|page| page * 4096)];
    (before, start, prop::collection::vec(ops(), 1..12), prop::bool::weighted(0.3))
        .prop_map(|(before, start, ops, sync)| Batch { before, start, ops, sync })
}

fn cases() -> impl Strategy<Value = Case> {
    let shape = (prop::sample::select(vec![1usize, 3]), prop::sample::select(vec![1usize, 2, 8]));
    let block = prop::sample::select(vec![4096usize, 16384]);
    let flags = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.8));
    let len = prop_oneof![Just(0usize), 1..100_000usize, (0..24usize).prop_map(|pages| pages * 4096)];
    (shape, block, flags, (len, any::<bool>()), prop::collection::vec(batches(), 1..6)).prop_map(
        |((workers, depth), block_size, (overlap, single_submit, preallocate), (len, resident), batches)| Case {
            workers,
            depth,
            block_size,
            overlap,
            single_submit,
            preallocate,
            len,
            resident,
            batches,
        },
    )
}

/// What the file should hold. `None`: a cancelled write was here, and any byte will do.
#[derive(Debug, Default)]
struct Model(Vec<Option<u8>>);

impl Model {
    fn set_len(&mut self, len: usize) {
        self.0.resize(len, Some(0));
    }

    fn at_least(&mut self, len: usize) {
        self.set_len(len.max(self.0.len()));
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.at_least(offset + bytes.len());
        }
        for (place, byte) in self.0.iter_mut().skip(offset).zip(bytes) {
            *place = Some(*byte);
        }
    }

    /// Of a range, as far as it is in the file.
    fn forget(&mut self, range: Range<usize>) {
        let end = range.end.min(self.0.len());
        self.0[range.start.min(end)..end].fill(None);
    }

    /// The first place where `bytes`, found at `offset`, differ.
    fn differs(&self, offset: usize, bytes: &[u8]) -> Option<usize> {
        let expected = &self.0[offset.min(self.0.len())..];
        let mut pairs = expected.iter().zip(bytes);
        pairs.position(|(expected, found)| expected.is_some_and(|expected| expected != *found)).map(|at| offset + at)
    }

    /// All of the file. Bytes that anything goes for are what they are from now on.
    fn settle(&mut self, found: &[u8], what: &str) {
        assert_eq!(found.len(), self.0.len(), "length, {what}");
        assert_eq!(self.differs(0, found), None, "first wrong byte, {what}");
        self.0 = found.iter().copied().map(Some).collect();
    }
}

/// What a vectored op owns.
type Buffers = Vec<(u64, Memory)>;

/// An op with its places in the file.
#[derive(Debug)]
struct Placed {
    op: Op,
    seed: u64,
    extents: Vec<Range<usize>>,
}

impl Placed {
    fn content(&self, extent: usize) -> Vec<u8> {
        pattern(self.seed * 100 + extent as u64 + 1, self.extents[extent].len())
    }

    fn memory(&self, aio: &AioHandle, extent: usize) -> Memory {
        let len = self.extents[extent].len();
        let mut memory = self.op.memory.memory(aio, len);
        match self.op.write {
            true => memory.bytes_mut().copy_from_slice(&self.content(extent)),
            false => memory.bytes_mut().fill(0xDB),
        }
        memory
    }

    fn buffers(&self, aio: &AioHandle) -> Buffers {
        let extents = self.extents.iter().enumerate();
        extents.map(|(index, range)| (range.start as u64, self.memory(aio, index))).collect()
    }

    fn file(&self, file: &AioFile) -> AioFile {
        let file = file.validated(self.op.validate);
        if self.op.background { file.background() } else { file }
    }

    /// How many bytes a read gets before the file ends, if it ends inside.
    fn eof(&self, len: usize) -> Option<u64> {
        let mut before = 0;
        for range in &self.extents {
            if !range.is_empty() && range.end > len {
                return Some(before + len.saturating_sub(range.start) as u64);
            }
            before += range.len() as u64;
        }
        None
    }

    fn ends_past(&self, len: usize) -> bool {
        self.extents.iter().any(|range| !range.is_empty() && range.end > len)
    }

    fn end(&self) -> usize {
        self.extents.iter().filter(|range| !range.is_empty()).map(|range| range.end).max().unwrap_or(0)
    }

    fn apply(&self, model: &mut Model) {
        for (index, range) in self.extents.iter().enumerate() {
            model.write(range.start, &self.content(index));
        }
    }
}

/// What became of an op.
#[derive(Debug)]
enum Ended {
    /// With the buffers that came back, for an op that gives them back.
    Ok(Option<Buffers>),
    Eof(u64, Option<Buffers>),
    Cancelled,
    /// The ticket was dropped.
    Unknown,
}

fn ended(result: Result<Buffers, OpError<Buffers>>) -> Ended {
    match result {
        Ok(buffers) => Ended::Ok(Some(buffers)),
        Err(failed) => {
            let (error, buffers) = failed.into_parts();
            assert!(buffers.is_some(), "no buffers with {error}");
            match error {
                Error::UnexpectedEof { read, .. } => Ended::Eof(read, buffers),
                Error::Cancelled { .. } => Ended::Cancelled,
                error => panic!("{error}"),
            }
        }
    }
}

fn blocking(result: aio::Result<()>) -> Ended {
    match result {
        Ok(()) => Ended::Ok(None),
        Err(Error::UnexpectedEof { read, .. }) => Ended::Eof(read, None),
        Err(error) => panic!("{error}"),
    }
}

/// The file under test.
struct Run {
    aio: AioHandle,
    file: AioFile,
    path: PathBuf,
    model: Model,
    seed: u64,
}

impl Run {
    fn between(&mut self, what: &Between) {
        let file = &self.file;
        match *what {
            Between::Nothing => {}
            Between::SetLen(len) => {
                file.set_len(len as u64).wait().unwrap();
                self.model.set_len(len);
            }
            Between::PunchHole(at, len) => {
                file.punch_hole(at as u64, len as u64).wait().unwrap();
                let end = (at + len).min(self.model.0.len());
                self.model.0[at.min(end)..end].fill(Some(0));
            }
            Between::Allocate(at, len) => {
                file.allocate(at as u64, len as u64).wait().unwrap();
                if len > 0 {
                    self.model.at_least(at + len);
                }
            }
            Between::Sync => file.sync_all().wait().unwrap(),
            Between::Reopen => {
                let file = self.aio.open(&self.path).unwrap();
                std::mem::replace(&mut self.file, file).close().unwrap();
            }
        }
        assert_eq!(self.file.len().unwrap(), self.model.0.len() as u64, "after {what:?}");
    }

    fn place(&mut self, batch: &Batch) -> Vec<Placed> {
        let mut at = batch.start;
        let place = |op: &Op| {
            let mut extents: Vec<_> = op
                .extents
                .iter()
                .map(|(gap, len)| {
                    at += gap + len;
                    at - len..at
                })
                .collect();
            if op.reversed {
                extents.reverse();
            }
            self.seed += 1;
            Placed { op: op.clone(), seed: self.seed, extents }
        };
        batch.ops.iter().map(place).collect()
    }

    fn batch(&mut self, batch: &Batch) {
        self.between(&batch.before);
        let placed = self.place(batch);
        let Self { aio, file, .. } = &*self;
        let mut tickets: Vec<Option<Ticket<Buffers>>> = Vec::new();
        for op in &placed {
            let file = op.file(file);
            tickets.push(match op.op.way {
                Way::Scope | Way::Blocking => None,
                _ if op.op.write => Some(file.write_vectored(op.buffers(aio))),
                _ => Some(file.read_vectored(op.buffers(aio))),
            });
        }
        let sync = batch.sync.then(|| file.sync_data());
        for (op, ticket) in placed.iter().zip(&mut tickets) {
            if matches!(op.op.way, Way::Cancelled | Way::CancelledAndDropped) {
                ticket.as_ref().unwrap().cancel();
            }
            if matches!(op.op.way, Way::Dropped | Way::CancelledAndDropped) {
                *ticket = None;
            }
        }
        let (mut results, mut scoped) = self.borrowed(&placed);
        for (index, ticket) in tickets.into_iter().enumerate() {
            if let Some(ticket) = ticket {
                results.insert(index, ended(ticket.wait()));
            }
        }
        let unclaimed = match self.aio.wait() {
            Ok(_) => Vec::new(),
            Err(Error::Failures(failures)) => failures.errors,
            Err(error) => panic!("{error}"),
        };
        if let Some(sync) = sync {
            sync.wait().unwrap();
        }
        scoped.retain(|error| !matches!(error, Error::UnexpectedEof { .. }));
        assert!(scoped.is_empty(), "{scoped:?}");
        self.check(&placed, results, unclaimed, batch);
    }

    /// The ops on borrowed memory, while the others are in flight: the results of those that have one each, and the
    /// failures of the scope.
    fn borrowed(&self, placed: &[Placed]) -> (BTreeMap<usize, Ended>, Vec<Error>) {
        let mut results = BTreeMap::new();
        let mut memory: BTreeMap<usize, Buffers> = placed
            .iter()
            .enumerate()
            .filter(|(_, op)| op.op.way == Way::Scope)
            .map(|(index, op)| (index, op.buffers(&self.aio)))
            .collect();
        let scope = self.aio.scope(|scope| {
            for (index, buffers) in &mut memory {
                let op = &placed[*index];
                let file = op.file(&self.file);
                if op.op.write {
                    let extents = buffers.iter().map(|(offset, memory)| (*offset, memory.bytes())).collect();
                    scope.write_vectored(&file, extents);
                } else {
                    let extents = buffers.iter_mut().map(|(offset, memory)| (*offset, memory.bytes_mut())).collect();
                    scope.read_vectored(&file, extents);
                }
            }
            for (index, op) in placed.iter().enumerate().filter(|(_, op)| op.op.way == Way::Blocking) {
                let file = op.file(&self.file);
                let mut buffers = op.buffers(&self.aio);
                let mut all = Ended::Ok(None);
                for (position, (offset, memory)) in buffers.iter_mut().enumerate() {
                    let before: usize = op.extents[..position].iter().map(Range::len).sum();
                    let result = match op.op.write {
                        true => file.write_at(memory.bytes(), *offset),
                        false => file.read_at(memory.bytes_mut(), *offset),
                    };
                    match blocking(result) {
                        Ended::Eof(read, _) if matches!(all, Ended::Ok(_)) => {
                            all = Ended::Eof(before as u64 + read, None);
                        }
                        _ => {}
                    }
                }
                let all = match all {
                    Ended::Ok(_) => Ended::Ok(Some(buffers)),
                    Ended::Eof(read, _) => Ended::Eof(read, Some(buffers)),
                    other => other,
                };
                results.insert(index, all);
            }
        });
        let failures = match scope {
            Ok(()) => Vec::new(),
            Err(Error::Failures(failures)) => failures.errors,
            Err(error) => panic!("{error}"),
        };
        let grows = placed.iter().any(|op| op.op.write && op.ends_past(self.model.0.len()));
        let expected = memory.keys().filter(|index| !placed[**index].op.write);
        let expected = expected.filter_map(|index| placed[*index].eof(self.model.0.len())).count();
        assert!(failures.len() == expected || grows && failures.len() < expected, "{failures:?}, not {expected}");
        for (index, buffers) in memory {
            // Which of the scope's reads failed follows from the model where no write moves the end of the file.
            let ended = match placed[index].eof(self.model.0.len()).filter(|_| !placed[index].op.write) {
                Some(_) if grows => Ended::Unknown,
                Some(read) => Ended::Eof(read, Some(buffers)),
                None => Ended::Ok(Some(buffers)),
            };
            results.insert(index, ended);
        }
        (results, failures)
    }

    fn check(
        &mut self,
        placed: &[Placed],
        mut results: BTreeMap<usize, Ended>,
        unclaimed: Vec<Error>,
        batch: &Batch,
    ) {
        let len = self.model.0.len();
        let grows = placed.iter().any(|op| op.op.write && op.ends_past(len));
        let mut unclaimed_reads = 0;
        // Reads first: they were of the file as it was, for all that writes beside them did.
        for (index, op) in placed.iter().enumerate().filter(|(_, op)| !op.op.write) {
            let ended = results.remove(&index).unwrap_or(Ended::Unknown);
            let eof = op.eof(len);
            let cancelled = matches!(op.op.way, Way::Cancelled | Way::CancelledAndDropped);
            let (got, buffers) = match ended {
                Ended::Ok(buffers) => {
                    assert!(eof.is_none() || grows, "op {index} is Ok, {eof:?} of {batch:?}");
                    (u64::MAX, buffers)
                }
                Ended::Eof(read, buffers) => {
                    assert!(
                        Some(read) == eof || grows && eof.is_some_and(|eof| read >= eof),
                        "op {index}: {read}, {eof:?}"
                    );
                    (read, buffers)
                }
                Ended::Cancelled => {
                    assert!(cancelled, "op {index}");
                    continue;
                }
                Ended::Unknown => {
                    unclaimed_reads += usize::from(eof.is_some() && op.op.way == Way::Dropped);
                    continue;
                }
            };
            let Some(buffers) = buffers else { continue };
            let mut left = got;
            for ((offset, memory), range) in buffers.iter().zip(&op.extents) {
                assert_eq!((*offset, memory.bytes().len()), (range.start as u64, range.len()));
                let part = memory.bytes().len().min(usize::try_from(left).unwrap_or(usize::MAX));
                left = left.saturating_sub(part as u64);
                let differs = self.model.differs(range.start, &memory.bytes()[..part]);
                assert_eq!(differs, None, "op {index} read a wrong byte");
                if part < memory.bytes().len() {
                    break;
                }
            }
        }
        // What failed without a ticket.
        let eofs = unclaimed.iter().filter(|error| matches!(error, Error::UnexpectedEof { .. })).count();
        let may_cancel = placed.iter().filter(|op| op.op.way == Way::CancelledAndDropped).count();
        let cancels = unclaimed.iter().filter(|error| matches!(error, Error::Cancelled { .. })).count();
        assert_eq!(eofs + cancels, unclaimed.len(), "{unclaimed:?}");
        assert!(eofs <= unclaimed_reads + may_cancel && cancels <= may_cancel, "{unclaimed:?}");
        assert!(eofs >= unclaimed_reads || grows, "{eofs} of {unclaimed_reads}");

        let found = std::fs::read(&self.path).unwrap();
        let mut unsure = Vec::new();
        for (index, op) in placed.iter().enumerate().filter(|(_, op)| op.op.write) {
            match (results.remove(&index), op.op.way) {
                (Some(Ended::Ok(_)), _) | (None, Way::Dropped) => op.apply(&mut self.model),
                (Some(Ended::Cancelled), Way::Cancelled) | (None, Way::CancelledAndDropped) => unsure.push(op),
                (other, way) => panic!("write {index} ({way:?}): {other:?}"),
            }
        }
        // A cancelled write leaves the length to the others. If nobody knows how it ended, the file tells.
        for op in &unsure {
            if op.op.way == Way::CancelledAndDropped && found.len() == op.end() {
                self.model.at_least(op.end());
            }
        }
        for op in unsure {
            op.extents.iter().for_each(|range| self.model.forget(range.clone()));
        }
        self.model.settle(&found, &format!("after {batch:?}"));
        // The counter follows the queues with a little delay.
        while self.aio.stats().in_flight != 0 {
            std::thread::yield_now();
        }
    }
}

fn run(backend: Backend, direct: DirectMode, case: &Case) {
    let folder = Folder::new();
    let content = pattern(0, case.len);
    let path = folder.file("t", &content);
    if case.resident {
        assert!(std::fs::read(&path).unwrap() == content);
    }
    let mut config = support::small(case.workers, case.depth, direct);
    config.block_size = case.block_size;
    config.overlap_events = case.overlap;
    config.single_submit = case.single_submit;
    config.preallocate = case.preallocate;
    let aio = aio::builder().backend(backend).config(config).build().unwrap();
    let file = aio.open(&path).unwrap();
    let model = Model(content.into_iter().map(Some).collect());
    let mut run = Run { aio, file, path, model, seed: 0 };
    for batch in &case.batches {
        run.batch(batch);
    }
    // What a reader gets who has nothing in the page cache.
    run.file.sync_all().wait().unwrap();
    run.file.close().unwrap();
    run.aio.close().unwrap();
    support::evict(&run.path);
    run.model.settle(&std::fs::read(&run.path).unwrap(), "on the device");
}

/// Proptest's own default is far more than what finds faults here; `PROPTEST_CASES` asks for more.
fn model(backend: &str, direct: DirectMode) {
    let Some(backend) = backends().into_iter().find(|found| found.name() == backend) else { return };
    let cases_wanted = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(24);
    let config =
        Config { cases: cases_wanted, failure_persistence: None, max_shrink_iters: 400, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let result = runner.run(&cases(), |case| {
        run(backend, direct, &case);
        Ok(())
    });
    if let Err(failed) = result {
        panic!("on {backend}, direct {direct:?}: {failed}");
    }
}

macro_rules! on_each {
    ($($name:ident: $backend:literal, $direct:ident;)*) => {$(
        #[test]
        fn $name() {
            model($backend, DirectMode::$direct);
        }
    )*};
}
on_each! {
    uring_direct: "uring", Auto;
    uring_buffered: "uring", Off;
    libaio_direct: "libaio", Auto;
    libaio_buffered: "libaio", Off;
    pthread_direct: "pthread", Auto;
    pthread_buffered: "pthread", Off;
}
