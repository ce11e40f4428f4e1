//! One native AIO context as a queue.
//!
//! `submit` goes to the kernel right away: there is no call that submits and reaps, so putting it off would only keep
//! the device waiting. `reap` looks at the ring first and enters the kernel only to sleep.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use aio_core::backend::parts::{EventWaker, ProcessGeneration, log};
use aio_core::backend::{Completion, IoBackend, IoBlock, IoQueue, QueueConfig, Unavailable, Wake};

use crate::abi::io_event;
use crate::context::Context;
use crate::refusal;
use crate::slots::Slots;
use crate::wait::Wait;
use crate::{Avoid, LibaioBackend};

/// How often a submission that the kernel has no room for is tried when nothing is in flight that could make room;
/// with pauses of 1, 2, 4, ... ms that is about a second.
pub(crate) const LONELY_TRIES: u32 = 10;

/// An [`IoQueue`] on a kernel AIO context of its own.
pub(crate) struct LibaioQueue {
    // First, so that the kernel is done with the requests and the eventfds before they go.
    pub(crate) context: Context,
    pub(crate) slots: Slots,
    pub(crate) wait: Wait,
    pub(crate) waker: Arc<EventWaker>,
    /// Where `io_getevents` puts events; room for all that can be there, the poll request's included.
    pub(crate) events: Vec<io_event>,
    single_submit: bool,
    /// A fork's copy shares the context's ring but must not touch it.
    made_in: ProcessGeneration,
}

impl LibaioQueue {
    pub(crate) fn open(config: &QueueConfig, avoid: Avoid) -> Result<Self, Unavailable> {
        let capacity = config.clamped_depth() as u32;
        // One more for the poll request on the waker. The kernel grants all of it or refuses.
        let requests = capacity + 1;
        let context = Context::setup(requests, !avoid.ring).map_err(|error| refusal::of_setup(requests, &error))?;
        let waker = EventWaker::new().map_err(|error| refusal::of_waker("eventfd", &error))?;
        let wait = Wait::open(&context, &waker, !avoid.poll)?;
        Ok(Self {
            context,
            slots: Slots::new(capacity),
            wait,
            waker: Arc::new(waker),
            events: Vec::with_capacity(requests as usize),
            single_submit: config.single_submit,
            made_in: ProcessGeneration::now(),
        })
    }

    /// What this queue uses.
    pub(crate) fn features(&self) -> Vec<String> {
        let wait = match self.wait {
            Wait::Poll { .. } => "IOCB_CMD_POLL",
            Wait::Resfd(_) => "IOCB_FLAG_RESFD",
        };
        let ring = self.context.has_ring().then_some("user-space reap");
        let library = cfg!(feature = "system-libaio").then_some("system-libaio");
        [ring, Some(wait), library].into_iter().flatten().map(str::to_owned).collect()
    }

    /// Hands the requests of `blocks`, which were staged, to the kernel, and returns how many are in flight by that.
    ///
    /// # Safety
    ///
    /// As [`IoQueue::submit`].
    unsafe fn submit_staged(&mut self, blocks: &[IoBlock]) -> io::Result<usize> {
        let staged = blocks.len();
        let mut accepted = 0;
        let mut tries = 0;
        while accepted < staged {
            let until = if self.single_submit { accepted + 1 } else { staged };
            // SAFETY: the pointers are those of distinct requests in the slab that nothing else touches during the
            // call. The caller vouches for what they describe until they are reaped, and a request leaves the count
            // of those in the kernel only then.
            let taken = unsafe { self.context.submit(&mut self.slots.pointers()[accepted..until]) };
            match taken.map_err(|error| (error.raw_os_error(), error)) {
                Ok(0) | Err((Some(libc::EAGAIN), _)) => {
                    if accepted > 0 {
                        break;
                    }
                    // With blocks in flight, reaping makes room. With none, only other processes do.
                    if self.slots.in_flight() > 0 {
                        return Err(io::Error::from_raw_os_error(libc::EAGAIN));
                    }
                    if tries == LONELY_TRIES {
                        return Err(io::Error::other(
                            "io_submit refused a request for a second with nothing in flight (EAGAIN): the kernel \
                             is short of memory",
                        ));
                    }
                    thread::sleep(Duration::from_millis(1 << tries));
                    tries += 1;
                }
                Ok(taken) => {
                    self.slots.took(taken);
                    accepted += taken;
                }
                Err((Some(libc::EINTR), _)) => {}
                Err((errno, error)) => {
                    let result = match errno {
                        // Of a file without asynchronous reads or writes, as in /proc; a plain call says what else it
                        // is. SAFETY: the caller keeps the block's memory valid for longer than this call.
                        Some(libc::EINVAL) => unsafe { LibaioBackend::default().transfer(&blocks[accepted]) },
                        _ => Err(error),
                    };
                    self.slots.refused(accepted, result);
                    accepted += 1;
                }
            }
        }
        Ok(accepted)
    }
}

impl IoQueue for LibaioQueue {
    fn capacity(&self) -> usize {
        self.slots.capacity()
    }

    fn in_flight(&self) -> usize {
        self.slots.in_flight()
    }

    unsafe fn submit(&mut self, blocks: &[IoBlock]) -> io::Result<usize> {
        self.made_in.check()?;
        let staged = self.slots.stage(blocks, self.wait.resfd());
        // SAFETY: the caller vouches for `blocks`, of which the staged ones are the first.
        let accepted = unsafe { self.submit_staged(&blocks[..staged]) };
        self.slots.settle(*accepted.as_ref().unwrap_or(&0));
        accepted
    }

    fn reap(&mut self, min: usize, timeout: Option<Duration>, done: &mut Vec<Completion>) -> io::Result<()> {
        self.made_in.check()?;
        let outcome = self.reap_or_be_woken(min, timeout, done);
        self.waker.retract();
        outcome
    }

    fn drain(&mut self) -> usize {
        // The blocks are the parent's, in its memory. Nothing is logged, either: a thread that does not exist here may
        // hold the lock of the log.
        if self.made_in.is_forked() {
            self.slots.clear();
            return 0;
        }
        let mut discarded = Vec::new();
        self.slots.report_over(&mut discarded);
        while self.slots.in_kernel() > 0 {
            if let Err(error) = self.discard_some(&mut discarded) {
                log(|| {
                    tracing::warn!(%error, "reaping the last blocks of a libaio queue failed; destroying its context");
                });
                // Waits for all of them as well.
                match self.context.destroy() {
                    Ok(()) => self.slots.clear(),
                    Err(_) => break,
                }
            }
        }
        self.slots.in_kernel()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.waker) as Arc<dyn Wake>
    }
}

impl Drop for LibaioQueue {
    /// Destroying a context waits for what is in flight, too, but it may fail.
    fn drop(&mut self) {
        let lost = self.drain();
        if lost > 0 {
            log(|| tracing::error!(lost, "a libaio queue was dropped with blocks that the kernel may still work on"));
        }
    }
}

impl fmt::Debug for LibaioQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LibaioQueue")
            .field("capacity", &self.capacity())
            .field("in_flight", &self.in_flight())
            .field("wait", &self.wait)
            .finish_non_exhaustive()
    }
}
