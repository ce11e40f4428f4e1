//! Invariant 7: no descriptor, thread, mapping or kernel queue outlives its handle, wherever the last handle goes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use aio::{DirectMode, Error};
use aio_testkit::fault::Plain;
use aio_testkit::leftovers::{Leftovers, entries, writable_memory};

use crate::BLOCK;
use crate::support::child::alone;
use crate::support::fini::OnFini;
use crate::support::wakers::{holding, leave_waker, on_wake};
use crate::support::watched::Watched;
use crate::support::{Folder, backends, each_backend, finishes, gated, pattern, small, until};

const MIB: usize = 1 << 20;

#[test]
fn nothing_outlives_its_handle() {
    alone("closing::nothing_outlives_its_handle", || finishes("nothing outlives its handle", leave_nothing));
}

fn leave_nothing() {
    let folder = Folder::new();
    let path = folder.file("large", &pattern(1, 16 * MIB));
    let (fds, threads) = (entries("/proc/self/fd"), entries("/proc/self/task"));
    for backend in backends() {
        let cycle = || {
            let mut config = small(3, 16, DirectMode::Auto);
            config.block_size = 256 << 10;
            let aio = aio::builder().backend(backend).config(config).build().unwrap();
            let files: Vec<_> = (0..4).map(|_| aio.open(&path).unwrap()).collect();
            for (i, file) in files.iter().enumerate() {
                drop(file.read(aio.alloc(4 * MIB).unwrap(), 0));
                // An odd range opens the second descriptor of a file; a sync starts a thread.
                drop(file.write(vec![i as u8; 5000], 1 + 8192 * i as u64));
                drop(file.sync_data());
            }
            let unread = files[0].read(vec![0; MIB], MIB as u64 + 7);
            drop(files);
            drop(aio);
            // It keeps its buffer, and the engine's memory, but nothing that is alive.
            assert!(unread.is_done());
            unread
        };
        // A ticket that was not read keeps its buffer and its file, and neither threads nor queues.
        let unread = cycle();
        // A thread that was joined may show for a moment longer.
        until(|| entries("/proc/self/task") == threads);
        assert_eq!(Leftovers::now().queues, 0, "on {backend}");
        drop(unread);
        assert_eq!(entries("/proc/self/fd"), fds, "on {backend}");
        (0..3).for_each(|_| drop(cycle()));
        let before = writable_memory();
        (0..10).for_each(|_| drop(cycle()));
        assert_eq!(Leftovers::now().queues, 0, "on {backend}");
        let grown = writable_memory().saturating_sub(before);
        // A cycle maps more than this by itself.
        assert!(grown < 16 * MIB, "on {backend}: {grown} bytes more are mapped after ten handles");
        assert_eq!(entries("/proc/self/fd"), fds, "on {backend}");
        until(|| entries("/proc/self/task") == threads);
    }
}

#[test]
fn a_file_operation_that_starts_late_ends_before_its_handle() {
    each_backend("late sync", |backend, direct| {
        let (aio, gate) = gated(backend, &Arc::new(Plain), small(1, 2, direct));
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, 4 * BLOCK))).unwrap();
        gate.close();
        let write = file.write(vec![1; BLOCK], 0);
        gate.wait_for(1);
        // Its thread starts only when the write has ended.
        let mut sync = file.sync_data();
        let over = Arc::new(AtomicBool::new(false));
        let slow = over.clone();
        let waker = on_wake(move || {
            // Not to make anything pass: it makes a thread that is not joined show.
            std::thread::sleep(Duration::from_millis(100));
            slow.store(true, Ordering::SeqCst);
        });
        leave_waker(&mut sync, &waker);
        drop(file);
        std::thread::scope(|scope| {
            // Opened while the handle waits in its drop, or before: it makes no difference to what must hold.
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                gate.open();
            });
            drop(aio);
        });
        assert!(over.load(Ordering::SeqCst), "the handle is gone, and a thread of it is still at work");
        write.wait().unwrap();
        sync.wait().unwrap();
    });
}

