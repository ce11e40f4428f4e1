//! The engine's invariants, each against queues and callbacks that misbehave.

mod support;

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use aio::buf::{IoBuf, IoBufMut};
use aio::op::Direction;
use aio::{AioFile, AioHandle, Error};
use aio_core::backend::{Completion, FileId, IoBlock};
use aio_core::testing::{Fate, Plain, Rules};
use support::staged::{Panics, Seen, Staged};
use support::{Folder, Memory, each_backend, gated, pattern, small};

const BLOCK: usize = 16 << 10;

/// Staged memory in one piece.
fn staged(direction: Direction, file: &AioFile, offset: u64, bytes: Vec<u8>, panics: Panics) -> (Staged, Arc<Seen>) {
    let offset = offset as usize;
    Staged::new(direction, file.target(), vec![(offset..offset + bytes.len(), bytes)], panics, false)
}

// ---- 2: files and regions that queues know ----

/// Which queue knows which file in which slot.
#[derive(Debug, Default)]
struct Slots {
    known: Mutex<HashMap<(usize, u32), u32>>,
    queues: Mutex<HashSet<usize>>,
    offences: Mutex<Vec<String>>,
}

impl Rules for Slots {
    fn registered(&self, queue: usize, file: FileId, there: bool) {
        let mut known = self.known.lock().unwrap();
        if there {
            self.queues.lock().unwrap().insert(queue);
            // The slot was given to another file while a queue still had the one before.
            if let Some(before) = known.insert((queue, file.slot), file.generation) {
                self.offences.lock().unwrap().push(format!("{file:?} in queue {queue}, which has {before}"));
            }
            for ((other, slot), generation) in &*known {
                if *slot == file.slot && *generation != file.generation {
                    self.offences.lock().unwrap().push(format!("{file:?}, but queue {other} has {generation}"));
                }
            }
        } else if known.remove(&(queue, file.slot)) != Some(file.generation) {
            self.offences.lock().unwrap().push(format!("{file:?} removed from queue {queue}, which has it not"));
        }
    }

    fn block(&self, queue: usize, block: &IoBlock) -> Fate {
        if let Some(file) = block.file
            && self.known.lock().unwrap().get(&(queue, file.slot)) != Some(&file.generation)
        {
            self.offences.lock().unwrap().push(format!("a block names {file:?}, which queue {queue} has not"));
        }
        Fate::Transfer
    }
}

/// The descriptors of this process that are open on `path`.
fn descriptors(path: &std::path::Path) -> Vec<RawFd> {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let on_path = entries.filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target == path));
    on_path.map(|entry| entry.file_name().to_str().unwrap().parse().unwrap()).collect()
}

/// A lock on an open file lasts as long as anybody, a queue's table included, has this open file.
fn lock(fd: RawFd, kind: i32) -> bool {
    // SAFETY: no memory is involved.
    unsafe { libc::flock(fd, kind | libc::LOCK_NB) == 0 }
}

fn locked_by_others(path: &std::path::Path) -> bool {
    use std::os::fd::AsRawFd;
    !lock(std::fs::File::open(path).unwrap().as_raw_fd(), libc::LOCK_EX)
}

#[test]
fn a_closed_file_is_closed_in_every_queue() {
    each_backend("closed in every queue", |backend, direct| {
        let rules = Arc::new(Slots::default());
        let (aio, gate) = gated(backend, &rules, small(3, 2, direct));
        let folder = Folder::new();
        for by_close in [true, false] {
            rules.queues.lock().unwrap().clear();
            let path = folder.file("t", &pattern(1, 1 << 20));
            let file = aio.open(&path).unwrap();
            assert!(descriptors(&path).into_iter().all(|fd| lock(fd, libc::LOCK_SH)));
            let registers = backend.probe().unwrap().registered_files;
            gate.close();
            // More than all queues hold, so that all workers come.
            let reads: Vec<_> = (0..2).map(|_| file.read(vec![0; 1 << 20], 0)).collect();
            gate.wait_for(3 * 2);
            gate.open();
            reads.into_iter().for_each(|read| drop(read.wait().unwrap()));
            assert_eq!(rules.queues.lock().unwrap().len(), if registers { 3 } else { 0 });
            assert!(locked_by_others(&path));
            if by_close {
                file.close().unwrap();
            } else {
                drop(file);
                // Workers give it back when they come to it.
                while locked_by_others(&path) {
                    std::thread::yield_now();
                }
            }
            assert!(!locked_by_others(&path));
            assert!(descriptors(&path).is_empty());
        }
        assert_eq!(*rules.offences.lock().unwrap(), Vec::<String>::new());
    });
}

