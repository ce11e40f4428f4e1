//! No thread of an engine waits for a thread of any engine; any other thread may wait for any ticket.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use aio::Error;
use aio::op::Direction;
use aio_testkit::fault::Plain;

use crate::BLOCK;
use crate::support::fini::OnFini;
use crate::support::{Folder, each_backend, gated, pattern, small, until};

#[test]
fn waiting_on_a_worker_is_an_error_and_everything_else_works() {
    each_backend("waiting on a worker", |backend, direct| {
        let mut config = small(1, 4, direct);
        config.max_pending_ops = 4;
        config.arena_limit = Some(1 << 20);
        let (aio, gate) = gated(backend, &Arc::new(Plain), config);
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, 64 * BLOCK))).unwrap();
        let (inner, inside) = (aio.clone(), file.clone());
        let (send, results) = mpsc::channel();
        let op = OnFini::empty(&file, move || {
            let refused = |result: Result<(), Error>| matches!(result, Err(Error::WaitOnWorker));
            let busy = inside.read(vec![0; BLOCK], 0);
            let mut checks = vec![
                ("wait", refused(inner.wait().map(drop))),
                ("scope", refused(inner.scope(|_| ()))),
                ("wait_timeout", refused(busy.wait_timeout(std::time::Duration::ZERO).map(drop))),
                ("ticket", refused(busy.wait().map(drop).map_err(|failed| failed.into_error()))),
                ("close", refused(inner.clone().close())),
                ("large read", refused(inside.read_at(&mut vec![0; 3 * BLOCK], 0))),
                ("small read", inside.read_at(&mut [0; 100], 0).is_ok()),
                ("file close", refused(inside.clone().close())),
            ];
            // Neither waits where there is no room.
            let held = inner.alloc(1 << 20);
            checks.push(("alloc", held.is_ok() && matches!(inner.alloc(1), Err(Error::OutOfMemory { .. }))));
            let more: Vec<_> = (0..8).map(|_| inside.read(vec![0; BLOCK], 0)).collect();
            let full = |ticket: &aio::Ticket<Vec<u8>>| ticket.is_done();
            checks.push(("full", more.iter().any(full)));
            send.send(checks).unwrap();
        });
        aio.submit(op).wait().unwrap();
        for (what, as_expected) in results.recv().unwrap() {
            assert!(as_expected, "{what}");
        }
        match aio.wait() {
            // The reads that found no room, whose tickets were dropped.
            Err(Error::Failures(failures)) => {
                assert!(failures.errors.iter().all(|error| matches!(error, Error::QueueFull { .. })), "{failures}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(gate.offences(), Vec::<String>::new());
    });
}

#[test]
fn a_worker_that_cancels_for_another_handle_is_still_a_worker() {
    each_backend("nested workers", |backend, direct| {
        let folder = Folder::new();
        let path = folder.file("t", &pattern(1, 4 * BLOCK));
        let (one, _) = gated(backend, &Arc::new(Plain), small(1, 4, direct));
        let (other, gate) = gated(backend, &Arc::new(Plain), small(1, 1, direct));
        let (file, others) = (one.open(&path).unwrap(), other.open(&path).unwrap());
        gate.close();
        let first = others.read(vec![0; BLOCK], 0);
        gate.wait_for(1);
        // The queue is full, so this one ends on the thread that cancels it: the worker of the first handle.
        let (tell, told) = mpsc::channel();
        let waits = one.clone();
        let inner = OnFini::new(Direction::Read, &others, vec![0; BLOCK], move || {
            tell.send(matches!(waits.wait(), Err(Error::WaitOnWorker))).unwrap();
        });
        let inner = other.submit(inner);
        let outer = OnFini::empty(&file, move || inner.cancel());
        one.submit(outer).wait().unwrap();
        assert!(told.recv().unwrap(), "a worker may wait for its own handle");
        gate.open();
        first.wait().unwrap();
    });
}

#[test]
fn any_number_of_threads_waits_for_one_ticket() {
    each_backend("many waiters", |backend, direct| {
        let mut config = small(1, 4, direct);
        config.spin = Duration::ZERO;
        let (aio, gate) = gated(backend, &Arc::new(Plain), config);
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, BLOCK))).unwrap();
        for _ in 0..20 {
            gate.close();
            let ticket = file.read(vec![0; BLOCK], 0);
            gate.wait_for(1);
            let waiting = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        // Once in vain, so that it is about to wait in earnest when it is counted.
                        assert!(!ticket.wait_timeout(Duration::from_millis(1)).unwrap());
                        waiting.fetch_add(1, Ordering::SeqCst);
                        assert!(ticket.wait_timeout(Duration::MAX).unwrap());
                    });
                }
                until(|| waiting.load(Ordering::SeqCst) >= 4);
                gate.open();
            });
            ticket.wait().unwrap();
        }
    });
}