#[test]
fn closing_waits_for_every_thread_whoever_else_closes() {
    each_backend("two that close", |backend, direct| {
        for syncs in [false, true] {
            let (aio, gate) = gated(backend, &Arc::new(Plain), small(2, 4, direct));
            let folder = Folder::new();
            let file = aio.open(folder.file("t", &pattern(1, BLOCK))).unwrap();
            gate.close();
            let mut write = file.write(vec![1; BLOCK], 0);
            gate.wait_for(1);
            // Its thread starts when the write has ended, after the handle was closed.
            let mut sync = file.sync_data();
            let (waker, is_held, go) = holding();
            if syncs {
                leave_waker(&mut sync, &waker);
            } else {
                leave_waker(&mut write, &waker);
            }
            let (closed, is_closed) = mpsc::channel();
            let closers: Vec<_> = (0..3)
                .map(|_| {
                    let (aio, closed) = (aio.clone(), closed.clone());
                    std::thread::spawn(move || {
                        aio.close().unwrap();
                        closed.send(()).unwrap();
                    })
                })
                .collect();
            until(|| matches!(aio.open("/dev/null"), Err(Error::Closed)));
            assert_eq!(gate.kept(), 1);
            gate.open();
            is_held.recv().unwrap();
            // A thread of the handle is in the waker. Long enough to find a close that does not wait for it; one that
            // does cannot return, however slow the machine.
            let early = is_closed.recv_timeout(Duration::from_millis(300));
            go.send(()).unwrap();
            assert!(early.is_err(), "closed, with a thread still at work");
            for closer in closers {
                closer.join().unwrap();
            }
            write.wait().unwrap();
            sync.wait().unwrap();
        }
    });
}

#[test]
fn the_last_handles_of_two_may_go_on_each_others_threads() {
    each_backend("two last handles", |backend, direct| {
        let folder = Folder::new();
        let path = folder.file("t", &pattern(1, 4 * BLOCK));
        let rules = Arc::new(Plain);
        // On workers, and on threads for file operations.
        for syncs in [false, true] {
            let both = Arc::new(Barrier::new(2));
            let (tell, told) = mpsc::channel();
            let open = || {
                let (aio, gate) = gated(backend, &rules, small(1, 4, direct));
                gate.close();
                (aio.open(&path).unwrap(), aio, gate)
            };
            let handles = [open(), open()];
            let tickets = [0, 1].map(|index| {
                let ((file, _, gate), other) = (&handles[index], &handles[1 - index]);
                let (other, both, tell) = ((other.0.clone(), other.1.clone()), both.clone(), tell.clone());
                let then = move || {
                    // From here on each handle has a thread at work on the other.
                    both.wait();
                    let refused = |closed: aio::Result<()>| matches!(closed, Err(Error::WaitOnWorker));
                    let refuses = refused(other.1.clone().close()) && refused(other.0.clone().close());
                    drop(other);
                    tell.send(refuses).unwrap();
                };
                let mut write = file.write(vec![1; BLOCK], 0);
                gate.wait_for(1);
                // A sync begins when the write before it has ended.
                let mut sync = file.sync_data();
                let waker = on_wake(then);
                if syncs {
                    leave_waker(&mut sync, &waker);
                } else {
                    leave_waker(&mut write, &waker);
                }
                (write, sync)
            });
            let gates = handles.map(|(_file, _aio, gate)| gate);
            gates.iter().for_each(|gate| gate.open());
            assert!(told.recv().unwrap() && told.recv().unwrap(), "a worker closed what it could wait for");
            for (write, sync) in tickets {
                write.wait().unwrap();
                sync.wait().unwrap();
            }
        }
        // The last thread of an engine lets go of its backend.
        until(|| Arc::strong_count(&rules) <= 1);
    });
}

#[test]
fn the_last_handle_may_go_on_a_worker() {
    each_backend("last handle", |backend, direct| {
        for _ in 0..20 {
            let (aio, gate) = gated(backend, &Arc::new(Plain), small(2, 4, direct));
            let folder = Folder::new();
            let file = aio.open(folder.file("t", &pattern(1, 64 * BLOCK))).unwrap();
            let (ready, go) = mpsc::channel::<()>();
            let (send, dropped) = mpsc::channel();
            let memory = Watched::new(8, 2 * BLOCK, 0);
            let (inner, inside) = (aio.clone(), file.clone());
            let ticket = aio.submit(OnFini::empty(&file, move || {
                go.recv().unwrap();
                drop(inside);
                drop(inner);
                send.send(()).unwrap();
            }));
            gate.close();
            memory.buffers().for_each(|buffer| drop(file.read(buffer, 0)));
            drop((file, aio));
            ready.send(()).unwrap();
            dropped.recv().unwrap();
            gate.open();
            // The threads end by themselves, after all that was accepted.
            ticket.wait().unwrap();
            until(|| memory.dropped() >= 8);
            memory.assert_released();
        }
    });
}