/// Waits, when it is woken, until the test lets it go on.
struct Held {
    woken: mpsc::Sender<()>,
    go_on: Mutex<mpsc::Receiver<()>>,
}

impl Wake for Held {
    fn wake(self: Arc<Self>) {
        let _ = self.woken.send(());
        let _ = self.go_on.lock().unwrap().recv();
    }
}

#[test]
fn a_file_is_closed_although_the_thread_that_synced_it_is_held_up() {
    each_backend("a waker that takes its time", |backend, direct| {
        let (aio, gate) = gated(backend, &Arc::new(Plain), small(1, 4, direct));
        let folder = Folder::new();
        let path = folder.file("t", &pattern(1, BLOCK));
        let file = aio.open(&path).unwrap();
        let (woken, is_woken) = mpsc::channel();
        let (go_on, goes_on) = mpsc::channel();
        let waker = Waker::from(Arc::new(Held { woken, go_on: Mutex::new(goes_on) }));
        gate.close();
        let write = file.write(vec![1; BLOCK], 0);
        let mut sync = file.sync_data();
        // The sync waits for the write, so the waker is there before its end.
        assert!(Pin::new(&mut sync).poll(&mut Context::from_waker(&waker)).is_pending());
        gate.open();
        write.wait().unwrap();
        is_woken.recv().unwrap();
        sync.wait().unwrap();
        file.close().unwrap();
        assert_eq!(descriptors(&path), Vec::<RawFd>::new());
        go_on.send(()).unwrap();
        assert_eq!(gate.offences(), Vec::<String>::new());
    });
}

#[test]
fn slots_are_used_again_only_when_every_queue_has_given_them_back() {
    each_backend("slots", |backend, direct| {
        let rules = Arc::new(Slots::default());
        let (aio, gate) = gated(backend, &rules, small(3, 2, direct));
        let folder = Folder::new();
        const LEN: usize = 3 * BLOCK;
        let paths: Vec<_> = (0..5).map(|i| folder.file(&i.to_string(), &pattern(i + 1, LEN))).collect();
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let (aio, paths) = (&aio, &paths);
                scope.spawn(move || {
                    for round in 0..60 {
                        let which = (thread + round * 7) % paths.len();
                        let file = aio.open(&paths[which]).unwrap();
                        let tickets: Vec<_> = (0..4).map(|_| file.read(vec![0; LEN], 0)).collect();
                        // With the tickets, or before them.
                        if round % 2 == 0 {
                            drop(file);
                        }
                        for ticket in tickets {
                            assert!(ticket.wait().unwrap() == pattern(which as u64 + 1, LEN), "of another file");
                        }
                    }
                });
            }
        });
        aio.close().unwrap();
        assert_eq!(*rules.offences.lock().unwrap(), Vec::<String>::new());
        assert_eq!(gate.offences(), Vec::<String>::new());
    });
}

