//! Reaping: what has completed, and the sleep until a block completes or the queue's [`EventWaker`] rings.
//!
//! `io_getevents` waits for events of its context and nothing else, so the waker's bell has to become one: an
//! `IOCB_CMD_POLL` request on the eventfd, which completes once when the bell rings (Linux 4.19). Where that is EINVAL
//! it is the other way round: completions become an eventfd (`IOCB_FLAG_RESFD`), and `ppoll(2)` waits for both.
//!
//! The second way is not only for old kernels. gVisor, a kernel in user space that containers run on, has
//! `IOCB_FLAG_RESFD` and answers a poll with EINVAL. It maps zeros where Linux has the completion ring, so
//! `CompletionRing::of` finds none there and events are fetched with `io_getevents`; and it comes with io_uring
//! turned off, so that this backend is the one to have.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use aio_core::backend::parts::{EventFd, EventWaker};
use aio_core::backend::{Completion, Unavailable};
use libc::{POLLIN, pollfd};

use crate::abi::{IOCB_CMD_POLL, io_event, iocb};
use crate::context::{Context, timespec_of};
use crate::queue::LibaioQueue;
use crate::refusal;
use crate::slots::Slots;

/// The `data` of the poll request; slots of blocks are 32-bit numbers.
pub(crate) const BELL: u64 = u64::MAX;

/// How long to sleep at once when the kernel had no memory for the poll request.
const UNARMED_SLEEP: Duration = Duration::from_millis(1);

impl LibaioQueue {
    /// The body of `reap`, without the end of the wait that every way out of it needs.
    pub(crate) fn reap_or_be_woken(
        &mut self,
        min: usize,
        timeout: Option<Duration>,
        done: &mut Vec<Completion>,
    ) -> io::Result<()> {
        let in_flight = self.slots.in_flight();
        let target = if in_flight == 0 { usize::MAX } else { done.len() + min.min(in_flight) };
        self.slots.report_over(done);
        self.collect(done)?;
        if timeout == Some(Duration::ZERO) || done.len() >= target {
            return Ok(());
        }
        // A deadline past the end of time is none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            // In this order: `prepare` may forget a ring of the bell, but then its wake-up shows right after.
            self.wait.prepare(&self.context, &self.waker)?;
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) || !self.waker.announce() {
                return Ok(());
            }
            self.wait.sleep(&self.context, &self.waker, left, &mut self.events)?;
            self.sort_fetched(done)?;
            self.collect(done)?;
            if done.len() >= target {
                return Ok(());
            }
        }
    }

    /// Takes what has completed, without waiting.
    pub(crate) fn collect(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        if !self.context.has_ring() {
            // Retried at a signal: giving up here could leave events behind whose eventfd was silenced already.
            while let Err(error) = self.context.getevents(0, Some(Duration::ZERO), &mut self.events) {
                if error.raw_os_error() != Some(libc::EINTR) {
                    return Err(error);
                }
            }
            return self.sort_fetched(done);
        }
        let mut sorted = Ok(());
        let (slots, wait) = (&mut self.slots, &mut self.wait);
        if let Some(ring) = self.context.ring() {
            ring.consume(|event| {
                if let Err(stray) = sort(event, slots, wait, done) {
                    sorted = Err(stray);
                }
            });
        }
        sorted
    }

    /// Sorts what `io_getevents` left in `self.events`.
    pub(crate) fn sort_fetched(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        let mut sorted = Ok(());
        for event in self.events.drain(..) {
            if let Err(stray) = sort(&event, &mut self.slots, &mut self.wait, done) {
                sorted = Err(stray);
            }
        }
        sorted
    }

    /// Sleeps until at least one event came, and throws completions away.
    pub(crate) fn discard_some(&mut self, discarded: &mut Vec<Completion>) -> io::Result<()> {
        discarded.clear();
        match self.context.getevents(1, None, &mut self.events) {
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => Ok(()),
            fetched => fetched.and_then(|()| self.sort_fetched(discarded)),
        }
    }
}

/// Routes one event: the bell's to `wait`, a block's to `done`.
fn sort(event: &io_event, slots: &mut Slots, wait: &mut Wait, done: &mut Vec<Completion>) -> io::Result<()> {
    if event.data == BELL {
        wait.rang();
        return Ok(());
    }
    if slots.complete(event, done) {
        return Ok(());
    }
    Err(io::Error::other(format!("the completion ring names request {}, which is not in flight", event.data)))
}

