//! The queue: which blocks are in flight, and how to wait for them.
//!
//! A block is in flight from the moment its request was pushed, not from the moment the kernel took it: a request that
//! was pushed before a failed system call is still queued and goes with the next one, so its memory is not free.
//!
//! Two bounds make overflow impossible. The submission queue has room for every block in flight and the request that
//! watches the bell, and the completion queue is at least as large; `submit` accepts no block beyond that.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use aio_core::backend::parts::{EventWaker, ProcessGeneration, log};
use aio_core::backend::{Completion, FileId, IoBlock, IoQueue, QueueConfig, Region, RegionId, Unavailable, Wake};
use io_uring::{opcode, types};

use crate::blocks::Blocks;
use crate::plain::{Checked, transfer};
use crate::refusal;
use crate::register::Tables;
use crate::request::request;
use crate::ring::{Enter, Ring};
use crate::setup::Rung;

/// The number of the request that watches the bell; blocks never have it.
const BELL: u64 = u64::MAX;
/// Places in the ring that are not for blocks: one for that request.
const RESERVED: usize = 1;
/// The most that a ring holds, `IORING_MAX_ENTRIES`.
const MAX_ENTRIES: usize = QueueConfig::MAX_DEPTH;
/// How long the kernel may refuse a submission while it has nothing of ours to finish first.
const PATIENCE: Duration = Duration::from_secs(1);
/// The most of that which one attempt counts for, however long after the last one it comes.
const LAPSE: Duration = Duration::from_millis(100);
/// How long to leave it alone in between.
const PAUSE: Duration = Duration::from_millis(1);
/// How long no request may wait for a kernel worker once the kernel could not make one, which it takes 60 ms to say.
const NO_WORKERS: Duration = Duration::from_secs(5);

/// An [`IoQueue`] on a ring of its own.
pub(crate) struct UringQueue {
    /// Before `tables`: fields are dropped in this order, and regions must outlive the ring that knows their memory.
    pub(crate) ring: Ring,
    pub(crate) tables: Tables,
    pub(crate) waker: Arc<EventWaker>,
    capacity: usize,
    single_submit: bool,
    /// Blocks accepted and not reported.
    in_flight: usize,
    /// Those of them that went to the ring.
    blocks: Blocks,
    /// Those of them that went past the ring, and are over.
    over: Vec<Completion>,
    /// The kernel could not make a worker; see [`plain`](crate::plain).
    no_workers_until: Option<Instant>,
    /// Requests pushed so far, of blocks and of the bell.
    pushed: u64,
    /// The value of `pushed` at which the request that watches the bell was pushed, until it completes.
    bell_watched: Option<u64>,
    /// The kernel has taken no request and finished none since this.
    refused: Option<Refused>,
    /// `drain` gave requests up that are still in the submission queue: they must never be submitted.
    closed: bool,
    /// A fork's copy shares the ring but must not touch it.
    made_in: ProcessGeneration,
}

/// How long the kernel has been refusing: not by the clock, for nobody may have asked it in between.
#[derive(Debug)]
struct Refused {
    last: Instant,
    spent: Duration,
}

impl UringQueue {
    pub(crate) fn open(config: &QueueConfig, ladder: &[Rung]) -> Result<Self, Unavailable> {
        let depth = config.clamped_depth();
        let entries = (depth + RESERVED).next_power_of_two().min(MAX_ENTRIES);
        let ring = Ring::open(ladder, entries as u32).map_err(|error| refusal::of_setup(&error))?;
        let waker = EventWaker::new().map_err(|error| refusal::of_waker("eventfd", &error))?;
        let tables = Tables::reserve(&ring.submitter(), config);
        Ok(Self {
            capacity: depth.min(ring.entries() - RESERVED),
            ring,
            tables,
            waker: Arc::new(waker),
            single_submit: config.single_submit,
            in_flight: 0,
            blocks: Blocks::default(),
            over: Vec::new(),
            no_workers_until: None,
            pushed: 0,
            bell_watched: None,
            refused: None,
            closed: false,
            made_in: ProcessGeneration::now(),
        })
    }