#[test]
fn memory_that_queues_know_is_never_replaced_under_them() {
    each_backend("regions", |backend, direct| {
        let mut config = small(2, 4, direct);
        config.arena_limit = Some(48 << 20);
        let (aio, _) = gated(backend, &Arc::new(Plain), config);
        let folder = Folder::new();
        const LEN: usize = 8 << 20;
        let content = pattern(1, LEN);
        let file = aio.open(folder.file("t", &content)).unwrap();
        // Buffers of growing sizes fit into nothing that smaller ones left, so regions come and go.
        for len in [1, 5, 9, 18, 30, 40, 3, 47, 11].map(|mib: usize| mib << 20) {
            let mut buffer = aio.alloc(len).unwrap();
            buffer.fill(0xEE);
            buffer.truncate(LEN);
            let part = buffer.len();
            let buffer = file.read(buffer, 0).wait().unwrap();
            assert!(buffer[..] == content[..part], "{len} bytes");
        }
    });
}

// ---- 3: Ok means every byte ----

/// Cuts every block somewhere, at least once.
#[derive(Debug, Default)]
struct Cuts {
    aligned: bool,
    state: AtomicU64,
    cuts: AtomicU64,
}

impl Rules for Cuts {
    fn block(&self, _queue: usize, block: &IoBlock) -> Fate {
        let random = pattern(self.state.fetch_add(1, Ordering::Relaxed), 8);
        let random = usize::from_le_bytes(random.try_into().unwrap());
        let cut = match self.aligned {
            true => (random % (block.len / 4096 + 1)) * 4096,
            false => random % block.len + 1,
        };
        if cut == 0 || cut == block.len {
            return Fate::Transfer;
        }
        self.cuts.fetch_add(1, Ordering::Relaxed);
        Fate::Cut(cut)
    }
}

/// Writes and reads all kinds of extents, and compares.
fn round_trip(aio: &AioHandle, folder: &Folder) {
    let base = pattern(1, 200_000);
    let path = folder.file("t", &base);
    let file = aio.open(&path).unwrap();
    let mut expected = base;
    let mut tickets = Vec::new();
    for (i, (offset, len)) in [(0, 40_000), (40_000, 65_536), (131_072, 49_152), (190_001, 90_000)].iter().enumerate()
    {
        let data = pattern(i as u64 + 7, *len);
        expected.resize(expected.len().max(offset + len), 0);
        expected[*offset..offset + len].copy_from_slice(&data);
        let mut memory = match i % 2 {
            0 => Memory::odd(*len),
            _ => Memory::Arena(aio.alloc(*len).unwrap()),
        };
        memory.bytes_mut().copy_from_slice(&data);
        tickets.push(file.write(memory, *offset as u64));
    }
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    assert!(std::fs::read(&path).unwrap() == expected);
    let reads = [(0, 280_001), (4096, 131_072), (77, 100_000)];
    let tickets: Vec<_> = reads.map(|(offset, len)| file.read(Memory::odd(len), offset as u64)).into();
    for (ticket, (offset, len)) in tickets.into_iter().zip(reads) {
        assert!(ticket.wait().unwrap().bytes() == &expected[offset..offset + len]);
    }
    // The count of a read past the end is exact.
    let failed = file.read(vec![0; 100_000], 250_000).wait().unwrap_err();
    assert!(matches!(failed.error(), Error::UnexpectedEof { read: 30_001, .. }), "{failed}");
    assert!(failed.into_buffer().unwrap()[..30_001] == expected[250_000..]);
    file.sync_all().wait().unwrap();
}

#[test]
fn short_transfers_are_resumed_where_they_stopped() {
    each_backend("short transfers", |backend, direct| {
        for aligned in [true, false] {
            let rules = Arc::new(Cuts { aligned, ..Cuts::default() });
            let (aio, gate) = gated(backend, &rules, small(2, 4, direct));
            round_trip(&aio, &Folder::new());
            round_trip(&aio.validated(true), &Folder::new());
            let cuts = rules.cuts.load(Ordering::Relaxed);
            // A cut past the end of the file is none.
            let resumed = aio.stats().short_transfers;
            assert!(cuts > 20 && resumed > cuts / 2, "{cuts} cuts, {resumed} resumed");
            assert_eq!(gate.offences(), Vec::<String>::new());
        }
    });
}

