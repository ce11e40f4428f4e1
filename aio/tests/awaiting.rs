//! Async code on one thread: no call that it uses blocks the thread, and what it drops leaves nothing behind.

mod support;

use std::fs;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use aio::{AioConfig, AioHandle, Backend, DirectMode, Error, OpenOptions};
use aio_testkit::fault::{Gate, Plain};
use aio_testkit::leftovers::Leftovers;
use support::child::alone;
use support::wakers::{leave_waker, on_wake};
use support::{Folder, backends, block_on, each_backend, finishes, gated, pattern, small};

const BLOCK: usize = 16 << 10;
const MIB: usize = 1 << 20;

/// Runs a future on a runtime with one thread, and on an executor made by hand.
fn on_one_thread<F: Future<Output = ()> + 'static>(what: &'static str, test: fn(AioHandle) -> F) {
    for backend in backends() {
        for by_hand in [false, true] {
            finishes(what, move || {
                let aio = aio::builder().backend(backend).arena_limit(MIB as u64).build().unwrap();
                if by_hand { block_on(test(aio)) } else { runtime().block_on(test(aio)) }
            });
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

fn gated_file(backend: Backend, config: AioConfig, bytes: &[u8]) -> (AioHandle, Arc<Gate>, aio::AioFile, Folder) {
    let (aio, gate) = gated(backend, &Arc::new(Plain), config);
    let folder = Folder::new();
    let file = aio.open(folder.file("t", bytes)).unwrap();
    (aio, gate, file, folder)
}

fn poll<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

#[test]
fn a_task_that_awaits_a_buffer_lets_the_one_that_has_it_run() {
    on_one_thread("two tasks and one buffer", |aio| async move {
        let folder = Folder::new();
        let file = aio.create_async(folder.path("t")).await.unwrap();
        let task = async |number: u8| {
            let mut buffer = aio.alloc_async(MIB).await.unwrap();
            buffer.fill(number);
            file.write(buffer, u64::from(number) * MIB as u64).await.unwrap();
        };
        tokio::join!(task(0), task(1), task(2));
        assert_eq!(file.len().unwrap(), 3 * MIB as u64);
    });
}

#[test]
fn tasks_and_threads_that_wait_for_memory_are_all_served() {
    on_one_thread("tasks and threads", |aio| async move {
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let aio = aio.clone();
                thread::spawn(move || (0..50).for_each(|_| drop(aio.alloc(MIB / 2 + 1).unwrap())))
            })
            .collect();
        let task = async || {
            for _ in 0..50 {
                drop(aio.alloc_async(MIB / 2 + 1).await.unwrap());
            }
        };
        tokio::join!(task(), task());
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(aio.arena().in_use(), 0);
    });
}

/// The first in line waits for memory that a task behind it has, and that task for more.
#[test]
fn what_fits_goes_ahead_when_nothing_was_dropped_for_a_second() {
    on_one_thread("an order that cannot be", |aio| async move {
        let half = aio.alloc_async(MIB / 2).await.unwrap();
        let mut all = aio.alloc_async(MIB);
        leave_waker(&mut all, Waker::noop());
        // As long as the first has to wait for this half, what fits goes ahead; afterwards it does not.
        let quarter = aio.alloc_async(MIB / 4).await.unwrap();
        drop(half);
        let behind = async {
            let mut more = pin!(aio.alloc_async(MIB / 4));
            let mut looks = 0;
            let more = std::future::poll_fn(|context| {
                looks += 1;
                more.as_mut().poll(context)
            });
            drop(more.await.unwrap());
            assert!(looks > 1, "it did not have to wait");
            drop(quarter);
        };
        let (_, all) = tokio::join!(behind, all);
        assert_eq!(all.unwrap().len(), MIB);
    });
}

#[test]
fn a_dropped_allocation_gives_its_place_up() {
    on_one_thread("a dropped allocation", |aio| async move {
        let half = aio.alloc_async(MIB / 2).await.unwrap();
        let mut all = aio.alloc_async(MIB);
        leave_waker(&mut all, Waker::noop());
        let quarter = aio.alloc_async(MIB / 4).await.unwrap();
        drop(half);
        let (woken, is_woken) = mpsc::channel();
        let mut behind = aio.alloc_async(MIB / 4);
        leave_waker(&mut behind, &on_wake(move || woken.send(()).unwrap()));
        drop(all);
        is_woken.try_recv().expect("the next one was not woken");
        assert_eq!(behind.await.unwrap().len(), MIB / 4);
        drop(quarter);
        assert_eq!(aio.arena().in_use(), 0);
    });
}

#[test]
fn a_waker_that_panics_keeps_no_other_from_being_woken() {
    on_one_thread("panicking wakers", |aio| async move {
        let held = [(); 2].map(|()| aio.alloc(MIB / 2).unwrap());
        let mut all = aio.alloc_async(MIB);
        leave_waker(&mut all, Waker::noop());
        let (mut first, mut second) = (aio.alloc_async(MIB / 4), aio.alloc_async(MIB / 4));
        let (woken, is_woken) = mpsc::channel();
        leave_waker(&mut first, &on_wake(|| panic!("a waker that panics")));
        leave_waker(&mut second, &on_wake(move || woken.send(()).unwrap()));
        // The first in line has to wait for the other half, so both of the others can go ahead.
        let [half, _other] = held;
        drop(half);
        is_woken.try_recv().expect("the second was not woken");
        let (first, second) = tokio::join!(first, second);
        assert_eq!(first.unwrap().len() + second.unwrap().len(), MIB / 2);
    });
}

#[test]
fn an_allocation_that_cannot_be_is_refused() {
    on_one_thread("too much", |aio| async move {
        assert!(matches!(aio.alloc_async(MIB + 1).await, Err(Error::OutOfMemory { .. })));
        assert!(aio.alloc_async(0).await.unwrap().is_empty());
        let mut twice = aio.alloc_async(1);
        assert!(poll(&mut twice, Waker::noop()).is_ready());
        assert!(matches!(poll(&mut twice, Waker::noop()), Poll::Ready(Err(Error::ResultTaken))));
    });
}

#[test]
fn a_full_queue_holds_up_no_task() {
    each_backend("a full queue", |backend, direct| {
        let mut config = small(1, 8, direct);
        config.max_pending_ops = 1;
        let bytes = pattern(1, 4 * BLOCK);
        let (aio, gate, file, _folder) = gated_file(backend, config, &bytes);
        gate.close();
        let unlimited = file.unlimited();
        // Each of these would wait for the gate, if it waited.
        let tickets: Vec<_> = (0..4).map(|_| unlimited.read(vec![0; 4 * BLOCK], 0)).collect();
        let sync = aio.unlimited().open(file.path()).unwrap().sync_data();
        gate.wait_for(4);
        let refused = file.try_read(vec![0; BLOCK], 0).unwrap_err();
        assert!(matches!(refused.error(), Error::QueueFull { limit: 1 }));
        gate.open();
        runtime().block_on(async {
            for ticket in tickets {
                assert!(ticket.await.unwrap() == bytes);
            }
            sync.await.unwrap();
        });
        // The limit holds up a caller until those are done, and no longer.
        assert!(file.read(vec![0; 4 * BLOCK], 0).wait().unwrap() == bytes);
    });
}

/// How many bytes a read of 64 blocks moves, of which four are in flight when it is given up.
fn moved(backend: Backend, direct: DirectMode, give_up: impl Fn(aio::Ticket<Vec<u8>>, &Gate)) -> u64 {
    let (aio, gate, file, _folder) = gated_file(backend, small(1, 4, direct), &pattern(1, 64 * BLOCK));
    gate.close();
    give_up(file.read(vec![0; 64 * BLOCK], 0), &gate);
    assert!(gate.kept() > 0, "nothing is in flight");
    gate.open();
    aio.wait().expect("what was given up has not failed");
    let stats = aio.stats();
    stats.bytes_direct + stats.bytes_buffered
}

#[test]
fn a_ticket_that_cancels_on_drop_stops_its_op() {
    each_backend("cancel on drop", |backend, direct| {
        let all = moved(backend, direct, |ticket, gate| {
            gate.wait_for(4);
            drop(ticket);
        });
        assert_eq!(all, 64 * BLOCK as u64);
        let dropped = moved(backend, direct, |ticket, gate| {
            gate.wait_for(4);
            drop(ticket.cancel_on_drop());
        });
        assert!(dropped <= 8 * BLOCK as u64, "{dropped}");
        let timed_out = moved(backend, direct, |ticket, gate| {
            gate.wait_for(4);
            let short = Duration::from_millis(1);
            let waited = runtime().block_on(async { tokio::time::timeout(short, ticket.cancel_on_drop()).await });
            assert!(waited.is_err(), "the gate was closed");
        });
        assert!(timed_out <= 8 * BLOCK as u64, "{timed_out}");
    });
}

#[test]
fn files_are_opened_and_replaced() {
    on_one_thread("files", |aio| async move {
        let folder = Folder::new();
        let old = folder.file("old", b"old");
        assert!(aio.open_async(folder.path("none")).await.unwrap_err().error().raw_os_error() == Some(libc::ENOENT));
        let found = aio.open_async(&old).await.unwrap();
        assert_eq!(found.read(vec![0; 3], 0).await.unwrap(), b"old");
        aio.create_async(folder.path("new")).await.unwrap().write(vec![1; 10], 0).await.unwrap();
        let options = OpenOptions::new().read(true);
        let read_only = aio.open_with_async(folder.path("new"), &options).await.unwrap();
        assert!(read_only.write(vec![1], 0).await.is_err());
        let new = aio.create_atomic_async(&old).await.unwrap();
        let write = new.write(b"new".to_vec(), 0);
        // It waits for the write by itself.
        new.commit().await.unwrap();
        write.await.unwrap();
        assert_eq!(fs::read(&old).unwrap(), b"new");
        assert_eq!(folder.count(), 2);
    });
}

#[test]
fn the_last_handle_may_be_a_ticket() {
    on_one_thread("the last handle", |aio| async move {
        let folder = Folder::new();
        let path = folder.file("t", b"old");
        let opening = aio.open_async(&path);
        let new = aio.create_atomic_async(&path).await.unwrap();
        drop(aio);
        new.write(b"new".to_vec(), 0).await.unwrap();
        let file = opening.await.unwrap();
        new.commit().await.unwrap();
        assert_eq!(file.read(vec![0; 3], 0).await.unwrap(), b"old");
        assert_eq!(fs::read(&path).unwrap(), b"new");
    });
}

#[test]
fn a_commit_that_is_cancelled_before_it_begins_leaves_the_old_file() {
    each_backend("a cancelled commit", |backend, direct| {
        for cancels_on_drop in [false, true] {
            let (aio, gate, _file, folder) = gated_file(backend, small(1, 4, direct), b"old");
            let new = aio.create_atomic(folder.path("t")).unwrap();
            gate.close();
            let write = new.write(vec![1; BLOCK], 0);
            let commit = new.commit();
            gate.wait_for(1);
            // The write is in flight, so the commit has not begun.
            if cancels_on_drop {
                drop(commit.cancel_on_drop());
                gate.open();
            } else {
                commit.cancel();
                gate.open();
                assert!(matches!(commit.wait().unwrap_err().error(), Error::Cancelled { .. }));
            }
            write.wait().unwrap();
            aio.wait().unwrap();
            assert_eq!(fs::read(folder.path("t")).unwrap(), b"old");
            assert_eq!(folder.count(), 1, "the temporary is there");
        }
    });
}

#[test]
fn the_failure_of_a_dropped_commit_goes_to_the_next_wait() {
    for backend in backends() {
        let aio = aio::builder().backend(backend).build().unwrap();
        let folder = Folder::new();
        let new = aio.create_atomic(folder.path("t")).unwrap();
        new.set_len(u64::MAX).wait().unwrap_err();
        drop(new.commit());
        let Err(Error::Failures(failures)) = aio.wait() else { panic!("it did not fail") };
        assert_eq!(failures.errors.len(), 1);
        assert!(failures.errors[0].to_string().contains("is not replaced"), "{failures}");
        assert_eq!(folder.count(), 0);
    }
}

#[test]
fn dropped_tickets_leave_nothing_behind() {
    alone("dropped_tickets_leave_nothing_behind", || {
        for backend in backends() {
            let folder = Folder::new();
            let path = folder.file("t", b"old");
            let before = Leftovers::now();
            for cancels in [false, true] {
                let aio = aio::builder().backend(backend).arena_limit(MIB as u64).build().unwrap();
                let _held = aio.alloc(MIB).unwrap();
                for _ in 0..20 {
                    let (open, begin) = (aio.open_async(&path), aio.create_atomic_async(&path));
                    if cancels {
                        drop((open.cancel_on_drop(), begin.cancel_on_drop()));
                    } else {
                        drop((open, begin));
                    }
                    let mut waits = aio.alloc_async(1);
                    leave_waker(&mut waits, Waker::noop());
                    let new = aio.create_atomic(&path).unwrap();
                    new.write(b"new".to_vec(), 0).wait().unwrap();
                    drop(new.commit());
                }
                aio.close().unwrap();
            }
            before.check().unwrap_or_else(|left| panic!("on {backend}: {left}"));
            assert_eq!((folder.count(), fs::read(&path).unwrap()), (1, b"new".to_vec()));
        }
    });
}
