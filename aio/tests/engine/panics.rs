//! Invariant 4: a panic in a callback, a waker, a buffer's drop, the log or a backend reaches neither a worker nor
//! another op.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Wake, Waker};

use aio::buf::{IoBuf, IoBufMut};
use aio::op::Direction;
use aio::{AioConfig, AioHandle, Error};
use aio_core::backend::{Capabilities, IoBackend, IoQueue, QueueConfig, Unavailable};
use aio_testkit::fault::Plain;

use crate::support::child::alone;
use crate::support::log::log_to;
use crate::support::staged::Panics;
use crate::support::wakers::leave_waker;
use crate::support::{Folder, each_backend, gated, pattern, small, until};
use crate::{BLOCK, assert_alive, plain, staged};

#[test]
fn a_callback_that_panics_fails_its_op_alone() {
    each_backend("callbacks", |backend, direct| {
        let (aio, gate) = gated(backend, &Arc::new(Plain), small(2, 4, direct));
        let folder = Folder::new();
        let path = folder.file("t", &pattern(1, 8 * BLOCK));
        let file = aio.open(&path).unwrap();
        for (panics, name) in [(Panics::Gather, "gather"), (Panics::Scatter, "scatter"), (Panics::Fini, "fini")] {
            let direction = if panics == Panics::Scatter { Direction::Read } else { Direction::Write };
            gate.close();
            let others: Vec<_> = (0..3).map(|_| file.read(vec![0; BLOCK], 4 * BLOCK as u64)).collect();
            let (desc, seen) = staged(direction, &file, 0, pattern(1, 4 * BLOCK), panics);
            let ticket = aio.submit(desc);
            gate.wait_for(3);
            gate.open();
            let error = ticket.wait().unwrap_err().into_error();
            assert!(matches!(&error, Error::Panicked { callback, .. } if *callback == name), "{error:?}");
            for other in others {
                assert!(other.wait().unwrap() == pattern(1, 8 * BLOCK)[4 * BLOCK..5 * BLOCK]);
            }
            aio.wait().unwrap();
            assert_eq!(seen.finished.load(Ordering::SeqCst), 1, "{name}");
            assert_eq!(seen.dropped.load(Ordering::SeqCst), 1, "{name}");
            assert_alive(&aio, &folder);
            // Without a ticket, it goes to the handle.
            drop(aio.submit(staged(direction, &file, 0, pattern(1, 4 * BLOCK), panics).0));
            let Error::Failures(failures) = aio.wait().unwrap_err() else { panic!() };
            assert!(matches!(&failures.errors[..], [Error::Panicked { .. }]), "{failures}");
        }
    });
}

/// Panics with a payload whose drop panics with another one, without end.
fn explode() -> ! {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            explode();
        }
    }
    std::panic::panic_any(Bomb)
}

/// Runs what must not panic here. The payload is one that nothing could get rid of.
fn assert_calm(run: impl FnOnce()) {
    let panicked = catch_unwind(AssertUnwindSafe(run)).map_err(std::mem::forget).is_err();
    assert!(!panicked, "a panic of foreign code reached the caller");
}

/// A waker that panics at the chosen call, and a buffer that panics when dropped.
struct Explosive(&'static str);

impl Wake for Explosive {
    fn wake(self: Arc<Self>) {
        if self.0 == "wake" {
            explode();
        }
    }
}

impl Drop for Explosive {
    fn drop(&mut self) {
        if self.0 == "drop" && !std::thread::panicking() {
            explode();
        }
    }
}

struct ExplosiveBuffer(Vec<u8>, #[allow(dead_code, reason = "dropped")] Explosive);

// SAFETY: the Vec's own memory.
unsafe impl IoBuf for ExplosiveBuffer {
    fn byte_ptr(&self) -> *const u8 {
        IoBuf::byte_ptr(&self.0)
    }

    fn byte_len(&self) -> usize {
        self.0.len()
    }
}

// SAFETY: as for the other trait.
unsafe impl IoBufMut for ExplosiveBuffer {
    fn byte_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }
}

#[test]
fn a_waker_or_a_buffer_that_panics_disturbs_nobody() {
    each_backend("wakers", |backend, direct| {
        let (aio, gate) = gated(backend, &Arc::new(Plain), small(1, 4, direct));
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, 8 * BLOCK))).unwrap();
        for explodes in ["wake", "drop"] {
            gate.close();
            let mut ticket = file.read(vec![0; BLOCK], 0);
            gate.wait_for(1);
            let waker = Waker::from(Arc::new(Explosive(explodes)));
            leave_waker(&mut ticket, &waker);
            drop(waker);
            gate.open();
            // Not through the ticket, which would leave a waker of its own.
            aio.wait().unwrap();
            assert_alive(&aio, &folder);
            assert!(ticket.wait().unwrap() == pattern(1, BLOCK));
        }
        gate.close();
        drop(file.read(ExplosiveBuffer(vec![0; BLOCK], Explosive("drop")), 0));
        gate.wait_for(1);
        gate.open();
        assert!(aio.wait().unwrap() > 0);
        assert_alive(&aio, &folder);
        // With a ticket, before or after the op has ended.
        let ended = file.read(ExplosiveBuffer(vec![0; BLOCK], Explosive("drop")), 0);
        assert!(aio.wait().unwrap() > 0);
        assert_calm(|| drop(ended));
        gate.close();
        let mut running = file.read(vec![0; BLOCK], 0);
        gate.wait_for(1);
        let waker = Waker::from(Arc::new(Explosive("drop")));
        leave_waker(&mut running, &waker);
        drop(waker);
        assert_calm(|| drop(running));
        gate.open();
        assert!(aio.wait().unwrap() > 0);
        assert_alive(&aio, &folder);
        // In a scope, where it is dropped as the op ends.
        aio.scope(|scope| scope.read(&file, ExplosiveBuffer(vec![0; BLOCK], Explosive("drop")), 0)).unwrap();
        assert_alive(&aio, &folder);
        // Beside others that end at the same time, and whose waiters come after it.
        gate.close();
        let tickets: Vec<_> = (0..4).map(|_| file.read(vec![0; BLOCK], 0)).collect();
        gate.wait_for(4);
        let waits = tickets.into_iter().enumerate().map(|(index, mut ticket)| {
            if index == 0 {
                let waker = Waker::from(Arc::new(Explosive("wake")));
                leave_waker(&mut ticket, &waker);
            }
            std::thread::spawn(move || ticket.wait().unwrap() == pattern(1, BLOCK))
        });
        let waits: Vec<_> = waits.collect();
        gate.open();
        for wait in waits {
            assert!(wait.join().unwrap());
        }
        assert_alive(&aio, &folder);
    });
}

