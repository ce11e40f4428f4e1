//! The queue: which blocks are in flight.
//!
//! A block is in flight from the moment its request was pushed, not from the moment the kernel took it: a request that
//! was pushed before a failed system call is still queued and goes with the next one, so its memory is not free.
//!
//! Two bounds make overflow impossible. The submission queue has room for every block in flight and the request that
//! watches the bell, and the completion queue is at least as large; `submit` accepts no block beyond that.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use aio_core::backend::parts::{EventWaker, ProcessGeneration, log};
use aio_core::backend::{Completion, FileId, IoBlock, IoQueue, QueueConfig, Region, RegionId, Unavailable, Wake};

use crate::blocks::Blocks;
use crate::plain::{Checked, transfer};
use crate::refusal;
use crate::register::Tables;
use crate::request::request;
use crate::ring::{Enter, Ring};
use crate::setup::Rung;
use crate::wait::{PAUSE, Refused};

/// Places in the ring that are not for blocks: one for the request that watches the bell.
const RESERVED: usize = 1;
/// The most that a ring holds, `IORING_MAX_ENTRIES`.
const MAX_ENTRIES: usize = QueueConfig::MAX_DEPTH;

/// An [`IoQueue`] on a ring of its own.
pub(crate) struct UringQueue {
    /// Before `tables`: fields are dropped in this order, and regions must outlive the ring that knows their memory.
    pub(crate) ring: Ring,
    pub(crate) tables: Tables,
    pub(crate) waker: Arc<EventWaker>,
    capacity: usize,
    single_submit: bool,
    /// Blocks accepted and not reported.
    pub(crate) in_flight: usize,
    /// Those of them that went to the ring.
    pub(crate) blocks: Blocks,
    /// Those of them that went past the ring, and are over.
    pub(crate) over: Vec<Completion>,
    /// The kernel could not make a worker; see [`plain`](crate::plain).
    pub(crate) no_workers_until: Option<Instant>,
    /// Requests pushed so far, of blocks and of the bell.
    pub(crate) pushed: u64,
    /// The value of `pushed` at which the request that watches the bell was pushed, until it completes.
    pub(crate) bell_watched: Option<u64>,
    /// The kernel has taken no request and finished none since this.
    pub(crate) refused: Option<Refused>,
    /// `drain` gave requests up that are still in the submission queue: they must never be submitted.
    closed: bool,
    /// A fork's copy shares the ring but must not touch it.
    made_in: ProcessGeneration,
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

    /// Submits all that is queued, and what else [`Ring::enter`] does. EAGAIN if the kernel took nothing. The only way
    /// for a request to reach the kernel.
    pub(crate) fn enter(&mut self, then: Enter) -> io::Result<()> {
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

    /// A plain call may take long: what can go on meanwhile does. A failure is the next reap's.
    pub(crate) fn submit_before_plain_call(&mut self) {
        if self.ring.queued() > 0 {
            let _ = self.enter(Enter::Submit);
        }
    }

    /// Whether requests have to do without kernel workers.
    pub(crate) fn is_without_workers(&mut self) -> bool {
        self.no_workers_until = self.no_workers_until.filter(|until| Instant::now() < *until);
        self.no_workers_until.is_some()
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
    pub(crate) fn unsent(&mut self) -> usize {
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
            // An error here is one of the bell, which no wait polls any more.
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
