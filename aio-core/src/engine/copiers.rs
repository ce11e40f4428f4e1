//! Copiers: threads that move blocks from and to the page cache.
//!
//! An op is a copy if, as far as is known, no block of it waits for the device: a read of a file that a sample found in
//! the page cache, a write of a file without direct I/O. All that it costs is a CPU that copies. An I/O queue makes
//! such a copy inside of the system call that submits the block, so a worker would make one after the other, and its
//! device would wait meanwhile. Hence copies have FIFOs of their own, and threads that make them with plain system
//! calls. A copier is started when there are more copies than those that run have claimed, up to
//! [`copy_threads`](crate::AioConfig::copy_threads); it sleeps while there are none, and goes with the handle. One
//! copier at a time writes to an inode, since the kernel lets no second one in.

use std::io;
use std::sync::Arc;
use std::thread::sleep;

use crate::engine::Shared;
use crate::engine::completion::{NextStep, Piece};
use crate::engine::in_flight::Run;
use crate::engine::op_queue::{Claimed, Found, QueuedOp};
use crate::engine::prepare::Prepared;
use crate::engine::transfer::Transfer;
use crate::error::Error;
use crate::file::routes::RoutePermit;
use crate::foreign::{attempt, log, report_drop};
use crate::op::plan::BlockRange;
use crate::stats::Stats;
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Mutex, Ordering, lock};
use crate::threads::{block_signals, thread_main};

/// The threads of an engine's copiers.
#[derive(Debug)]
pub(crate) struct CopyThreads(Mutex<Option<Vec<JoinHandle<()>>>>);

impl Default for CopyThreads {
    fn default() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }
}

impl CopyThreads {
    /// The threads, to be joined; none is started any more.
    pub(crate) fn take(&self) -> Vec<JoinHandle<()>> {
        lock(&self.0).take().unwrap_or_default()
    }
}

impl Shared {
    /// Starts a copier that the op queue has asked for.
    #[cold]
    pub(super) fn start_copier(self: &Arc<Self>) {
        let mut threads = lock(&self.copy_threads.0);
        // Taken, when nothing is left to copy.
        let Some(started) = threads.as_mut() else { return };
        let engine = self.clone();
        let run = move || thread_main(|| engine.copy());
        match thread::Builder::new().name("aio-copy".into()).spawn(run) {
            Ok(thread) => {
                started.push(thread);
                self.counters.copy_threads.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                drop(threads);
                log(|| tracing::warn!(%error, "no further thread for copies from and to the page cache"));
                self.copier_refused();
            }
        }
    }

    /// Goes on with the copiers that there are.
    pub(super) fn copier_refused(&self) {
        self.wake(self.op_queue.copier_not_started());
    }

    /// What a copier does until nothing more will come.
    fn copy(self: &Arc<Self>) {
        block_signals();
        let _on_worker = self.enter_worker();
        let (mut claimed, mut held) = (Claimed::default(), None);
        let wait_for_route = |route, queued| self.wait_for_route(route, queued);
        while let Some((found, helpers)) = self.op_queue.claim_copies(&mut held, &mut claimed, wait_for_route) {
            self.call(helpers);
            if let Found::Unprepared(op, permit) = found {
                match self.prepare_for_one(op, permit) {
                    Some(Ok(run)) => claimed.runs.push(run),
                    Some(Err(ended)) => claimed.ended.push(ended),
                    None => {}
                }
            }
            if self.is_forked() {
                // A getter forked: as below.
                std::mem::forget((claimed, held));
                return;
            }
            let Claimed { runs, ended, .. } = &mut claimed;
            ended.extend(runs.drain(..).filter_map(|run| self.copy_run(run)));
            claimed.give_up_stopped();
            // Otherwise the ops end fast, and the next claim is soon.
            let has_callbacks = claimed.ended.iter().any(|op| op.state.options.has_callbacks);
            if let Some(helpers) = has_callbacks.then(|| self.op_queue.copied(&mut held)).flatten() {
                self.call(helpers);
            }
            self.end(claimed.ended.drain(..));
            if self.is_forked() {
                // A callback forked, and this is the child: what is queued is the parent's.
                std::mem::forget((claimed, held));
                return;
            }
        }
    }

    /// Prepares an op. Gives its block if it is a copy of one; the op, if it is to be ended. Anything else waits for
    /// copiers or workers.
    fn prepare_for_one(
        self: &Arc<Self>,
        op: Arc<Transfer>,
        permit: Option<RoutePermit>,
    ) -> Option<Result<Run, Arc<Transfer>>> {
        match self.prepare(op, permit) {
            Prepared::Ready(op) => self.run_of_one(QueuedOp::new(op)).map(Ok),
            Prepared::Ended(op) => Some(Err(op)),
            Prepared::Waits | Prepared::TooManyOpen => None,
        }
    }