/// Refuses blocks and submissions again and again with errors that mean "later".
#[derive(Debug, Default)]
struct Storm {
    state: AtomicU64,
    errors: AtomicU64,
}

impl Storm {
    fn random(&self) -> usize {
        let random = pattern(self.state.fetch_add(1, Ordering::Relaxed) + 99, 8);
        usize::from_le_bytes(random.try_into().unwrap())
    }
}

const LATER: [i32; 3] = [libc::EINTR, libc::EAGAIN, libc::EBUSY];

impl Rules for Storm {
    fn submit(&self, _queue: usize, offered: usize, _in_flight: usize) -> io::Result<usize> {
        match self.random() % 4 {
            0 => Err(io::Error::from_raw_os_error(LATER[self.random() % 3])),
            1 => Ok(0),
            2 => Ok(1.min(offered)),
            _ => Ok(offered),
        }
    }

    fn block(&self, _queue: usize, _block: &IoBlock) -> Fate {
        // Often enough that some blocks see it more than twenty times in a row.
        if self.random() % 100 < 85 {
            self.errors.fetch_add(1, Ordering::Relaxed);
            return Fate::End(Err(io::Error::from_raw_os_error(LATER[self.random() % 3])));
        }
        Fate::Transfer
    }
}

#[test]
fn what_means_later_is_tried_again() {
    each_backend("storm", |backend, direct| {
        for depth in [1, 4] {
            let rules = Arc::new(Storm::default());
            let (aio, gate) = gated(backend, &rules, small(2, depth, direct));
            round_trip(&aio, &Folder::new());
            let errors = rules.errors.load(Ordering::Relaxed);
            assert!(errors > 50, "{errors} errors");
            let stats = aio.stats();
            assert_eq!((stats.retries, stats.short_transfers), (errors, stats.short_transfers));
            assert_eq!(gate.offences(), Vec::<String>::new());
        }
    });
}

/// Reports fewer or more bytes than there are, or an error, for one block.
#[derive(Debug)]
struct Once {
    result: Mutex<Option<io::Result<usize>>>,
}

impl Rules for Once {
    fn block(&self, _queue: usize, _block: &IoBlock) -> Fate {
        self.result.lock().unwrap().take().map_or(Fate::Transfer, Fate::End)
    }
}

#[test]
fn a_block_that_fails_fails_its_op_alone() {
    each_backend("one failure", |backend, direct| {
        let results: [io::Result<usize>; 4] =
            [Err(io::Error::from_raw_os_error(libc::EIO)), Ok(0), Ok(usize::MAX), Ok(BLOCK + 1)];
        for result in results {
            let what = format!("{result:?}");
            let rules = Arc::new(Once { result: Mutex::new(Some(result)) });
            let (aio, _) = gated(backend, &rules, small(1, 4, direct));
            let folder = Folder::new();
            let path = folder.file("t", &pattern(1, 4 * BLOCK));
            let file = aio.open(&path).unwrap();
            let tickets: Vec<_> =
                (1..9).map(|i| file.write(pattern(i + 1, 2 * BLOCK), i * 2 * BLOCK as u64)).collect();
            let results: Vec<_> = tickets.into_iter().map(|ticket| ticket.wait()).collect();
            let failed: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
            assert_eq!(failed.len(), 1, "{what}: {failed:?}");
            let Error::Io(error) = failed[0].error() else { panic!("{what}: {:?}", failed[0]) };
            assert_eq!(
                (error.op, error.backend, &error.path),
                (aio::error::OpKind::Write, Some(backend.name()), &path)
            );
            let data = std::fs::read(&path).unwrap();
            for (i, _) in results.iter().enumerate().filter(|(_, result)| result.is_ok()) {
                let at = (i + 1) * 2 * BLOCK;
                assert!(data[at..at + 2 * BLOCK] == pattern(i as u64 + 2, 2 * BLOCK), "{what}: op {i}");
            }
        }
    });
}