    /// What this queue uses, but for what the caller registers.
    pub(crate) fn features(&self) -> Vec<String> {
        self.ring.features()
    }

    /// The body of `reap`, without the end of the wait that every way out of it needs.
    fn reap_or_be_woken(
        &mut self,
        min: usize,
        timeout: Option<Duration>,
        done: &mut Vec<Completion>,
    ) -> io::Result<()> {
        let idle = self.in_flight == 0;
        // What went past the ring does not say that the kernel has nothing to report.
        let start = done.len() + self.over.len();
        let goal = done.len() + min.min(self.in_flight);
        let may_wait = timeout != Some(Duration::ZERO) && (idle || min > 0);
        let deadline = timeout.filter(|_| may_wait).and_then(|timeout| Instant::now().checked_add(timeout));
        let mut entered = false;
        loop {
            self.collect(done)?;
            let mut wait = may_wait && (idle || done.len() < goal);
            let limit = deadline.filter(|_| wait).map(|deadline| deadline.saturating_duration_since(Instant::now()));
            wait = wait && limit != Some(Duration::ZERO) && self.waker.announce();
            if wait {
                self.watch_bell()?;
            }
            let nothing_to_gain = entered || done.len() > start || !self.ring.completions_deferred();
            if !wait && nothing_to_gain && self.ring.queued() == 0 {
                return Ok(());
            }
            // One completion at a time, although `min` may be more: the bell is only one, and has to end the wait.
            let then = if wait { Enter::Wait { limit, idle } } else { Enter::Flush };
            match self.enter(then) {
                Ok(()) => entered = true,
                Err(error) => match error.raw_os_error() {
                    // Whether the time is up, the clock says.
                    Some(libc::EINTR | libc::ETIME) => {}
                    Some(libc::EAGAIN | libc::EBUSY) => {
                        self.hold_back(error, wait, limit)?;
                        if !wait {
                            return self.collect(done);
                        }
                    }
                    _ => return Err(error),
                },
            }
        }
    }

    /// Submits all that is queued, and what else [`Ring::enter`] does. EAGAIN if the kernel took nothing. The only way
    /// for a request to reach the kernel.
    fn enter(&mut self, then: Enter) -> io::Result<()> {
        self.check_open()?;
        let queued = self.ring.queued();
        match self.ring.enter(queued, then)? {
            0 if queued > 0 => return Err(io::Error::from_raw_os_error(libc::EAGAIN)),
            0 => {}
            _ => self.refused = None,
        }
        Ok(())
    }

    fn check_open(&self) -> io::Result<()> {
        self.made_in.check()?;
        if self.closed { Err(io::Error::from_raw_os_error(libc::ESHUTDOWN)) } else { Ok(()) }
    }

    /// Moves what has completed to `done`, without a system call but for blocks that the ring did not do.
    fn collect(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        let mut outcome = Ok(());
        self.in_flight -= self.over.len();
        done.append(&mut self.over);
        let mut not_done = Vec::new();
        for completion in self.ring.completions() {
            let (number, result) = (completion.user_data(), completion.result());
            if number == BELL {
                self.bell_watched = None;
                self.waker.bell().silence();
                if result < 0 {
                    outcome = Err(io::Error::from_raw_os_error(-result));
                }
            } else {
                self.in_flight -= 1;
                self.refused = None;
                let block = self.blocks.take(number);
                match result.wrapping_neg() {
                    libc::ECANCELED => {
                        self.no_workers_until = Instant::now().checked_add(NO_WORKERS);
                        not_done.push(*block);
                    }
                    libc::EAGAIN | libc::EOPNOTSUPP => not_done.push(*block),
                    // Linux 5.9 and 5.10 may say so of a read that must not wait.
                    0 if self.no_workers_until.is_some() => not_done.push(*block),
                    _ => done.push(Completion::from_kernel(block.token, result.into())),
                }
            }
        }
        if !not_done.is_empty() {
            self.submit_before_plain_call();
        }
        for block in not_done {
            // SAFETY: the caller of `submit` keeps the block's memory valid until it is reported, which it is by this.
            done.push(unsafe { transfer(&block) });
        }
        outcome
    }

