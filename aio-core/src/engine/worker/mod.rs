//! The worker thread: a queue, a work queue of claimed runs, and a complete queue of ended ops.
//!
//! Its loop claims work until the I/O queue is full, ends the ops that are over, and waits for completions; submission
//! and wait are one system call where the backend can do that. The I/O queue is kept full across ops, and users' code
//! runs only after the device has got its next blocks.

mod claim;
mod counters;
mod issue;
mod reap;
mod requests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::{QueueConfig, Unavailable};
use crate::engine::callers_pages::WorkersMap;
use crate::engine::completion::{MAX_RETRIES, RETRY_INTERVAL};
use crate::engine::in_flight::{InFlight, RunId};
use crate::engine::op_queue::{Claimed, Found};
use crate::engine::registered::Registrations;
use crate::engine::staging::Staging;
use crate::engine::transfer::Transfer;
use crate::engine::{FILE_SLOTS, REGION_SLOTS, Shared};
use crate::error::Error;
use crate::foreign::contain;
use crate::inbox::RegionRequest;
use crate::memory::Holder;
use crate::sync::mpsc;
use crate::sync::thread::{self, JoinHandle};
use crate::threads::{block_signals, thread_main};

use self::counters::WorkerCounters;
use self::issue::Issued;

/// After passing this many bytes through staging memory a worker looks whether the queue has room: while it copies, the
/// device should have something to do.
const COPIED_AT_ONCE: usize = 256 << 10;
/// Staging buffers of a worker that may go beyond the arena's limit: while one is transferred, the other is copied.
const STAGING_BEYOND: usize = 2;

/// A worker thread; see the [module](self).
pub(crate) struct AioThread {
    id: usize,
    shared: Arc<Shared>,
    flight: InFlight,
    /// The work queue: runs that still have blocks to issue, oldest first.
    runs: VecDeque<RunId>,
    /// The complete queue: ops to be ended.
    ended: Vec<Arc<Transfer>>,
    /// An op in hand while it is being opened and planned.
    preparing: Option<Arc<Transfer>>,
    /// Blocks that wait for their next try.
    delayed: Vec<(Instant, usize)>,
    /// Blocks of background ops that hold a slot or are claimed.
    background: usize,
    staging: Staging,
    page_map: WorkersMap,
    /// Bytes that passed through it.
    staged: u64,
    /// Bytes that were copied there and are not submitted.
    copied: usize,
    registered: Registrations,
    /// What the arena asked for, until no block in flight names it. After `flight`: dropping one says that the queue
    /// does not have it any more.
    giving_back: Vec<Arc<dyn RegionRequest>>,
    counters: WorkerCounters,
    claimed: Claimed,
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
        page_map: WorkersMap::default(),
        registered: Registrations::new(
            Holder::new(&shared.inboxes, id),
            config.register_memory,
            config.register_files,
        ),
        giving_back: Vec::new(),
        flight,
        staged: 0,
        copied: 0,
        runs: VecDeque::new(),
        ended: Vec::new(),
        preparing: None,
        delayed: Vec::new(),
        background: 0,
        counters: WorkerCounters::default(),
        claimed: Claimed::default(),
        out_of_files: false,
        refused: 0,
        shared,
    };
    let _ = report.send(Ok(()));
    worker.run_to_the_end();
}

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
        let ended = self.work();
        if ended.is_err() {
            // What the queue reported before it broke has happened.
            while self.flight.has_done() && self.handle_completions().is_ok() {}
        }
        ended
    }

    fn work(&mut self) -> Result<(), String> {
        loop {
            self.handle_requests();
            self.give_back_regions();
            self.fill()?;
            self.end_ops();
            if self.flight.has_done() {
                self.reap(0, Some(Duration::ZERO))?;
                continue;
            }
            if self.flight.len() == 0 && self.delayed.is_empty() && self.runs.is_empty() {
                if self.shared.op_queue.is_finished() {
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
                Found::Blocks => {}
                Found::Unprepared(op, permit) => {
                    // The device works while the next file is opened, and what has ended closes its file first.
                    self.preparing = Some(op);
                    if self.flight.has_unsubmitted() {
                        self.hand_over()?;
                    }
                    self.end_ops();
                    self.prepare(permit);
                }
                Found::Nothing | Found::Asleep if self.ended.is_empty() => break,
                Found::Nothing | Found::Asleep => self.end_ops(),
            }
        }
        self.submit()
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

    /// Gives the device what was issued, before something else that takes time.
    fn hand_over(&mut self) -> Result<(), String> {
        self.submit()?;
        self.reap(0, Some(Duration::ZERO))
    }

    fn submit(&mut self) -> Result<(), String> {
        self.copied = 0;
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
                Found::Asleep => sleeping = true,
                Found::Nothing | Found::Blocks => return Ok(()),
                Found::Unprepared(op, permit) => {
                    self.preparing = Some(op);
                    self.prepare(permit);
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
        self.add_counters();
        let reaped = self.reap(min, timeout);
        self.out_of_files = false;
        if sleeping {
            self.shared.op_queue.awake(self.id);
        }
        reaped
    }

    /// Looks for work for a while before blocking: waking a thread on another CPU costs many times a small read.
    fn spin(&mut self) {
        let (op_queue, inbox) = (&self.shared.op_queue, &self.shared.inboxes[self.id]);
        self.shared.spin.until(None, || op_queue.has_queued() || inbox.has_requests());
    }

    /// Ends the ops of the complete queue, which runs users' code.
    fn end_ops(&mut self) {
        if self.ended.is_empty() {
            return;
        }
        self.add_counters();
        let shared = self.shared.clone();
        shared.end(self.ended.drain(..));
    }

    fn add_counters(&mut self) {
        self.counters.add_to(&self.shared.counters, self.flight.len());
    }

    /// The end of the worker, well or not: waits for what is in flight, fails what is left, answers its inbox.
    fn stop(mut self, reason: &str) {
        let died = || Error::WorkerDied { reason: reason.to_owned() };
        let left = self.flight.close();
        self.delayed.clear();
        // There is something in it only if the claim panicked.
        self.ended.append(&mut self.claimed.ended);
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
        self.end_ops();
        self.add_counters();
        let orphans = self.shared.op_queue.worker_died(self.id, reason);
        self.shared.end(orphans);
        // No other worker was woken for what this one was expected to claim.
        self.shared.wake_all();
        self.close_inbox();
    }
}
