//! How another thread gets a queue out of its wait.
//!
//! A word says whether the owner waits; an eventfd gets it out of the kernel. The word alone decides whether there
//! was a wake-up: the eventfd is only a bell, and a ring of it with no wake-up behind it is ignored.
//!
//! # No wake-up is lost
//!
//! The word changes by read-modify-write only, on both sides, so all changes stand in one order. The owner goes
//! `QUIET -> WAITING` by compare-and-swap; a waker swaps in `WOKEN`. Either the swap comes first: then the
//! compare-and-swap fails and the owner does not wait. Or it comes second: then it returns `WAITING`, and the waker
//! rings the bell. The same RMWs publish what the waker did before: its swap releases, the owner's acquires. (`AcqRel`
//! would carry this argument; `SeqCst` costs the same on an RMW and lets callers combine it with flags of their own.)
//!
//! The bell stays rung until it is silenced, so a ring between the word and the kernel's look at the eventfd is seen.
//! Silencing could swallow a ring that is needed. It does not, because the owner always looks at the word *after*
//! silencing and before it waits: a swallowed ring came after its waker's swap, so the word says `WOKEN` by then.
//!
//! A waker may be suspended between its swap and its ring. The owner, back for another reason, takes the `WOKEN` and
//! may wait again; the late ring then gets it out for nothing, it finds the word `WAITING`, and waits on.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU8, Ordering};

use aio_core::Wake;

/// Nobody waits, nobody woke.
const QUIET: u8 = 0;
/// The owner waits, or is about to: wakers have to ring.
const WAITING: u8 = 1;
/// A wake-up that the owner has not taken yet.
const WOKEN: u8 = 2;

/// The [`Wake`] of a queue. `wake` is for any thread, all else for the queue's owner.
#[derive(Debug)]
pub(crate) struct EventWaker {
    state: AtomicU8,
    bell: EventFd,
}

impl EventWaker {
    /// Makes one that nobody has used.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { state: AtomicU8::new(QUIET), bell: EventFd::new()? })
    }

    /// Takes a wake-up that arrived while nobody waited.
    pub(crate) fn take(&self) -> bool {
        // The load spares the usual case an RMW. It may miss a wake-up that happens right now; that one stays.
        self.is_woken() && self.state.swap(QUIET, Ordering::SeqCst) == WOKEN
    }

    /// Says that the owner is going to wait. False: do not, a wake-up was there (and is taken).
    pub(crate) fn announce(&self) -> bool {
        let announced = self.state.compare_exchange(QUIET, WAITING, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if !announced {
            self.state.swap(QUIET, Ordering::SeqCst);
        }
        announced
    }

    /// Ends what `announce` began, and takes the wake-up if there was one: the owner returns to its caller.
    pub(crate) fn retract(&self) {
        self.state.swap(QUIET, Ordering::SeqCst);
    }

    /// Whether a wake-up waits to be taken.
    pub(crate) fn is_woken(&self) -> bool {
        self.state.load(Ordering::SeqCst) == WOKEN
    }

    /// The eventfd that wakers write to.
    pub(crate) fn bell(&self) -> &EventFd {
        &self.bell
    }

    /// Whether the owner has announced a wait that nobody interrupted yet.
    #[cfg(test)]
    pub(crate) fn is_waiting(&self) -> bool {
        self.state.load(Ordering::SeqCst) == WAITING
    }
}

impl Wake for EventWaker {
    fn wake(&self) {
        if self.state.swap(WOKEN, Ordering::SeqCst) == WAITING {
            self.bell.ring();
        }
    }
}

/// An `eventfd(2)`, non-blocking: readable from a [`ring`](Self::ring) until [`silence`](Self::silence).
#[derive(Debug)]
pub(crate) struct EventFd(OwnedFd);

impl EventFd {
    /// A silent one.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers.
        let fd: RawFd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call just returned this descriptor, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Makes it readable. The only failure is a counter that is full, and a full one is readable.
    pub(crate) fn ring(&self) {
        let one = 1u64;
        // SAFETY: eight bytes are read from `one`, which outlives the call.
        let _ = unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
    }

    /// Makes it unreadable. The only failure is that it already is.
    pub(crate) fn silence(&self) {
        let mut count = 0u64;
        // SAFETY: eight bytes are written to `count`, which outlives the call.
        let _ = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) };
    }

    /// Whether it is readable.
    #[cfg(test)]
    pub(crate) fn is_ringing(&self) -> bool {
        let mut fd = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, which outlives the call.
        unsafe { libc::poll(&mut fd, 1, 0) == 1 }
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wake_up_is_taken_once() {
        let waker = EventWaker::new().unwrap();
        assert!(!waker.take());
        waker.wake();
        assert!(waker.take() && !waker.take());

        // Between `take` and `announce`.
        waker.wake();
        assert!(!waker.announce(), "the owner would sleep over a wake-up");
        assert!(!waker.take());

        assert!(waker.announce());
        waker.wake();
        assert!(waker.is_woken());
        waker.retract();
        assert!(!waker.take());
    }

    #[test]
    fn the_bell_rings_only_for_an_owner_that_waits() {
        let waker = EventWaker::new().unwrap();
        waker.wake();
        assert!(!waker.bell().is_ringing());
        assert!(waker.take() && waker.announce());
        waker.wake();
        waker.wake();
        assert!(waker.bell().is_ringing());
        waker.bell().silence();
        waker.bell().silence();
        assert!(!waker.bell().is_ringing());
        (0..3).for_each(|_| waker.bell().ring());
        waker.bell().silence();
        assert!(!waker.bell().is_ringing());
    }
}