    /// A plain call may take long: what can go on meanwhile does. A failure is the next reap's.
    fn submit_before_plain_call(&mut self) {
        if self.ring.queued() > 0 {
            let _ = self.enter(Enter::Submit);
        }
    }

    /// Whether requests have to do without kernel workers.
    pub(crate) fn is_without_workers(&mut self) -> bool {
        self.no_workers_until = self.no_workers_until.filter(|until| Instant::now() < *until);
        self.no_workers_until.is_some()
    }

    /// Queues the request that completes when the bell rings, unless there is one. It stays in the ring from one reap
    /// to the next. A poll rather than a read: it names no memory, so nothing has to outlive the ring for it.
    fn watch_bell(&mut self) -> io::Result<()> {
        if self.bell_watched.is_some() {
            return Ok(());
        }
        let watch =
            opcode::PollAdd::new(types::Fd(self.waker.bell().as_fd().as_raw_fd()), libc::POLLIN as u32).build();
        // SAFETY: the request points to no memory.
        if unsafe { self.ring.push(std::iter::once(watch.user_data(BELL))) } == 0 {
            return Err(io::Error::other("the submission queue is full beyond the capacity of the queue"));
        }
        self.bell_watched = Some(self.pushed);
        self.pushed += 1;
        Ok(())
    }

    /// The kernel takes no request now. Lets it finish what it has, for a moment if `wait`, or fails with `cause` if it
    /// has had nothing to finish for too long.
    fn hold_back(&mut self, cause: io::Error, wait: bool, limit: Option<Duration>) -> io::Result<()> {
        let now = Instant::now();
        let refused = self.refused.get_or_insert(Refused { last: now, spent: Duration::ZERO });
        refused.spent += now.saturating_duration_since(refused.last).min(LAPSE);
        refused.last = now;
        let out_of_patience = refused.spent >= PATIENCE;
        if out_of_patience && self.in_flight == self.unsent() {
            return Err(cause);
        }
        let pause = limit.map_or(PAUSE, |limit| limit.min(PAUSE));
        let then = if wait { Enter::Wait { limit: Some(pause), idle: false } } else { Enter::Flush };
        match self.ring.enter(0, then).map_err(|error| (error.raw_os_error(), error)) {
            Ok(_) | Err((Some(libc::EINTR | libc::ETIME), _)) => Ok(()),
            Err((Some(libc::EAGAIN | libc::EBUSY), _)) => {
                if wait {
                    thread::sleep(pause);
                }
                Ok(())
            }
            Err((_, error)) => Err(error),
        }
    }

    #[cfg(test)]
    pub(crate) fn pretend_refused_before(&mut self, ago: Duration) {
        let refused = self.refused.as_mut().expect("the kernel refused something");
        refused.last = refused.last.checked_sub(ago).expect("a clock that old");
    }

    /// As if a block had gone past the ring.
    #[cfg(test)]
    pub(crate) fn pretend_over(&mut self, completion: Completion) {
        self.over.push(completion);
        self.in_flight += 1;
    }

    /// Blocks whose request the kernel has not taken.
    fn unsent(&mut self) -> usize {
        let queued = self.ring.queued();
        let first_queued = self.pushed - queued as u64;
        let watch_is_queued = self.bell_watched.is_some_and(|at| at >= first_queued);
        queued - usize::from(watch_is_queued)
    }
}