// ---- 4: nothing panics, aborts or hangs ----

/// Ops still work.
fn assert_alive(aio: &AioHandle, folder: &Folder) {
    let path = folder.file("alive", &pattern(9, 5 * BLOCK + 3));
    let file = aio.open(&path).unwrap();
    for _ in 0..4 {
        assert!(file.read(vec![0; 5 * BLOCK + 3], 0).wait().unwrap() == pattern(9, 5 * BLOCK + 3));
        file.write(pattern(9, BLOCK), 0).wait().unwrap();
    }
    file.sync_data().wait().unwrap();
    // The counter follows the queues with a little delay.
    while aio.stats().in_flight != 0 {
        std::thread::yield_now();
    }
}

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
            // With nobody to tell, it goes to the handle.
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

/// A waker that panics where it is told to, and a buffer that panics when dropped.
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
    fn as_ptr(&self) -> *const u8 {
        IoBuf::as_ptr(&self.0)
    }

    fn byte_len(&self) -> usize {
        self.0.len()
    }
}

// SAFETY: likewise.
unsafe impl IoBufMut for ExplosiveBuffer {
    fn as_mut_ptr(&mut self) -> *mut u8 {
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
            assert!(Pin::new(&mut ticket).poll(&mut Context::from_waker(&waker)).is_pending());
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
        assert!(Pin::new(&mut running).poll(&mut Context::from_waker(&waker)).is_pending());
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
                assert!(Pin::new(&mut ticket).poll(&mut Context::from_waker(&waker)).is_pending());
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
        assert!(Pin::new(&mut second).poll(&mut Context::from_waker(&waker)).is_pending());
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
            assert!(Pin::new(&mut ticket).poll(&mut Context::from_waker(&waker)).is_pending());
            drop(waker);
            if by_drop {
                drop(ticket);
            } else {
                // Another waker takes its place.
                let polled = Pin::new(&mut ticket).poll(&mut Context::from_waker(Waker::noop()));
                assert!(matches!(polled, Poll::Pending));
                ticket.wait().unwrap();
            }
            assert_alive(&aio, &folder);
        }
    });
}

/// Breaks the queue that a test picks.
#[derive(Debug, Default)]
struct Breaks {
    /// The queue that is broken, plus one.
    broken: AtomicUsize,
    /// The next queue that is woken breaks.
    armed: AtomicBool,
    /// Whose blocks are kept back, plus one.
    holder: AtomicUsize,
}

impl Rules for Breaks {
    fn block(&self, queue: usize, _block: &IoBlock) -> Fate {
        self.holder.store(queue + 1, Ordering::SeqCst);
        Fate::Transfer
    }

    fn reap(&self, queue: usize) -> io::Result<()> {
        if self.broken.load(Ordering::SeqCst) == queue + 1 {
            return Err(io::Error::from_raw_os_error(libc::EBADFD));
        }
        Ok(())
    }

    fn woken(&self, queue: usize) {
        if self.armed.swap(false, Ordering::SeqCst) {
            self.broken.store(queue + 1, Ordering::SeqCst);
        }
    }
}

fn died(error: &Error) -> bool {
    matches!(error, Error::WorkerDied { .. })
}

