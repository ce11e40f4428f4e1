//! The worker thread: a queue, a work queue of claimed runs, and a complete queue of ended ops.
//!
//! One turn of its loop claims work until the I/O queue is full, tells users what has ended, and waits for
//! completions; submission and wait are one system call where the backend can do that. The I/O queue is kept full
//! across ops, and users' code runs only after the device has got its next blocks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::{QueueConfig, Unavailable};
use crate::engine::block::{Issued, Verdict};
use crate::engine::in_flight::{Done, InFlight, Run, RunId, UnknownToken};
use crate::engine::op_queue::{Claim, Waiting};
use crate::engine::prepare::Prepared;
use crate::engine::registered::Registrations;
use crate::engine::staging::Staging;
use crate::engine::transfer::{Priority, Transfer};
use crate::engine::{FILE_SLOTS, REGION_SLOTS, Shared, prepare};
use crate::error::{Error, OpKind};
use crate::file::routes::Pass;
use crate::foreign::contain;
use crate::foreign::{attempt, report_drop};
use crate::inbox::{RegionRequest, Request};
use crate::memory::Holder;
use crate::stats::Stats;
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Ordering, mpsc};
use crate::threads::{block_signals, thread_main};

/// After this many retries at once, a block that keeps getting EAGAIN is tried again at intervals.
const QUICK_RETRIES: u32 = 16;
const RETRY_INTERVAL: Duration = Duration::from_millis(1);
/// After passing this many bytes through staging memory a worker looks whether the queue has room: while it copies, the
/// device should have something to do.
pub(super) const STAGED_AT_ONCE: usize = 256 << 10;
/// Staging buffers of a worker that may go beyond the arena's limit: while one is transferred, the other is copied.
const STAGING_BEYOND: usize = 2;
/// About ten seconds of EAGAIN without a single byte: an error after all.
const MAX_RETRIES: u32 = QUICK_RETRIES + 10_000;

/// A worker thread; see the [module](self).
pub(crate) struct AioThread {
    pub(super) id: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) flight: InFlight,
    /// The work queue: runs that still have blocks to issue, oldest first.
    runs: VecDeque<RunId>,
    /// The complete queue: ops to be ended.
    ended: Vec<Arc<Transfer>>,
    /// An op in hand while it is being opened and planned.
    preparing: Option<Arc<Transfer>>,
    /// Blocks that wait for their next try.
    delayed: Vec<(Instant, usize)>,
    /// Blocks of background ops that hold a slot or are claimed.
    pub(super) background: usize,
    pub(super) staging: Staging,
    /// Bytes that passed through it.
    staged: u64,
    /// Bytes that were copied there and are not submitted.
    pub(super) gathered: usize,
    pub(super) registered: Registrations,
    /// What the arena asked for, until no block in flight names it. After `flight`: dropping one says that the queue does
    /// not have it any more.
    giving_back: Vec<Arc<dyn RegionRequest>>,
    pub(super) counted: Stats,
    scratch: Vec<Run>,
    /// What this worker added to the shared count of blocks in flight.
    reported: u64,
    /// An op could not be opened because too many files were; nothing is claimed until something may have changed.
    out_of_files: bool,
    /// Submissions in a row that took nothing with nothing in flight.
    refused: u32,
}

/// Starts worker `id` and waits until its queue is open.
pub(crate) fn spawn(shared: &Arc<Shared>, id: usize) -> Result<JoinHandle<()>, Unavailable> {
    let (report, opened) = mpsc::channel();
    let backend = shared.backend.name();
    let shared = shared.clone();
    let no_thread = |error: std::io::Error| {
        let limits = "RLIMIT_NPROC (ulimit -u) and pids.max of the control group limit their number";
        Unavailable::new(backend, format!("cannot start a worker thread: {error}; {limits}"), Some(&error))
    };
    let thread = thread::Builder::new()
        .name(format!("aio-{backend}-{id}"))
        .spawn(move || thread_main(move || start(shared, id, &report)))
        .map_err(no_thread)?;
    let refusal = match opened.recv() {
        Ok(Ok(())) => return Ok(thread),
        Ok(Err(unavailable)) => unavailable,
        Err(_) => Unavailable::new(backend, "the backend panicked while it opened a queue", None),
    };
    let _ = thread.join();
    Err(refusal)
}