/// One of the two ways, chosen when the queue is opened.
#[derive(Debug)]
pub(crate) enum Wait {
    /// A poll request on the bell in the context, in addition to the requests of blocks.
    Poll {
        /// Whether the request is in the kernel or its event has not been taken from the ring: never two of them.
        armed: bool,
    },
    /// The eventfd that every block's request signals.
    Resfd(EventFd),
}

impl Wait {
    /// Arms the first poll request, which shows whether the kernel knows such a thing.
    pub(crate) fn open(context: &Context, waker: &EventWaker, poll: bool) -> Result<Self, Unavailable> {
        if poll {
            match arm(context, waker) {
                Ok(()) => return Ok(Self::Poll { armed: true }),
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                Err(error) => return Err(refusal::of_waker("io_submit of a poll", &error)),
            }
        }
        EventFd::new().map(Self::Resfd).map_err(|error| refusal::of_waker("eventfd", &error))
    }

    /// The eventfd for the requests of blocks to signal, if they have to.
    pub(crate) fn resfd(&self) -> Option<u32> {
        match self {
            Self::Poll { .. } => None,
            Self::Resfd(completed) => Some(completed.as_fd().as_raw_fd().cast_unsigned()),
        }
    }

    /// Notes that the poll request's event was taken from the ring.
    pub(crate) fn rang(&mut self) {
        if let Self::Poll { armed } = self {
            *armed = false;
        }
    }

    /// Makes the next ring of the bell end a [`sleep`](Self::sleep). Rings before this may be forgotten, so announce the
    /// wait between this and `sleep`.
    pub(crate) fn prepare(&mut self, context: &Context, waker: &EventWaker) -> io::Result<()> {
        let Self::Poll { armed } = self else { return Ok(()) };
        if !*armed {
            // The bell rang once, or the request would still be armed; left ringing, it would ring at once again.
            waker.bell().silence();
            match arm(context, waker) {
                Ok(()) => *armed = true,
                // No memory now. `sleep` naps, and this is tried again.
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sleeps until a block completed, the bell rang, `timeout` passed (`None`: no limit) or, now and then, for no
    /// reason. Events that came with it are in `events`; there may be more in the context.
    pub(crate) fn sleep(
        &self,
        context: &Context,
        waker: &EventWaker,
        timeout: Option<Duration>,
        events: &mut Vec<io_event>,
    ) -> io::Result<()> {
        let slept = match self {
            // Always for one event: asked for more, the kernel would sleep on when the bell alone has rung.
            Self::Poll { armed: true } => context.getevents(1, timeout, events),
            // Deaf to the bell, so in short naps; the caller looks for wake-ups and tries to arm again in between.
            Self::Poll { armed: false } => {
                let nap = timeout.map_or(UNARMED_SLEEP, |timeout| timeout.min(UNARMED_SLEEP));
                context.getevents(1, Some(nap), events)
            }
            Self::Resfd(completed) => {
                events.clear();
                either_readable(completed, waker.bell(), timeout)
            }
        };
        if let Self::Resfd(completed) = self {
            // Silenced before the caller looks: at the ring, where an event is put before its eventfd is signalled,
            // and at the waker's word, which changes before the bell rings.
            completed.silence();
            waker.bell().silence();
        }
        match slept {
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => Ok(()),
            slept => slept,
        }
    }
}

/// Submits a poll request on the bell.
fn arm(context: &Context, waker: &EventWaker) -> io::Result<()> {
    let mut request = iocb {
        aio_data: BELL,
        aio_lio_opcode: IOCB_CMD_POLL,
        aio_fildes: waker.bell().as_fd().as_raw_fd().cast_unsigned(),
        aio_buf: u64::from(POLLIN.cast_unsigned()),
        ..iocb::default()
    };
    loop {
        // SAFETY: the kernel uses the request during this call only, and it names no memory. The descriptor may be
        // closed while the request is pending: the kernel then holds the eventfd by a reference of its own.
        match unsafe { context.submit(&mut [&raw mut request]) } {
            Ok(0) => return Err(io::Error::from_raw_os_error(libc::EAGAIN)),
            Ok(_) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// `ppoll(2)` until one of the two is readable or `timeout` passed.
fn either_readable(first: &EventFd, second: &EventFd, timeout: Option<Duration>) -> io::Result<()> {
    let mut fds = [first, second].map(|fd| pollfd { fd: fd.as_fd().as_raw_fd(), events: POLLIN, revents: 0 });
    let timeout = timeout.map(timespec_of);
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `fds` is an array of two, `timeout` is null or points to a local, and no signal mask is passed.
    let ready = unsafe { libc::ppoll(fds.as_mut_ptr(), 2, timeout, std::ptr::null()) };
    if ready < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