#[test]
fn the_ops_of_a_dead_worker_fail_and_so_does_what_comes_later() {
    each_backend("the last worker dies", |backend, direct| {
        let rules = Arc::new(Breaks::default());
        let (aio, gate) = gated(backend, &rules, small(1, 4, direct));
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, 40 * BLOCK))).unwrap();
        gate.close();
        // In flight, partly claimed, and waiting.
        let tickets: Vec<_> = (0..3).map(|i| file.read(vec![0; 10 * BLOCK], i * 10 * BLOCK as u64)).collect();
        drop(file.read(vec![0; BLOCK], 0));
        gate.wait_for(4);
        while aio.stats().in_flight == 0 {
            std::thread::yield_now();
        }
        rules.broken.store(1, Ordering::SeqCst);
        gate.wake(0);
        for ticket in tickets {
            let failed = ticket.wait().unwrap_err();
            assert!(died(failed.error()), "{failed:?}");
            // All that the queue had never reached the kernel, so the memory is free.
            assert!(failed.into_buffer().is_some());
        }
        let Error::Failures(failures) = aio.wait().unwrap_err() else { panic!() };
        assert!(matches!(&failures.errors[..], [error] if died(error)), "{failures}");
        for _ in 0..3 {
            assert!(died(file.read(vec![0; BLOCK], 0).wait().unwrap_err().error()));
            assert!(died(file.try_read(vec![0; BLOCK], 0).unwrap_err().error()));
            let Error::Failures(failures) = aio.scope(|s| s.read(&file, vec![0; BLOCK], 0)).unwrap_err() else {
                panic!()
            };
            assert!(died(&failures.errors[0]));
            assert_eq!(aio.wait().unwrap(), 0);
        }
        assert_eq!(aio.stats().in_flight, 0);
        file.close().unwrap();
        aio.close().unwrap();
        // The queue was drained before it was dropped.
        assert_eq!(gate.offences(), Vec::<String>::new());
    });
}

#[test]
fn work_goes_on_when_the_worker_that_was_woken_for_it_dies() {
    each_backend("one of two dies on waking", |backend, direct| {
        let rules = Arc::new(Breaks::default());
        let mut config = small(2, 4, direct);
        config.spin = Duration::ZERO;
        let (aio, _) = gated(backend, &rules, config);
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, BLOCK))).unwrap();
        rules.armed.store(true, Ordering::SeqCst);
        // Until one of them was asleep and had to be woken.
        while rules.armed.load(Ordering::SeqCst) {
            assert!(file.read(vec![0; BLOCK], 0).wait().unwrap() == pattern(1, BLOCK));
        }
        assert_alive(&aio, &folder);
    });
}

#[test]
fn work_goes_on_when_the_only_worker_awake_dies() {
    each_backend("the busy one of two dies", |backend, direct| {
        let rules = Arc::new(Breaks::default());
        let mut config = small(2, 1, direct);
        config.spin = Duration::ZERO;
        let (aio, gate) = gated(backend, &rules, config);
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, BLOCK))).unwrap();
        gate.close();
        let first = file.read(vec![0; BLOCK], 0);
        gate.wait_for(1);
        let holder = rules.holder.load(Ordering::SeqCst);
        let second = file.read(vec![0; BLOCK], 0);
        rules.broken.store(holder, Ordering::SeqCst);
        gate.wake(holder - 1);
        assert!(died(first.wait().unwrap_err().error()));
        gate.wait_for(1);
        gate.open();
        assert!(second.wait().unwrap() == pattern(1, BLOCK));
        assert_alive(&aio, &folder);
    });
}

#[test]
fn a_sync_and_a_write_that_wait_for_room_do_not_wait_for_each_other() {
    each_backend("one op at a time", |backend, direct| {
        let mut config = small(1, 4, direct);
        config.max_pending_ops = 1;
        let (aio, gate) = gated(backend, &Arc::new(Plain), config);
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, 8 * BLOCK))).unwrap();
        for _ in 0..50 {
            gate.close();
            let first = file.write(vec![1; BLOCK], 0);
            gate.wait_for(1);
            std::thread::scope(|scope| {
                for i in 1..4 {
                    let file = &file;
                    scope.spawn(move || file.write(vec![2; BLOCK], i * BLOCK as u64).wait().unwrap());
                    scope.spawn(move || file.sync_data().wait().unwrap());
                }
                gate.open();
                first.wait().unwrap();
            });
        }
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
                while waiting.load(Ordering::SeqCst) < 4 {
                    std::thread::yield_now();
                }
                gate.open();
            });
            ticket.wait().unwrap();
        }
    });
}

// ---- 5: never more in flight than fits ----