#[test]
fn cancelling_what_panics_leaves_the_caller_as_it_was() {
    each_backend("cancelling", |backend, direct| {
        let (aio, gate) = gated(backend, &Arc::new(Plain), small(1, 1, direct));
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, 8 * BLOCK))).unwrap();
        gate.close();
        let first = file.read(vec![0; BLOCK], 0);
        gate.wait_for(1);
        // The queue is full, so this one ends on the thread that cancels it.
        let mut second = file.read(vec![0; BLOCK], 0);
        let waker = Waker::from(Arc::new(Explosive("wake")));
        leave_waker(&mut second, &waker);
        assert_calm(|| second.cancel());
        assert!(second.is_done());
        gate.open();
        // It is no worker, and may wait.
        assert!(first.wait().unwrap() == pattern(1, BLOCK));
        aio.scope(|scope| scope.read(&file, vec![0; BLOCK], 0)).unwrap();
        assert_alive(&aio, &folder);
    });
}

#[test]
fn a_waker_is_dropped_with_no_lock_held() {
    each_backend("a waker's drop", |backend, direct| {
        /// Lets the op end in the middle of its waker's drop.
        struct Ends(Box<dyn Fn() + Send + Sync>);
        impl Wake for Ends {
            fn wake(self: Arc<Self>) {}
        }
        impl Drop for Ends {
            fn drop(&mut self) {
                (self.0)();
            }
        }
        let (aio, gate) = gated(backend, &Arc::new(Plain), small(1, 4, direct));
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, BLOCK))).unwrap();
        for by_drop in [true, false] {
            gate.close();
            let mut ticket = file.read(vec![0; BLOCK], 0);
            gate.wait_for(1);
            let (handle, opener) = (aio.clone(), gate.clone());
            let ends = move || {
                opener.open();
                handle.wait().unwrap();
            };
            let waker = Waker::from(Arc::new(Ends(Box::new(ends))));
            leave_waker(&mut ticket, &waker);
            drop(waker);
            if by_drop {
                drop(ticket);
            } else {
                // Another waker takes its place.
                leave_waker(&mut ticket, Waker::noop());
                ticket.wait().unwrap();
            }
            assert_alive(&aio, &folder);
        }
    });
}

#[test]
fn ops_end_whatever_the_log_does() {
    alone("panics::ops_end_whatever_the_log_does", || {
        log_to(|_| panic!("on purpose"));
        each_backend("a log that panics", |backend, direct| {
            let aio = plain(backend, direct);
            let folder = Folder::new();
            let file = aio.open(folder.file("t", &pattern(1, 4 * BLOCK))).unwrap();
            let past_the_end = 8 * BLOCK as u64;
            // Failures of dropped tickets go to the log: from the worker, and from the thread that drops the ticket.
            drop(file.read(vec![0; BLOCK], past_the_end));
            let ended = file.read(vec![0; BLOCK], past_the_end);
            until(|| ended.is_done());
            drop(ended);
            let Error::Failures(failures) = aio.wait().unwrap_err() else { panic!() };
            assert_eq!(failures.errors.len(), 2, "{failures}");
            // So do those of a scope that unwinds, which goes on with the panic of its body.
            let unwound = catch_unwind(AssertUnwindSafe(|| {
                aio.scope(|scope| {
                    scope.read(&file, vec![0; BLOCK], past_the_end);
                    panic!("the body");
                })
            }));
            assert_eq!(unwound.unwrap_err().downcast_ref(), Some(&"the body"));
            assert!(file.read(vec![0; BLOCK], 0).wait().unwrap() == pattern(1, BLOCK));
            aio.close().unwrap();
        });
    });
}

/// Has no queues, and says so with a payload whose drop panics.
#[derive(Debug)]
struct Explodes;

impl IoBackend for Explodes {
    fn name(&self) -> &'static str {
        "explodes"
    }

    fn probe(&self) -> Result<Capabilities, Unavailable> {
        Err(Unavailable::new("explodes", "it always does", None))
    }

    fn open_queue(&self, _config: &QueueConfig) -> Result<Box<dyn IoQueue>, Unavailable> {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("the payload's drop, too");
            }
        }
        std::panic::panic_any(Bomb)
    }
}

#[test]
fn a_backend_that_panics_is_not_available() {
    alone("panics::a_backend_that_panics_is_not_available", || {
        let Err(Error::Unavailable(unavailable)) = AioHandle::with_backend(Arc::new(Explodes), AioConfig::default())
        else {
            panic!("there is a handle without a queue");
        };
        assert!(unavailable.reason.contains("panicked"), "{unavailable}");
    });
}