fn start(shared: Arc<Shared>, id: usize, report: &mpsc::Sender<Result<(), Unavailable>>) {
    block_signals();
    let _on_worker = shared.enter_worker();
    let config = &shared.config;
    let mut queue = QueueConfig::new(config.queue_depth);
    queue.single_submit = config.single_submit;
    queue.regions = if config.register_memory { REGION_SLOTS } else { 0 };
    queue.files = if config.register_files { FILE_SLOTS } else { 0 };
    let queue = match shared.backend.open_queue(&queue) {
        Ok(queue) => queue,
        Err(unavailable) => {
            let _ = report.send(Err(unavailable));
            return;
        }
    };
    shared.inboxes[id].set_waker(queue.waker());
    let flight = InFlight::new(queue);
    let worker = AioThread {
        id,
        staging: Staging::new(shared.arena.clone(), config.block_size, flight.capacity(), STAGING_BEYOND),
        registered: Registrations::new(
            Holder::new(&shared.inboxes, id),
            config.register_memory,
            config.register_files,
        ),
        giving_back: Vec::new(),
        flight,
        staged: 0,
        gathered: 0,
        runs: VecDeque::new(),
        ended: Vec::new(),
        preparing: None,
        delayed: Vec::new(),
        background: 0,
        counted: Stats::default(),
        scratch: Vec::new(),
        reported: 0,
        out_of_files: false,
        refused: 0,
        shared,
    };
    let _ = report.send(Ok(()));
    worker.run_to_the_end();
}

/// Most durable writes whose files are open only to be synced, before no more are opened.
const UNSYNCED: usize = 128;

impl AioThread {
    /// Works until the handle is closed and all that was accepted has ended, or the queue breaks.
    fn run_to_the_end(mut self) {
        let reason = match contain(|| self.run()) {
            Ok(Ok(())) => "the handle is closed".to_owned(),
            Ok(Err(reason)) => reason,
            Err(panic) => format!("a panic: {panic}"),
        };
        self.stop(&reason);
    }

    fn run(&mut self) -> Result<(), String> {
        let ended = self.turns();
        if ended.is_err() {
            // What the queue reported before it broke has happened.
            while self.flight.has_done() && self.deal().is_ok() {}
        }
        ended
    }

    fn turns(&mut self) -> Result<(), String> {
        loop {
            self.handle_requests();
            self.give_back();
            self.fill()?;
            self.flush();
            if self.flight.has_done() {
                self.reap(0, Some(Duration::ZERO))?;
                continue;
            }
            if self.flight.len() == 0 && self.delayed.is_empty() && self.runs.is_empty() {
                if self.shared.work.is_finished() {
                    return Ok(());
                }
                self.spin();
            }
            self.wait()?;
        }
    }

    /// Fills the I/O queue: issues blocks of the runs in hand, claims more, prepares ops.
    fn fill(&mut self) -> Result<(), String> {
        self.retry_delayed();
        loop {
            if let Issued::Copied = self.issue() {
                self.hand_over()?;
                continue;
            }
            if !self.may_claim() {
                break;
            }
            match self.claim(self.flight.room(), false) {
                Claim::Blocks => {}
                Claim::Prepare(op, pass) => {
                    // The device works while the next file is opened, and what has ended closes its file first.
                    self.preparing = Some(op);
                    if self.flight.has_unsubmitted() {
                        self.hand_over()?;
                    }
                    self.flush();
                    self.prepare(pass);
                }
                Claim::Nothing if self.ended.is_empty() => break,
                Claim::Nothing => self.flush(),
            }
        }
        self.submit()
    }

    fn may_claim(&self) -> bool {
        self.flight.room() > 0 && self.runs.is_empty() && self.may_refill() && !self.out_of_files
    }

    /// With `overlap_events` off, a batch is finished before the next one is begun.
    fn may_refill(&self) -> bool {
        self.shared.config.overlap_events || self.flight.len() == 0 || self.flight.has_unsubmitted()
    }