#[test]
fn in_flight_never_exceeds_the_capacity() {
    each_backend("capacity", |backend, direct| {
        for (threads, depth) in [(1, 1), (1, 2), (2, 3), (3, 8)] {
            let (aio, gate) = gated(backend, &Arc::new(Plain), small(threads, depth, direct));
            let folder = Folder::new();
            let file = aio.open(folder.file("t", &pattern(1, 64 * BLOCK))).unwrap();
            gate.close();
            let tickets: Vec<_> = (0..4)
                .map(|i| {
                    let file = if i % 2 == 0 { file.clone() } else { file.background() };
                    file.read(vec![0; 64 * BLOCK], 0)
                })
                .collect();
            // As full as can be, and no fuller.
            gate.wait_for(threads * depth);
            assert_eq!(gate.kept(), threads * depth);
            gate.open();
            for ticket in tickets {
                assert!(ticket.wait().unwrap() == pattern(1, 64 * BLOCK));
            }
            assert_eq!(gate.offences(), Vec::<String>::new());
        }
    });
}

/// Reports a block twice, or one that nobody submitted.
#[derive(Debug, Default)]
struct Liar {
    lies: AtomicUsize,
}

impl Rules for Liar {
    fn reaped(&self, _queue: usize, done: &mut Vec<Completion>) {
        if let Some(first) = done.first()
            && self.lies.fetch_add(1, Ordering::SeqCst) == 0
        {
            let token = first.token;
            done.push(Completion { token, result: Ok(1) });
        }
    }
}

#[test]
fn a_completion_that_nobody_waits_for_ends_the_worker_and_nothing_else() {
    each_backend("a lie", |backend, direct| {
        let rules = Arc::new(Liar::default());
        let (aio, _) = gated(backend, &rules, small(2, 4, direct));
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, 64 * BLOCK))).unwrap();
        let results: Vec<_> = (0..20).map(|_| file.read(vec![0; 8 * BLOCK], 0)).collect();
        for result in results.into_iter().map(|ticket| ticket.wait()) {
            match result {
                Ok(buffer) => assert!(buffer == pattern(1, 64 * BLOCK)[..8 * BLOCK]),
                Err(failed) => assert!(died(failed.error()), "{failed}"),
            }
        }
        assert_alive(&aio, &folder);
    });
}

// ---- 6: each op ends exactly once ----

#[test]
fn each_op_ends_once_however_it_is_cancelled() {
    each_backend("cancel", |backend, direct| {
        let (aio, gate) = gated(backend, &Arc::new(Plain), small(2, 2, direct));
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, 64 * BLOCK))).unwrap();
        let (mut cancelled, mut completed, mut dropped) = (0, 0, 0);
        let mut accounts = 0;
        for round in 0..150_u64 {
            let len = [1, BLOCK, 6 * BLOCK][round as usize % 3];
            let direction = if round % 2 == 0 { Direction::Read } else { Direction::Write };
            let (descs, seen): (Vec<_>, Vec<_>) =
                (0..6).map(|i| staged(direction, &file, i * 6 * BLOCK as u64, vec![3; len], Panics::Never)).unzip();
            let tickets: Vec<_> = descs.into_iter().map(|desc| aio.submit(desc)).collect();
            let detached = (round % 5 == 0).then(|| file.read(vec![0; 3 * BLOCK], 0));
            // From here and from another thread, at whatever point they are.
            std::thread::scope(|scope| {
                scope.spawn(|| tickets.iter().for_each(|ticket| ticket.cancel()));
                tickets.iter().rev().for_each(|ticket| ticket.cancel());
            });
            if let Some(ticket) = detached {
                ticket.cancel();
                drop(ticket);
                dropped += 1;
            }
            for (ticket, seen) in tickets.into_iter().zip(seen) {
                let result = ticket.wait();
                let well = match &result {
                    Ok(()) => true,
                    Err(failed) => {
                        assert!(matches!(failed.error(), Error::Cancelled { .. }), "{failed}");
                        false
                    }
                };
                *(if well { &mut completed } else { &mut cancelled }) += 1;
                accounts += usize::from(well);
                drop(result);
                assert_eq!(seen.finished.load(Ordering::SeqCst), 1);
                assert_eq!(seen.finished_well.load(Ordering::SeqCst), usize::from(well));
                // The engine lets go of it before it wakes anyone, or right after.
                while seen.dropped.load(Ordering::SeqCst) == 0 {
                    std::thread::yield_now();
                }
                assert_eq!(seen.dropped.load(Ordering::SeqCst), 1);
            }
        }
        assert!(cancelled > 0, "nothing was cancelled in time, of {completed}");
        assert!(dropped > 0);
        match aio.wait() {
            // Those whose tickets were dropped ended well or were cancelled, which is no failure.
            Ok(ended) => assert!((accounts..=accounts + dropped).contains(&ended), "{ended}, not {accounts}"),
            Err(error) => panic!("{error}"),
        }
        assert_eq!(gate.offences(), Vec::<String>::new());
        assert_alive(&aio, &folder);
    });
}

