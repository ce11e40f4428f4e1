//! Runs a sequence on a file.

use std::path::PathBuf;

use aio::{AioFile, AioHandle, Backend, DirectMode, Error, Ticket};

use crate::case::{Batch, Between, Case, Op, Way};
use crate::contents::Model;
use crate::op::{Buffers, Placed, ended};
use crate::support::{Folder, evict, pattern, small};

pub(crate) fn run(backend: Backend, direct: DirectMode, case: &Case) {
    let folder = Folder::new();
    let content = pattern(0, case.len);
    let path = folder.file("t", &content);
    if case.resident {
        assert!(std::fs::read(&path).unwrap() == content);
    }
    let mut config = small(case.workers, case.depth, direct);
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
    // What a reader gets that has nothing in the page cache.
    run.file.sync_all().wait().unwrap();
    run.file.close().unwrap();
    run.aio.close().unwrap();
    evict(&run.path);
    run.model.settle(&std::fs::read(&run.path).unwrap(), "on the device");
}

/// The file under test.
pub(crate) struct Run {
    pub(crate) aio: AioHandle,
    pub(crate) file: AioFile,
    pub(crate) path: PathBuf,
    pub(crate) model: Model,
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
}
