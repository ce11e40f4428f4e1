//! Handles that are made and dropped all the time, by several threads at once, with ops in flight: nothing is left.
//!
//! The one test of its binary, because it counts what the whole process has.

mod support;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};

use aio::buf::AlignedBuf;
use aio::{Backend, DirectMode, Ticket};
use aio_testkit::leftovers::{Leftovers, entries, writable_memory};
use support::{Folder, backends, finishes, pattern, small, until};

const MIB: usize = 1 << 20;
const THREADS: usize = 3;
const CYCLES: usize = 16;
const WORKERS: usize = 2;
const DEPTH: usize = 128;

/// Makes a handle, fills its queues, and lets go of it all in one of several ways. True if blocks were in flight then.
fn cycle(backend: Backend, path: &Path, content: &[u8], number: usize) -> bool {
    let mut config = small(WORKERS, DEPTH, DirectMode::Auto);
    config.block_size = 64 << 10;
    let aio = aio::builder().backend(backend).config(config).build().unwrap();
    let file = aio.open(path).unwrap();
    let mut reads: Vec<Ticket<AlignedBuf>> =
        (0..4).map(|_| file.read(aio.alloc(content.len()).unwrap(), 0)).collect();
    drop(file.sync_data());
    let mut seen = false;
    while !seen && !reads.iter().all(Ticket::is_done) {
        seen = aio.stats().in_flight > 0;
    }
    match number % 4 {
        // The tickets first: only the handle waits for what is in flight.
        0 => {
            drop(reads);
            drop(file);
            drop(aio);
        }
        // The tickets last: each has its bytes, from an engine that is gone.
        1 => {
            drop(file);
            aio.close().unwrap();
            for read in reads {
                assert!(read.is_done());
                assert!(read.wait().unwrap()[..] == *content);
            }
        }
        // Two owners who go at once, one of them a file.
        2 => std::thread::scope(|scope| {
            scope.spawn(|| drop(file));
            drop(aio);
        }),
        // A task that waits, and goes without having been told.
        _ => {
            for read in &mut reads {
                let _ = Pin::new(read).poll(&mut Context::from_waker(Waker::noop()));
            }
            reads[0].cancel();
            drop(aio);
            drop(reads);
            drop(file);
        }
    }
    seen
}

/// Kernel AIO slots in use, in the whole system.
fn slots() -> usize {
    std::fs::read_to_string("/proc/sys/fs/aio-nr").unwrap().trim().parse().unwrap()
}

fn come_and_go() {
    let folder = Folder::new();
    let content = pattern(1, 4 * MIB);
    let path = folder.file("t", &content);
    for backend in backends() {
        // What is made once per process is made.
        (0..4).for_each(|number| {
            cycle(backend, &path, &content, number);
        });
        let (fds, threads) = (entries("/proc/self/fd"), entries("/proc/self/task"));
        let (slots_before, memory) = (slots(), writable_memory());
        let in_flight = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (path, content, in_flight) = (&path, &content, &in_flight);
                scope.spawn(move || {
                    for number in 0..CYCLES {
                        let seen = cycle(backend, path, content, thread + number);
                        in_flight.fetch_add(usize::from(seen), Ordering::Relaxed);
                    }
                });
            }
        });
        assert!(in_flight.into_inner() > 0, "on {backend}: nothing was ever seen in flight");
        // A thread that was joined may show for a moment longer.
        until(|| entries("/proc/self/task").len() <= threads.len());
        assert_eq!(entries("/proc/self/fd"), fds, "on {backend}");
        assert_eq!(Leftovers::now().queues, 0, "on {backend}: a kernel queue is still mapped");
        let grown = writable_memory().saturating_sub(memory);
        // Each cycle maps more than 16 MiB of buffers.
        assert!(grown < THREADS * CYCLES * MIB, "on {backend}: {grown} bytes more are mapped");
        // Other processes have some, too, but hardly as many as would be left here.
        let taken = slots().saturating_sub(slots_before);
        assert!(taken < THREADS * CYCLES * WORKERS * DEPTH / 2, "on {backend}: {taken} AIO slots are not given back");
    }
}

#[test]
fn handles_that_come_and_go_leave_nothing() {
    finishes("handles that come and go", come_and_go);
}
