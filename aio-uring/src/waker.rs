//! Waking a queue that waits in the kernel: a flag that is the truth, and a doorbell for when nobody looks at it.
//!
//! The flag has three states and both sides change it only by read-modify-write operations, so all changes have one
//! order and each side learns what it replaced (the design of the parker in `std::thread`):
//!
//! * The queue is about to wait: Running -> Waiting. If the flag is Woken instead, it does not wait.
//! * A waker: anything -> Woken. If it replaced Waiting, it rings.
//! * The queue returns: anything -> Running.
//!
//! No wake-up is lost: a waker comes before "Running -> Waiting" in that order, and the queue does not wait; or after
//! it, and it rings. The bell is an eventfd, which stays readable until it is read: a ring that starts to poll it too
//! late still finds it so.
//!
//! A waker that was delayed between its change and its ringing may ring for a wait that is over. Nothing depends on it:
//! the queue silences the bell, looks at the flag again, and goes on waiting.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU8, Ordering};

use aio_core::Wake;

/// Nothing to do; nobody waits.
const RUNNING: u8 = 0;
/// The queue waits in the kernel or is about to.
const WAITING: u8 = 1;
/// Woken since the last reap returned.
const WOKEN: u8 = 2;

/// What a queue shares with its wakers. It owns its descriptor, so a wake after the queue's end does nothing.
#[derive(Debug)]
pub(crate) struct Bell {
    state: AtomicU8,
    eventfd: OwnedFd,
}

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that was just made, and that nobody else owns.
        let eventfd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { state: AtomicU8::new(RUNNING), eventfd })
    }

    /// What the ring polls for readability.
    pub(crate) fn as_raw_fd(&self) -> RawFd {
        self.eventfd.as_raw_fd()
    }

    /// The queue is about to wait: wakers ring from now on. False: it was woken already and must not wait.
    pub(crate) fn announce_wait(&self) -> bool {
        let before = self.state.compare_exchange(RUNNING, WAITING, Ordering::AcqRel, Ordering::Acquire);
        before != Err(WOKEN)
    }

    /// The queue returns to its owner, who sees all that a waker did before it woke.
    pub(crate) fn settle(&self) {
        // A wake that this relaxed look misses is left to the next reap, which returns at once for it.
        if self.state.load(Ordering::Relaxed) != RUNNING {
            self.state.swap(RUNNING, Ordering::AcqRel);
        }
    }

    pub(crate) fn ring(&self) {
        let once = 1_u64;
        // SAFETY: an eventfd reads 8 bytes, from a live u64. It does not block, and EAGAIN (2^64 - 2 rings that nobody
        // silenced) means that it is ringing.
        unsafe { libc::write(self.eventfd.as_raw_fd(), (&raw const once).cast(), size_of::<u64>()) };
    }

    /// Stops the ringing. Look at the flag afterwards: this may have been a bell that was not heard yet.
    pub(crate) fn silence(&self) {
        let mut rings = 0_u64;
        // SAFETY: an eventfd writes 8 bytes, into a live u64. It does not block, and EAGAIN means that it is silent.
        unsafe { libc::read(self.eventfd.as_raw_fd(), (&raw mut rings).cast(), size_of::<u64>()) };
    }
}

impl Wake for Bell {
    fn wake(&self) {
        if self.state.swap(WOKEN, Ordering::AcqRel) == WAITING {
            self.ring();
        }
    }
}