    /// How many more background blocks may be claimed: a quarter of the queue is kept for what somebody waits for.
    fn background_room(&self) -> usize {
        let capacity = self.flight.capacity();
        let most = if capacity == 1 { 1 } else { capacity - (capacity / 4).max(1) };
        most.saturating_sub(self.background)
    }

    fn claim(&mut self, room: usize, sleep: bool) -> Claim {
        let background = self.background_room();
        let mut runs = std::mem::take(&mut self.scratch);
        let (claim, wake) = {
            let work = &self.shared.work;
            work.claim(&self.shared, [room, background], &mut runs, &mut self.ended, self.id, sleep)
        };
        self.shared.wake(wake);
        for run in runs.drain(..) {
            if run.is_background() {
                self.background += run.blocks();
            }
            let id = self.flight.add_run(run);
            self.runs.push_back(id);
        }
        self.scratch = runs;
        claim
    }

    /// Opens and plans the op in hand.
    fn prepare(&mut self, pass: Option<Pass>) {
        let Some(op) = self.preparing.clone() else { return };
        if op.state.durable && op.state.file_key().is_none() && self.shared.file_ops.durable_writes() >= UNSYNCED {
            self.preparing = None;
            self.out_of_files = true;
            self.shared.requeue(op);
            return;
        }
        let given_back = self.shared.paths.given_back();
        let prepared = attempt("a getter", || prepare::prepare(&self.shared, &op, pass));
        self.preparing = None;
        match prepared {
            Err(error) if is_out_of_files(&error) && self.shared.paths.is_worth_another_try(given_back) => {
                self.out_of_files = true;
                self.shared.requeue(op);
            }
            Err(error) => {
                op.state.fail(0, error);
                self.ended.push(op);
            }
            Ok(Prepared::NeedsPass) => self.shared.put_back_with_pass(Waiting::new(op)),
            // Nothing to transfer; opening the file was all.
            Ok(Prepared::Done) if op.state.plan().is_none_or(|plan| plan.blocks == 0) => self.ended.push(op),
            Ok(Prepared::Done) if op.state.is_over() => self.pass_ended(op),
            Ok(Prepared::Done) => self.shared.requeue(op),
        }
    }

    /// Issues blocks of the runs in hand while there is room.
    fn issue(&mut self) -> Issued {
        while let Some(&id) = self.runs.front() {
            match self.issue_run(id) {
                Issued::All => {
                    self.runs.pop_front();
                    self.finish_run(id);
                }
                stopped => return stopped,
            }
        }
        Issued::All
    }

    /// If nothing of a run is left, gives its account to the op.
    fn finish_run(&mut self, id: RunId) {
        let Some(run) = self.flight.take_finished(id) else { return };
        let (op, finished, bytes) = run.into_account();
        if op.state.plan().is_some_and(|plan| plan.blocks != finished) {
            // Another worker may end the op, and whoever waits for it finds all of it counted.
            self.publish();
        }
        if op.state.account(finished, bytes) {
            self.pass_ended(op);
        } else {
            // By now it may be the last reference, and the descriptor's own drop is foreign code.
            report_drop(op);
        }
    }

    /// All blocks of an op are done with: it is verified, or ended.
    fn pass_ended(&mut self, op: Arc<Transfer>) {
        let state = &op.state;
        if !state.validate || state.is_verifying() || !state.is_complete() || state.is_cancelled() {
            self.ended.push(op);
            return;
        }
        match attempt("a getter", || prepare::prepare_verify(&op)) {
            Ok(()) => self.shared.requeue(op),
            Err(error) => {
                state.fail(0, error);
                self.ended.push(op);
            }
        }
    }

    /// Gives the device what was issued, before something else that takes time.
    fn hand_over(&mut self) -> Result<(), String> {
        self.submit()?;
        self.reap(0, Some(Duration::ZERO))
    }

    fn submit(&mut self) -> Result<(), String> {
        self.gathered = 0;
        let refused = |error| format!("the I/O queue refused its blocks: {error}");
        if self.flight.submit().map_err(refused)? || self.flight.in_queue() > 0 {
            self.refused = 0;
        } else {
            self.refused += 1;
        }
        if self.refused < MAX_RETRIES { Ok(()) } else { Err("the I/O queue takes no blocks".to_owned()) }
    }

