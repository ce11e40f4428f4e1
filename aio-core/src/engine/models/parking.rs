//! Proved: work that is added while a worker goes to sleep is not slept over; a thread that waits for room in a full
//! queue, or for all that was accepted, is woken; an op is either refused by a closed engine or ended before its
//! workers go; and when the last worker dies, no op is left behind.
//!
//! One worker on a real waker or two that never sleep, one or two threads that submit; two or three preemptions.

use std::sync::Arc;

use loom::thread;

use super::still::Belled;
use super::{Bench, config, explore};
use crate::AioConfig;
use crate::api::ticket::Ticket;
use crate::engine::op_queue::WhenFull;
use crate::error::Error;

/// A worker that does what `AioThread` does, but for the I/O: works, and sleeps when it finds nothing, until the
/// engine is closed and all has ended.
pub(super) fn worker(bench: &Bench, id: usize) -> thread::JoinHandle<()> {
    let (bench, waker) = (bench.clone(), Arc::new(Belled::new()));
    bench.shared.inboxes[id].set_waker(waker.clone());
    thread::spawn(move || {
        loop {
            if bench.work_once(id, 1, false, |_| {}) {
                continue;
            }
            if bench.shared.op_queue.is_finished() {
                return;
            }
            if !bench.work_once(id, 1, true, |_| {}) {
                waker.wait();
                bench.shared.op_queue.awake(id);
            }
        }
    })
}

pub(super) fn close(bench: &Bench, worker: thread::JoinHandle<()>, ops: usize) {
    bench.shared.close();
    worker.join().unwrap();
    assert_eq!(bench.ends(), ops);
}

#[test]
fn work_for_a_worker_that_goes_to_sleep_wakes_it() {
    explore("parking: one worker, two ops of one thread", 3, || {
        let bench = Bench::new(config(1, 1));
        let worker = worker(&bench, 0);
        for _ in 0..2 {
            bench.submit(1).wait().unwrap();
        }
        close(&bench, worker, 2);
    });
}

#[test]
fn threads_that_submit_at_once_all_get_through() {
    explore("parking: one worker, two threads that submit", 3, || {
        let bench = Bench::new(config(1, 1));
        let worker = worker(&bench, 0);
        let other = {
            let bench = bench.clone();
            thread::spawn(move || bench.submit(1).wait().unwrap())
        };
        bench.submit(1).wait().unwrap();
        other.join().unwrap();
        close(&bench, worker, 2);
    });
}

#[test]
fn a_thread_that_waits_for_room_in_a_full_queue_gets_it() {
    explore("parking: a queue of one op, two threads that submit", 3, || {
        let bench = Bench::new(AioConfig { max_pending_ops: 1, ..config(1, 1) });
        let worker = worker(&bench, 0);
        let other = {
            let bench = bench.clone();
            thread::spawn(move || drop(bench.submit(1)))
        };
        drop(bench.submit(1));
        other.join().unwrap();
        assert_eq!(bench.shared.op_queue.wait().unwrap(), 2);
        close(&bench, worker, 2);
    });
}

#[test]
fn a_wait_covers_what_was_accepted_before_it() {
    explore("parking: wait() and an op that is accepted meanwhile", 3, || {
        let bench = Bench::new(config(1, 1));
        let worker = worker(&bench, 0);
        let mine = bench.submit(1);
        let other = {
            let bench = bench.clone();
            thread::spawn(move || drop(bench.submit(1)))
        };
        assert!(matches!(bench.shared.op_queue.wait(), Ok(1 | 2)));
        assert!(mine.is_done());
        other.join().unwrap();
        close(&bench, worker, 2);
    });
}

#[test]
fn an_op_is_refused_by_a_closed_engine_or_ends() {
    explore("parking: close() and an op that comes at the same time", 3, || {
        let bench = Bench::new(config(1, 1));
        let worker = worker(&bench, 0);
        let late = {
            let bench = bench.clone();
            thread::spawn(move || {
                let op = bench.op(1);
                let accepted =
                    bench.shared.submit(&op, WhenFull::Wait).map(|()| Ticket::new(op, bench.shared.clone()));
                match accepted {
                    Ok(ticket) => ticket.wait().is_ok(),
                    Err(Error::Closed) => false,
                    Err(error) => panic!("{error}"),
                }
            })
        };
        bench.shared.close();
        worker.join().unwrap();
        let accepted = late.join().unwrap();
        assert_eq!(bench.ends(), usize::from(accepted));
    });
}

#[test]
fn a_worker_that_dies_leaves_the_work_to_the_others() {
    explore("parking: one of two workers dies", 3, || {
        let bench = Bench::new(config(2, 1));
        let worker = worker(&bench, 0);
        let dying = {
            let bench = bench.clone();
            thread::spawn(move || {
                let orphans = bench.shared.op_queue.worker_died(1, "the model has it die");
                assert!(orphans.is_empty());
                bench.shared.wake_all();
            })
        };
        bench.submit(1).wait().unwrap();
        dying.join().unwrap();
        close(&bench, worker, 1);
    });
}

#[test]
fn nothing_waits_for_workers_that_are_gone() {
    explore("parking: the last of two workers dies", 3, || {
        let bench = Bench::new(config(2, 1));
        let mine = bench.submit(2);
        let dying: Vec<_> = (0..2)
            .map(|id| {
                let bench = bench.clone();
                thread::spawn(move || {
                    // The first gets something done before it dies.
                    if id == 0 {
                        bench.work_once(id, 1, false, |_| {});
                    }
                    bench.shared.end(bench.shared.op_queue.worker_died(id, "the model has it die"));
                })
            })
            .collect();
        let late = bench.op(1);
        let accepted = match bench.shared.submit(&late, WhenFull::Wait) {
            Ok(()) => Some(Ticket::new(late, bench.shared.clone())),
            Err(Error::WorkerDied { .. }) => None,
            Err(error) => panic!("{error}"),
        };
        let died = |ticket: Ticket<()>| match ticket.wait().map_err(|error| error.into_parts().0) {
            Ok(()) | Err(Error::WorkerDied { .. }) => {}
            Err(error) => panic!("{error}"),
        };
        let ops = 1 + usize::from(accepted.is_some());
        died(mine);
        accepted.into_iter().for_each(died);
        dying.into_iter().for_each(|dying| dying.join().unwrap());
        assert_eq!(bench.ends(), ops);
        bench.shared.op_queue.drain();
    });
}