#[test]
fn what_is_in_flight_is_not_cancelled_and_what_is_not_is() {
    each_backend("cancel in flight", |backend, direct| {
        let (aio, gate) = gated(backend, &Arc::new(Plain), small(1, 2, direct));
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, 64 * BLOCK))).unwrap();
        gate.close();
        // All of its blocks are in flight: it completes.
        let whole = file.read(vec![0; 2 * BLOCK], 0);
        gate.wait_for(2);
        // Nothing of it is: it ends at once.
        let waiting = file.read(vec![0; 2 * BLOCK], 0);
        whole.cancel();
        waiting.cancel();
        let failed = waiting.wait().unwrap_err();
        assert!(matches!(failed.error(), Error::Cancelled { bytes: 0, .. }), "{failed}");
        assert_eq!(failed.into_buffer().unwrap().len(), 2 * BLOCK);
        assert!(!whole.is_done());
        gate.open();
        assert!(whole.wait().unwrap() == pattern(1, 2 * BLOCK));
        // A part of it is: that part moves.
        gate.close();
        let partly = file.read(vec![0; 9 * BLOCK], 0);
        gate.wait_for(2);
        partly.cancel();
        assert!(!partly.is_done());
        gate.open();
        let failed = partly.wait().unwrap_err();
        let Error::Cancelled { bytes, .. } = failed.error() else { panic!("{failed}") };
        assert_eq!(*bytes, 2 * BLOCK as u64);
        assert_alive(&aio, &folder);
    });
}

// ---- 7: nothing outlives the handle ----

#[test]
fn a_file_operation_that_starts_late_ends_before_its_handle() {
    each_backend("late sync", |backend, direct| {
        /// Takes its time, on the thread that ran the sync.
        #[derive(Default)]
        struct Slow(AtomicBool);
        impl Wake for Slow {
            fn wake(self: Arc<Self>) {
                // Not to make anything pass: it makes a thread that nobody joins show.
                std::thread::sleep(Duration::from_millis(100));
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let (aio, gate) = gated(backend, &Arc::new(Plain), small(1, 2, direct));
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, 4 * BLOCK))).unwrap();
        gate.close();
        let write = file.write(vec![1; BLOCK], 0);
        gate.wait_for(1);
        // Its thread starts only when the write has ended.
        let mut sync = file.sync_data();
        let slow = Arc::new(Slow::default());
        let waker = Waker::from(slow.clone());
        assert!(Pin::new(&mut sync).poll(&mut Context::from_waker(&waker)).is_pending());
        drop(file);
        std::thread::scope(|scope| {
            // Opened while the handle waits in its drop, or before: it makes no difference to what must hold.
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                gate.open();
            });
            drop(aio);
        });
        assert!(slow.0.load(Ordering::SeqCst), "the handle is gone, and a thread of it is still at work");
        write.wait().unwrap();
        sync.wait().unwrap();
    });
}