    /// Waits for completions or a wake-up.
    fn wait(&mut self) -> Result<(), String> {
        let in_flight = self.flight.in_queue();
        let mut sleeping = false;
        if self.may_claim() {
            // What comes from now on has to wake this thread.
            match self.claim(self.flight.room(), true) {
                Claim::Nothing if self.ended.is_empty() => sleeping = true,
                Claim::Nothing | Claim::Blocks => return Ok(()),
                Claim::Prepare(op, pass) => {
                    self.preparing = Some(op);
                    self.prepare(pass);
                    return Ok(());
                }
            }
        }
        let min = match in_flight {
            0 => 0,
            _ if self.shared.config.overlap_events => 1,
            all => all,
        };
        let now = Instant::now;
        let timeout = self.delayed.iter().map(|(due, ..)| due.saturating_duration_since(now())).min();
        // What was refused a moment ago, with nothing in flight here that could make room.
        let refused = self.flight.has_unsubmitted() || self.out_of_files;
        let timeout = if refused && in_flight == 0 { Some(RETRY_INTERVAL) } else { timeout };
        // The last look before blocking: the waker makes up for what comes after it.
        let timeout = if self.shared.inboxes[self.id].has_requests() { Some(Duration::ZERO) } else { timeout };
        self.publish();
        let reaped = self.reap(min, timeout);
        self.out_of_files = false;
        if sleeping {
            self.shared.work.awake(self.id);
        }
        reaped
    }

    /// Looks for work for a while before blocking: waking a thread on another CPU costs many times a small read.
    fn spin(&mut self) {
        let (work, inbox) = (&self.shared.work, &self.shared.inboxes[self.id]);
        self.shared.spin_until(None, || work.has_waiting() || inbox.has_requests());
    }

    /// Reaps, and deals with completions.
    fn reap(&mut self, min: usize, timeout: Option<Duration>) -> Result<(), String> {
        let reaped = self.flight.reap(min, timeout);
        self.deal()?;
        reaped.map_err(|error| format!("the I/O queue broke: {error}"))
    }

    /// Deals with what was reaped, until as much was copied as [should be at once](STAGED_AT_ONCE).
    fn deal(&mut self) -> Result<(), String> {
        let before = self.staged;
        while self.staged - before < STAGED_AT_ONCE as u64 {
            let Some(done) = self.flight.next_done() else { break };
            let done = done.map_err(|UnknownToken(token)| {
                format!(
                    "the {} backend reported a block that it did not have ({token:#x})",
                    self.shared.backend.name()
                )
            })?;
            self.complete(done);
        }
        Ok(())
    }

    /// Deals with what a queue said of one block.
    fn complete(&mut self, done: Done) {
        let Done { index, result } = done;
        match self.judge(index, result) {
            Verdict::Finished { bytes } => self.finish_block(index, bytes),
            Verdict::Resume => self.flight.push_again(index),
            Verdict::Retry(error) => {
                self.counted.retries += 1;
                let retries = self.flight.block(index).map_or(u32::MAX, |(slot, _)| {
                    slot.retries += 1;
                    slot.retries
                });
                if retries > MAX_RETRIES {
                    self.fail_block_with(index, error);
                } else if retries > QUICK_RETRIES {
                    self.delayed.push((Instant::now() + RETRY_INTERVAL, index));
                } else {
                    self.flight.push_again(index);
                }
            }
            Verdict::ThroughCache => self.put_back(index),
            Verdict::Failed(error) => self.fail_block(index, error),
        }
    }

    /// The block in this place leaves it, to be claimed again alone.
    #[cold]
    fn put_back(&mut self, index: usize) {
        let again = self.flight.block(index).and_then(|(slot, run)| {
            let number = run.op.state.plan()?.number(slot.range);
            Some((run.op.clone(), number))
        });
        let (Some((op, block)), Some((id, staging))) = (again, self.flight.release(index)) else { return };
        if let Some(buffer) = staging {
            self.staging.give(buffer);
        }
        if op.state.priority == Priority::Background {
            self.background -= 1;
        }
        // The run may be over by this, and let the other route's writes in.
        self.finish_run(id);
        self.shared.put_back(Waiting::again(op, block));
    }

