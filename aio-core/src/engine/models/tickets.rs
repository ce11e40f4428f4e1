//! Proved: the end of an op reaches its ticket exactly once and wakes its waiter, whether that is a thread, a task, or
//! a thread that timed out before; the failure of an op whose ticket is dropped meanwhile is reported exactly once.
//!
//! One thread that ends the op, one that holds the ticket; any number of preemptions, three with a task.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use loom::thread;

use super::{Bench, config, explore, fail, failure};
use crate::api::ticket::Ticket;
use crate::engine::promise::{Promise, ScopeSync};
use crate::sync::thread::{Thread, current, park};

/// A model in which one thread ends an op of one block, well or not, and `holder` has its ticket. Gives back the bench
/// after both have finished.
fn ending(well: bool, holder: impl FnOnce(Ticket<()>)) -> Bench {
    let bench = Bench::new(config(1, 1));
    let ticket = bench.submit(1);
    let worker = {
        let bench = bench.clone();
        thread::spawn(move || {
            let end = |run: &super::Run| {
                if !well {
                    fail(&run.op);
                }
            };
            assert!(bench.work_once(0, 1, false, end));
        })
    };
    holder(ticket);
    worker.join().unwrap();
    assert_eq!(bench.ends(), 1);
    bench
}

#[test]
fn a_thread_that_waits_is_woken_by_the_end() {
    for well in [true, false] {
        explore(&format!("tickets: a waiting thread, ended well: {well}"), None, move || {
            let bench = ending(well, |ticket| assert_eq!(ticket.wait().is_ok(), well));
            assert_eq!(bench.shared.op_queue.wait().unwrap(), usize::from(well));
        });
    }
}

#[test]
fn a_wait_that_timed_out_can_be_followed_by_another() {
    for well in [true, false] {
        explore(&format!("tickets: a time-out first, ended well: {well}"), None, move || {
            let bench = ending(well, |ticket| {
                let done = ticket.wait_timeout(Duration::ZERO).unwrap();
                assert!(!done || ticket.is_done());
                assert_eq!(ticket.wait().is_ok(), well);
            });
            assert_eq!(bench.shared.op_queue.wait().unwrap(), usize::from(well));
        });
    }
}

#[test]
fn the_failure_of_an_op_whose_ticket_is_dropped_is_reported_once() {
    explore("tickets: dropped, ended with a failure", None, || {
        let bench = ending(false, drop);
        let failures = bench.shared.op_queue.wait().unwrap_err();
        assert_eq!((failures.completed, failures.errors.len()), (0, 1));
    });
}

#[test]
fn an_op_whose_ticket_is_dropped_ends_as_well_as_any() {
    explore("tickets: dropped, ended well", None, || {
        let bench = ending(true, drop);
        assert_eq!(bench.shared.op_queue.wait().unwrap(), 1);
    });
}

/// Unparks a thread.
pub(super) struct Unpark(pub(super) Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Only the waker of the last poll counts, so the first one here goes nowhere.
#[test]
fn the_task_that_polled_last_is_woken() {
    for well in [true, false] {
        explore(&format!("tickets: a task that changes its waker, ended well: {well}"), None, move || {
            ending(well, |mut ticket| {
                let mut poll = |waker: &Waker| Pin::new(&mut ticket).poll(&mut Context::from_waker(waker));
                let mut polled = poll(Waker::noop());
                let waker = Waker::from(Arc::new(Unpark(current())));
                loop {
                    if let Poll::Ready(result) = polled {
                        return assert_eq!(result.is_ok(), well);
                    }
                    polled = poll(&waker);
                    if polled.is_pending() {
                        park();
                        polled = poll(&waker);
                    }
                }
            });
        });
    }
}

#[test]
fn a_scope_returns_when_its_last_op_has_ended() {
    explore("tickets: a scope of two ops", None, || {
        let ops = Arc::new(ScopeSync::default());
        let ends: Vec<_> = [true, false]
            .into_iter()
            .map(|well| {
                ops.started();
                let promise = Promise::new(Some(ops.clone()));
                thread::spawn(move || {
                    let left = promise.fulfil(if well { Ok(1) } else { Err(failure()) }, false);
                    assert!(left.wakers.is_empty() && left.unreported.is_none());
                })
            })
            .collect();
        let failures = ops.wait().unwrap_err();
        assert_eq!((failures.completed, failures.errors.len()), (1, 1));
        ends.into_iter().for_each(|end| end.join().unwrap());
    });
}
