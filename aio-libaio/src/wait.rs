//! How a queue sleeps until a block completes or its [`EventWaker`] rings.
//!
//! `io_getevents` waits for events of its context and nothing else, so the waker's bell has to become one: an
//! `IOCB_CMD_POLL` request on the eventfd, which completes once when the bell rings (Linux 4.19). Where that is EINVAL
//! it is the other way round: completions become an eventfd (`IOCB_FLAG_RESFD`), and `ppoll(2)` waits for both.
//!
//! The second way is not only for old kernels. gVisor, a kernel in user space that containers run on, has
//! `IOCB_FLAG_RESFD` and answers a poll with EINVAL. It maps zeros where Linux has the completion ring, so `Ring::of`
//! finds none there and events are fetched with `io_getevents`; and it comes with io_uring turned off, so that this
//! backend is the one to have.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use aio_core::backend::Unavailable;
use aio_core::backend::parts::{EventFd, EventWaker};
use libc::{POLLIN, pollfd};

use crate::abi::{IOCB_CMD_POLL, io_event, iocb};
use crate::context::{Context, timespec_of};
use crate::refusal;

/// The `data` of the poll request; slots of blocks are 32-bit numbers.
pub(crate) const BELL: u64 = u64::MAX;

/// How long to sleep at once when the kernel had no memory for the poll request.
const UNARMED_SLEEP: Duration = Duration::from_millis(1);

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
