//! Waking a queue that waits in the kernel: a word that is the truth, and a bell for when the queue does not look at it.
//!
//! # No wake-up is lost
//!
//! The word changes by read-modify-write only, on both sides, so all its changes stand in one order, and each side
//! learns what it replaced (the design of the parker in `std::thread`):
//!
//! - The queue is about to wait: `QUIET -> WAITING`. If the word is `WOKEN` instead, it does not wait.
//! - A waker: anything `-> WOKEN`. If it replaced `WAITING`, it rings the bell.
//! - The queue returns: anything `-> QUIET`.
//!
//! A waker's change comes before `QUIET -> WAITING` in that order, and the queue does not wait; or after it, and the
//! waker rings. The bell is an eventfd, which stays readable until it is read: a kernel that starts to poll it too
//! late still finds it so. What a waker did before it woke is seen by the caller that the queue returns to, since the
//! waker's change releases and the queue's acquire; more than `AcqRel` on this one word is not needed.
//!
//! Silencing the bell could swallow a ring that is needed. It does not, because a queue announces its wait *after* it
//! silenced the bell: a swallowed ring came after its waker's change, so the announcement finds the word `WOKEN`.
//!
//! A waker may be held up between its change and its ring, and ring for a wait that is over. Nothing depends on it: the
//! queue silences the bell, finds that the word is not `WOKEN`, and goes on waiting.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::eventfd::{self, EfdFlags};

use crate::backend::Wake;
use crate::sync::{AtomicU8, Ordering};

/// The queue does not wait, and no waker has woken it.
const QUIET: u8 = 0;
/// The queue waits in the kernel, or is about to: wakers have to ring.
const WAITING: u8 = 1;
/// Woken since the last `reap` returned.
const WOKEN: u8 = 2;

/// The [`Wake`] of a queue that waits in the kernel for, among others, a descriptor to become readable.
///
/// [`wake`](Wake::wake) is for any thread, all else for the queue. Owns its descriptor, so a wake-up after the queue's
/// end does nothing.
///
/// In every `reap`, a queue that is going to wait silences the [`bell`](Self::bell) where it may still ring, then calls
/// [`announce`](Self::announce), and has the kernel watch the bell while it waits; all of that again for each time it
/// waits. On its way out it calls [`retract`](Self::retract), whether it had waited or not.
#[derive(Debug)]
pub struct EventWaker {
    word: Word,
    bell: EventFd,
}

impl EventWaker {
    /// A new one, not woken. Fails as `eventfd(2)` does.
    pub fn new() -> io::Result<Self> {
        Ok(Self { word: Word::new(), bell: EventFd::new()? })
    }

    /// The queue is about to wait: wakers ring from now on. False: it was woken already and must not wait.
    pub fn announce(&self) -> bool {
        self.word.announce()
    }

    /// The queue returns to its caller: wakers ring no longer, and the wake-up, if there was one, is used up.
    pub fn retract(&self) {
        self.word.retract();
    }

    /// What the kernel has to watch for readability while the queue waits.
    pub fn bell(&self) -> &EventFd {
        &self.bell
    }

    /// Whether a wait is announced that no waker has interrupted.
    pub fn is_waiting(&self) -> bool {
        self.word.0.load(Ordering::Acquire) == WAITING
    }
}

impl Wake for EventWaker {
    fn wake(&self) {
        if self.word.wake() {
            self.bell.ring();
        }
    }
}

/// The state that the queue and its wakers agree on, without the bell.
#[derive(Debug)]
pub(crate) struct Word(AtomicU8);

impl Word {
    pub(crate) fn new() -> Self {
        Self(AtomicU8::new(QUIET))
    }

    /// False: woken already.
    pub(crate) fn announce(&self) -> bool {
        self.0.compare_exchange(QUIET, WAITING, Ordering::AcqRel, Ordering::Acquire) != Err(WOKEN)
    }