    /// The block in this place is over, well or not.
    pub(super) fn finish_block(&mut self, index: usize, bytes: usize) {
        let Some((id, staging)) = self.flight.release(index) else { return };
        if let Some(buffer) = staging {
            self.staged += bytes as u64;
            self.staging.give(buffer);
        }
        self.counted.blocks += 1;
        if let Some(run) = self.flight.run(id) {
            run.progress.done_with(1, bytes);
            if run.is_background() {
                self.background -= 1;
            }
        }
        self.finish_run(id);
    }

    fn retry_delayed(&mut self) {
        if self.delayed.is_empty() {
            return;
        }
        let now = Instant::now();
        let (due, later): (Vec<_>, Vec<_>) = self.delayed.drain(..).partition(|(due, ..)| *due <= now);
        self.delayed = later;
        for (_, index) in due {
            self.flight.push_again(index);
        }
    }

    fn handle_requests(&mut self) {
        let inbox = &self.shared.inboxes[self.id];
        if !inbox.has_requests() {
            return;
        }
        for request in inbox.take_requests() {
            match request {
                Request::RemoveFile(id) => {
                    self.registered.remove_file(self.flight.queue(), id);
                    self.shared.files.removed(id);
                }
                Request::ReleaseRegions(asked) => {
                    self.staging.give_back_unused();
                    self.shared.bounce.give_back_unused();
                    asked.regions().iter().for_each(|id| self.registered.retire_region(*id));
                    self.giving_back.push(asked);
                }
                Request::Barrier(barrier) => barrier.arrive(),
            }
        }
    }

    /// Removes regions that the arena asked for. New blocks do not name them any more.
    fn give_back(&mut self) {
        let Self { giving_back, flight, .. } = self;
        giving_back.retain(|asked| {
            let in_flight = flight.names_any(asked.regions());
            if !in_flight {
                Registrations::remove_regions(flight.queue(), asked.regions());
            }
            in_flight
        });
    }

    /// Tells users what has ended.
    fn flush(&mut self) {
        if self.ended.is_empty() {
            return;
        }
        self.publish();
        let shared = self.shared.clone();
        shared.end(self.ended.drain(..));
    }

    /// Brings the shared counters up to date.
    fn publish(&mut self) {
        let in_flight = std::mem::replace(&mut self.reported, self.flight.len() as u64);
        let gauge = &self.shared.counters.in_flight;
        match self.reported.cmp(&in_flight) {
            std::cmp::Ordering::Greater => {
                gauge.fetch_add(self.reported - in_flight, Ordering::Relaxed);
            }
            std::cmp::Ordering::Less => {
                gauge.fetch_sub(in_flight - self.reported, Ordering::Relaxed);
            }
            std::cmp::Ordering::Equal => {}
        }
        self.shared.counters.add(&mut self.counted);
    }

    /// The end of the worker, well or not: waits for what is in flight, fails what is left, answers the requests.
    fn stop(mut self, reason: &str) {
        let died = || Error::WorkerDied { reason: reason.to_owned() };
        let left = self.flight.close();
        self.delayed.clear();
        for run in left {
            run.op.state.fail(u64::MAX, died());
            let (op, blocks, bytes) = run.into_broken_account();
            if op.state.account(blocks, bytes) {
                self.ended.push(op);
            }
        }
        if let Some(op) = self.preparing.take() {
            op.state.fail(u64::MAX, died());
            self.ended.push(op);
        }
        self.flush();
        self.publish();
        let orphans = self.shared.work.worker_died(self.id, reason);
        self.shared.end(orphans);
        // Nobody else was woken for what this worker was expected to claim.
        self.shared.wake_all();
        for request in self.shared.inboxes[self.id].close() {
            match request {
                Request::RemoveFile(id) => self.shared.files.removed(id),
                Request::ReleaseRegions(_) => {}
                Request::Barrier(barrier) => barrier.arrive(),
            }
        }
        self.giving_back.clear();
        self.staging.give_back_unused();
        self.shared.bounce.give_back_unused();
        self.shared.arena.queue_ended(&self.shared.inboxes);
    }
}

fn is_out_of_files(error: &Error) -> bool {
    matches!(error, Error::Io(error) if error.op == OpKind::Open)
        && matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}