impl IoQueue for UringQueue {
    fn capacity(&self) -> usize {
        self.capacity
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    unsafe fn submit(&mut self, blocks: &[IoBlock]) -> io::Result<usize> {
        self.check_open()?;
        let blocks = &blocks[..blocks.len().min(self.capacity - self.in_flight)];
        let mut accepted = 0;
        let no_wait = self.is_without_workers();
        let mut checked = Checked::default();
        let any_plain = blocks.iter().any(|block| checked.needs_plain_call(block, &self.tables));
        for together in blocks.chunks(if self.single_submit || any_plain { 1 } else { blocks.len().max(1) }) {
            if any_plain && checked.needs_plain_call(&together[0], &self.tables) {
                self.submit_before_plain_call();
                // SAFETY: the caller keeps the block's memory valid for longer than this call.
                self.over.push(unsafe { transfer(&together[0]) });
                self.in_flight += 1;
                accepted += 1;
                continue;
            }
            let (tables, in_ring) = (&self.tables, &mut self.blocks);
            let requests = together.iter().map(|block| {
                let region = block.region.and_then(|id| tables.region(id));
                let file = block.file.and_then(|id| tables.file(id));
                request(block, region, file, no_wait).user_data(in_ring.insert(block))
            });
            // SAFETY: the caller keeps the blocks' memory valid until their completions are reaped, or `drain` has
            // returned 0, which it does only when no request of a block can reach the kernel any more.
            let pushed = unsafe { self.ring.push(requests) };
            self.pushed += pushed as u64;
            self.in_flight += pushed;
            accepted += pushed;
            if self.single_submit {
                // Accepted all the same if this fails: the next reap submits it, and reports the failure if it lasts.
                let _ = self.enter(Enter::Submit);
            }
            if pushed < together.len() {
                break;
            }
        }
        Ok(accepted)
    }

    fn reap(&mut self, min: usize, timeout: Option<Duration>, done: &mut Vec<Completion>) -> io::Result<()> {
        self.check_open()?;
        let outcome = self.reap_or_be_woken(min, timeout, done);
        self.waker.retract();
        outcome
    }

    fn drain(&mut self) -> usize {
        // The blocks are the parent's, in its memory. Nothing is logged, either: a thread that does not exist here may
        // hold the lock of the log.
        if self.made_in.is_forked() {
            self.in_flight = 0;
            return 0;
        }
        let mut thrown_away = Vec::new();
        while self.in_flight > 0 && !self.closed {
            thrown_away.clear();
            if let Err(error) = self.reap(1, None, &mut thrown_away) {
                log(|| tracing::error!(%error, unsent = self.unsent(), "io_uring: draining a broken queue"));
                // Nothing submits from now on, so these never reach the kernel.
                self.in_flight -= self.unsent();
                self.closed = true;
            }
        }
        while self.in_flight > 0 {
            thrown_away.clear();
            // An error here is one of the bell, which nobody listens to any more.
            let _ = self.collect(&mut thrown_away);
            if self.in_flight == 0 {
                break;
            }
            match self.ring.enter(0, Enter::Wait { limit: None, idle: false }) {
                Ok(_) => {}
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN | libc::EBUSY) => thread::sleep(PAUSE),
                    _ => break,
                },
            }
        }
        self.in_flight
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.waker) as Arc<dyn Wake>
    }

    fn add_region(&mut self, region: &Region) -> io::Result<()> {
        self.check_open()?;
        self.tables.add_region(&self.ring.submitter(), region)
    }

    fn remove_region(&mut self, id: RegionId) -> io::Result<()> {
        self.made_in.check()?;
        self.tables.remove_region(&self.ring.submitter(), id)
    }

    fn add_file(&mut self, id: FileId, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.check_open()?;
        self.tables.add_file(&self.ring.submitter(), id, fd)
    }

    fn remove_file(&mut self, id: FileId) -> io::Result<()> {
        self.made_in.check()?;
        self.tables.remove_file(&self.ring.submitter(), id)
    }
}

impl Drop for UringQueue {
    /// Closing a ring does not wait for direct I/O in flight, so this does.
    fn drop(&mut self) {
        let stuck = self.drain();
        if stuck > 0 {
            log(|| {
                tracing::error!(blocks = stuck, "io_uring: blocks can never be reaped; registered memory is leaked");
            });
        }
        if stuck > 0 || self.made_in.is_forked() {
            std::mem::forget(std::mem::take(&mut self.tables));
        } else {
            self.tables.unregister(&self.ring.submitter());
        }
    }
}

impl fmt::Debug for UringQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UringQueue")
            .field("capacity", &self.capacity)
            .field("in_flight", &self.in_flight)
            .field("features", &self.features())
            .finish_non_exhaustive()
    }
}