    pub(crate) fn retract(&self) {
        // The load spares the usual case a read-modify-write. A wake-up that it misses is one that happens right now;
        // it is left to the next `reap`.
        if self.0.load(Ordering::Relaxed) != QUIET {
            self.0.swap(QUIET, Ordering::AcqRel);
        }
    }

    /// True: the queue waits, and the bell has to ring.
    pub(crate) fn wake(&self) -> bool {
        self.0.swap(WOKEN, Ordering::AcqRel) == WAITING
    }
}

/// An `eventfd(2)`, non-blocking: readable from a [`ring`](Self::ring) until it is [silenced](Self::silence).
#[derive(Debug)]
pub struct EventFd(eventfd::EventFd);

impl EventFd {
    /// A silent one. Fails as `eventfd(2)` does.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd::EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
    }

    /// Makes it readable.
    pub fn ring(&self) {
        // The only failure is a counter that is full after 2^64 - 2 rings, and a full one is readable.
        let _ = self.0.write(1);
    }

    /// Makes it unreadable.
    pub fn silence(&self) {
        // The only failure is that it is silent already.
        let _ = self.0.read();
    }

    /// Whether it is readable.
    pub fn is_ringing(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        poll(&mut [PollFd::new(self.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(1)
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::thread;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    #[test]
    fn a_wake_up_forbids_one_wait() {
        let waker = EventWaker::new().unwrap();
        waker.wake();
        waker.wake();
        assert!(!waker.announce() && !waker.announce(), "the queue would sleep over a wake-up");
        waker.retract();
        assert!(waker.announce());
        assert!(waker.announce(), "a queue may go round and wait again");
        waker.wake();
        assert!(!waker.announce());
        waker.retract();
        assert!(waker.announce(), "a wake-up counted twice");
    }

    #[test]
    fn the_bell_rings_only_for_a_queue_that_waits() {
        let waker = EventWaker::new().unwrap();
        waker.wake();
        assert!(!waker.bell().is_ringing());
        waker.retract();
        assert!(waker.announce() && waker.is_waiting());
        waker.wake();
        waker.wake();
        assert!(waker.bell().is_ringing() && !waker.is_waiting());
        waker.bell().silence();
        waker.bell().silence();
        assert!(!waker.bell().is_ringing());
        (0..3).for_each(|_| waker.bell().ring());
        waker.bell().silence();
        assert!(!waker.bell().is_ringing());
        waker.retract();
        assert!(waker.announce());
        waker.retract();
        waker.wake();
        assert!(!waker.bell().is_ringing(), "rung for a wait that is over");
    }

    /// A queue that is nothing but its waker, and wakers that wait to be answered, so that most wake-ups find it
    /// waiting.
    #[test]
    fn no_wake_up_is_lost_and_each_publishes_what_came_before() {
        const ROUNDS: u64 = 10_000;
        let waker = EventWaker::new().unwrap();
        let (asked, answered) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    asked.store(round, Ordering::Relaxed);
                    waker.wake();
                    while answered.load(Ordering::Acquire) < round {
                        thread::yield_now();
                    }
                }
            });
            while answered.load(Ordering::Relaxed) < ROUNDS {
                let before = asked.load(Ordering::Relaxed);
                loop {
                    waker.bell().silence();
                    if !waker.announce() {
                        break;
                    }
                    let bell = PollFd::new(waker.bell().as_fd(), PollFlags::POLLIN);
                    let rung = poll(&mut [bell], PollTimeout::from(30_000_u16));
                    assert_eq!(rung, Ok(1), "a wake-up was lost");
                }
                waker.retract();
                // Relaxed on purpose: the wake-up itself has to publish what came before it.
                let now = asked.load(Ordering::Relaxed);
                assert!(now > before || now > answered.load(Ordering::Relaxed), "woken by nothing");
                answered.store(now, Ordering::Release);
            }
        });
    }
}