    /// The block of a copy of one. Anything else goes back.
    fn run_of_one(self: &Arc<Self>, queued: QueuedOp) -> Option<Run> {
        queued.into_whole_run().map_err(|queued| self.push_prepared(queued)).ok()
    }

    /// Makes a read that no thread has begun, on the thread that is about to wait for it, which would else wait for
    /// another to wake up. What turns out to be for several threads, or for the device, goes back.
    pub(crate) fn make_on_waiter(self: &Arc<Self>, op: &Arc<Transfer>) {
        if !op.is_for_waiter() {
            return;
        }
        let Some(queued) = self.op_queue.take_for_waiter(op) else { return };
        // What is foreign of the end must no more wait for the engine than on a worker.
        let _on_worker = self.enter_worker();
        let made = match queued.op().state.plan() {
            Some(_) => self.run_of_one(queued).map(Ok),
            None => self.prepare_for_one(queued.into_op(), None),
        };
        match made {
            Some(Ok(run)) => self.end(self.copy_run(run)),
            Some(Err(ended)) => self.end([ended]),
            None => {}
        }
    }

    /// Copies the blocks of a run; gives the op if it is to be ended.
    fn copy_run(&self, mut run: Run) -> Option<Arc<Transfer>> {
        let (blocks, mut counted) = (run.blocks() as u64, Stats::default());
        self.counters.in_flight.fetch_add(blocks, Ordering::Relaxed);
        while run.progress.next < run.progress.end && !run.op.state.is_cancelled() {
            // The descriptor is asked for its file, and it is foreign code.
            if let Err(error) = attempt("a getter", || self.copy_block(&mut run, &mut counted)) {
                run.op.state.fail(u64::MAX, error);
            }
        }
        let skipped = run.progress.end - run.progress.next;
        run.progress.done_with(skipped, 0);
        run.progress.next = run.progress.end;
        self.counters.in_flight.fetch_sub(blocks, Ordering::Relaxed);
        // Another thread may end the op, and its waiter finds all of it counted.
        self.counters.add(&mut counted);
        let (op, finished, bytes) = run.into_account();
        if op.state.account(finished, bytes) {
            return Some(op);
        }
        // By now it may be the last reference, and the descriptor's own drop is foreign code.
        report_drop(op);
        None
    }

    /// Copies the next block of a run. The error is a panic of the descriptor; the op gets all others.
    fn copy_block(&self, run: &mut Run, counted: &mut Stats) -> Result<(), Error> {
        let number = run.progress.next;
        // Also if something panics: then it is not done, and is accounted for.
        run.progress.next += 1;
        run.progress.done_with(1, 0);
        let Some(plan) = run.op.state.plan() else { return Ok(()) };
        let range = plan.block(number, run.progress.segment);
        let segment = &plan.segments[range.segment];
        let position = segment.position + range.from as u64;
        let mut piece = Piece {
            direction: run.op.desc.direction(),
            offset: segment.offset + range.from as u64,
            len: range.len,
            direct: false,
            unit: 0,
            staged: false,
            fixed: false,
            retries: 0,
        };
        let copied = self.copy_piece(run, range, position, &mut piece, counted);
        let done = range.len - piece.len;
        run.progress.segment = range.segment;
        run.progress.done_with(0, done);
        if let Err(error) = copied {
            run.op.state.fail(position + done as u64, error);
        }
        counted.blocks += 1;
        Ok(())
    }

    /// Copies a block, which begins at `position` of the op, by as many system calls as it takes. Its piece tells how
    /// far that got.
    fn copy_piece(
        &self,
        run: &Run,
        range: BlockRange,
        position: u64,
        piece: &mut Piece,
        counted: &mut Stats,
    ) -> Result<(), Error> {
        loop {
            let step = piece.next_step(run.copy(&*self.backend, range, piece));
            piece.count(&step, counted);
            piece.advance(&step);
            match step {
                NextStep::Done { .. } => return Ok(()),
                NextStep::Rest { .. } | NextStep::ThroughCache { .. } => {}
                NextStep::Retry { pause } => pause.into_iter().for_each(sleep),
                NextStep::EndOfFile => return Err(run.op.eof(position + (range.len - piece.len) as u64)),
                NextStep::Failed(source) => return Err(self.copy_failed(&run.op, source, piece)),
            }
        }
    }

    #[cold]
    fn copy_failed(&self, op: &Transfer, source: io::Error, left: &Piece) -> Error {
        let error = op.io_error(op.kind(), source).at(left.offset, left.len as u64);
        error.by(self.backend.name()).into()
    }
}
