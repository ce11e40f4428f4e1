//! Memory that an op may use stays with the engine until the op has ended, whatever is dropped meanwhile; and nothing
//! is left when the handle is gone.
//!
//! Every test asserts that blocks are in flight. Buffers lie in mappings that the test keeps: a buffer that is dropped
//! is filled with a pattern, and a byte of it that changes later was written by somebody who had no right to it.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Waker};

use aio::buf::{IoBuf, IoBufMut};
use aio::op::{Direction, Extent, ExtentMemory, IoOpDesc, Outcome, Target};
use aio::{AioFile, AioHandle, Backend, DirectMode, Error};
use aio_testkit::fault::{Plain, Rules};
use aio_testkit::leftovers::{Leftovers, entries, writable_memory};
use support::child::{alone, forked};
use support::{Folder, backends, each_backend, finishes, gated, pattern, small};

const BLOCK: usize = 16 << 10;
const MIB: usize = 1 << 20;
const PAGE: usize = 4096;
/// What a buffer is filled with when it is dropped.
const RELEASED: u8 = 0xC5;

// ---- memory under watch ----

/// One mapping, cut into buffers.
struct Watched(Arc<Mapping>);

#[derive(Debug)]
struct Mapping {
    ptr: *mut u8,
    len: usize,
    each: usize,
    shift: usize,
    drops: Vec<AtomicUsize>,
}

// SAFETY: each buffer's part is used by that buffer alone until it is dropped, and only read by the test afterwards.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Watched {
    /// `count` buffers of `each` bytes, each `shift` bytes behind a page boundary.
    fn new(count: usize, each: usize, shift: usize) -> Self {
        let len = count * (each + PAGE);
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let ptr = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        assert_ne!(ptr, libc::MAP_FAILED);
        let drops = (0..count).map(|_| AtomicUsize::new(0)).collect();
        Self(Arc::new(Mapping { ptr: ptr.cast(), len, each, shift, drops }))
    }

    fn buffer(&self, index: usize) -> WatchedBuffer {
        WatchedBuffer { mapping: self.0.clone(), index }
    }

    fn buffers(&self) -> impl Iterator<Item = WatchedBuffer> + '_ {
        (0..self.0.drops.len()).map(|index| self.buffer(index))
    }

    fn dropped(&self) -> usize {
        self.0.drops.iter().map(|drops| drops.load(Ordering::SeqCst)).sum()
    }

    /// Each buffer was dropped once, and nobody has touched one since.
    #[track_caller]
    fn assert_released(&self) {
        for (index, drops) in self.0.drops.iter().enumerate() {
            assert_eq!(drops.load(Ordering::SeqCst), 1, "buffer {index}");
            // SAFETY: in the mapping, and its buffer is gone.
            let bytes = unsafe { std::slice::from_raw_parts(self.0.at(index), self.0.each) };
            assert!(bytes.iter().all(|byte| *byte == RELEASED), "buffer {index} was touched after its release");
        }
    }
}

impl Mapping {
    fn at(&self, index: usize) -> *mut u8 {
        self.ptr.wrapping_add(index * (self.each + PAGE) + self.shift)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and no buffer is left.
        unsafe { libc::munmap(self.ptr.cast(), self.len) };
    }
}

#[derive(Debug)]
struct WatchedBuffer {
    mapping: Arc<Mapping>,
    index: usize,
}

impl WatchedBuffer {
    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: this buffer's part of the mapping, borrowed as long as the buffer is.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.at(self.index), self.mapping.each) }
    }
}

impl Drop for WatchedBuffer {
    fn drop(&mut self) {
        self.bytes().fill(RELEASED);
        self.mapping.drops[self.index].fetch_add(1, Ordering::SeqCst);
    }
}

// SAFETY: the part of the mapping does not move, and nobody else has it while the buffer lives.
unsafe impl IoBuf for WatchedBuffer {
    fn as_ptr(&self) -> *const u8 {
        self.mapping.at(self.index)
    }

    fn byte_len(&self) -> usize {
        self.mapping.each
    }
}

// SAFETY: the same address, and u8 has no invalid values.
unsafe impl IoBufMut for WatchedBuffer {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.mapping.at(self.index)
    }
}

/// Waits until the counter, which follows the queues with a little delay, shows what is in flight.
fn assert_in_flight(aio: &AioHandle) {
    while aio.stats().in_flight == 0 {
        std::thread::yield_now();
    }
}

// ---- dropping, behind a gate ----

#[test]
fn dropping_tickets_releases_nothing_in_flight() {
    each_backend("dropped tickets", |backend, direct| {
        for shift in [0, 1] {
            let (aio, gate) = gated(backend, &Arc::new(Plain), small(1, 8, direct));
            let folder = Folder::new();
            let file = aio.open(folder.file("t", &pattern(1, 64 * BLOCK))).unwrap();
            let memory = Watched::new(8, 2 * BLOCK, shift);
            gate.close();
            memory.buffers().enumerate().for_each(|(i, buffer)| drop(file.read(buffer, (i * 2 * BLOCK) as u64)));
            gate.wait_for(8);
            assert_in_flight(&aio);
            assert_eq!(memory.dropped(), 0);
            gate.open();
            assert_eq!(aio.wait().unwrap(), 8);
            memory.assert_released();
            drop((file, aio));
            memory.assert_released();
        }
    });
}

#[test]
fn dropping_everything_waits_for_what_is_in_flight() {
    each_backend("dropped handle", |backend, direct| {
        for (write, shift) in [(false, 0), (false, 3), (true, 0), (true, 3)] {
            let (aio, gate) = gated(backend, &Arc::new(Plain), small(2, 4, direct));
            let folder = Folder::new();
            let path = folder.file("t", &pattern(1, 16 * BLOCK));
            let file = aio.open(&path).unwrap();
            let memory = Watched::new(16, BLOCK, shift);
            gate.close();
            let tickets: Vec<_> = memory
                .buffers()
                .enumerate()
                .map(|(i, mut buffer)| {
                    buffer.bytes().fill(i as u8);
                    let offset = (i * BLOCK) as u64;
                    if write { file.write(buffer, offset) } else { file.read(buffer, offset) }
                })
                .collect();
            gate.wait_for(8);
            assert_in_flight(&aio);
            let gone = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    drop(tickets);
                    drop(file);
                    drop(aio);
                    gone.store(true, Ordering::SeqCst);
                });
                // What waits cannot be seen to wait; that nothing is released while the gate is closed can.
                for _ in 0..1000 {
                    std::thread::yield_now();
                    assert!(!gone.load(Ordering::SeqCst), "the handle is gone with blocks in flight");
                    assert_eq!(memory.dropped(), 0);
                }
                assert_eq!(gate.kept(), 8);
                gate.open();
            });
            memory.assert_released();
            assert_eq!(gate.offences(), Vec::<String>::new());
            if write {
                let data = std::fs::read(&path).unwrap();
                assert!(data.chunks(BLOCK).enumerate().all(|(i, chunk)| chunk.iter().all(|byte| *byte == i as u8)));
            }
        }
    });
}

#[test]
fn a_scope_does_not_unwind_before_its_ops_have_ended() {
    each_backend("unwinding scope", |backend, direct| {
        let (aio, gate) = gated(backend, &Arc::new(Plain), small(1, 4, direct));
        let folder = Folder::new();
        let content = pattern(1, 16 * BLOCK);
        let file = aio.open(folder.file("t", &content)).unwrap();
        let memory = Watched::new(4, 2 * BLOCK, 1);
        let mut borrowed = vec![0; 4 * BLOCK];
        gate.close();
        let unwound = AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                let result = catch_unwind(AssertUnwindSafe(|| {
                    aio.scope(|scope| {
                        memory.buffers().for_each(|buffer| scope.read(&file, buffer, 0));
                        scope.read(&file, &mut borrowed[..], 0);
                        panic!("in the middle of a scope");
                    })
                }));
                let panic = result.map(|_: Result<(), _>| ()).unwrap_err();
                assert_eq!(panic.downcast_ref(), Some(&"in the middle of a scope"));
                unwound.store(true, Ordering::SeqCst);
            });
            gate.wait_for(4);
            assert_in_flight(&aio);
            for _ in 0..1000 {
                std::thread::yield_now();
                assert!(!unwound.load(Ordering::SeqCst), "unwound with blocks in flight");
            }
            assert_eq!(memory.dropped(), 0);
            gate.open();
        });
        memory.assert_released();
        assert!(borrowed == content[..4 * BLOCK]);
    });
}

#[test]
fn a_buffer_is_dropped_once_whoever_drops_it() {
    each_backend("dropped once", |backend, direct| {
        let (aio, gate) = gated(backend, &Arc::new(Plain), small(2, 4, direct));
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, 4 * BLOCK))).unwrap();
        let memory = Watched::new(8, BLOCK, 0);
        gate.close();
        // Waited for; past the end, with and without a ticket; cancelled before and after it began; refused.
        let good = file.read(memory.buffer(0), 0);
        let failed = file.read(memory.buffer(1), 4 * BLOCK as u64);
        drop(file.read(memory.buffer(2), 4 * BLOCK as u64));
        let begun = file.read(memory.buffer(3), 0);
        let rest: Vec<_> = (4..6).map(|i| file.read(memory.buffer(i), BLOCK as u64)).collect();
        gate.wait_for(4);
        begun.cancel();
        rest[0].cancel();
        gate.open();
        drop(good.wait().unwrap());
        let failed = failed.wait().unwrap_err();
        assert!(matches!(failed.error(), Error::UnexpectedEof { read: 0, .. }));
        drop(failed.into_buffer());
        drop(begun.wait());
        drop(rest);
        let Error::Failures(failures) = aio.wait().unwrap_err() else { panic!() };
        let eofs = failures.errors.iter().filter(|error| matches!(error, Error::UnexpectedEof { .. })).count();
        assert_eq!(eofs, 1, "{failures}");
        aio.close().unwrap();
        let refused = file.read(memory.buffer(6), 0).wait().unwrap_err();
        assert!(matches!(refused.error(), Error::Closed));
        drop(refused);
        drop(file.try_read(memory.buffer(7), 0).unwrap_err().into_buffer());
        memory.assert_released();
    });
}

// ---- who hears of a failure ----

#[test]
fn a_failure_goes_to_its_ticket_or_else_to_the_handle() {
    each_backend("failures", |backend, direct| {
        let (aio, gate) = gated(backend, &Arc::new(Plain), small(1, 8, direct));
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, BLOCK))).unwrap();
        let past = BLOCK as u64;
        let eofs = |result: aio::Result<usize>| match result {
            Ok(_) => 0,
            Err(Error::Failures(failures)) => {
                assert!(failures.errors.iter().all(|error| matches!(error, Error::UnexpectedEof { .. })));
                failures.errors.len()
            }
            Err(error) => panic!("{error}"),
        };
        // With a live ticket: to it alone.
        let ticket = file.read(vec![0; 10], past);
        assert_eq!(eofs(aio.wait()), 0);
        ticket.wait().unwrap_err();
        assert_eq!(eofs(aio.wait()), 0);
        // The ticket goes first.
        gate.close();
        let ticket = file.read(vec![0; 10], past);
        gate.wait_for(1);
        drop(ticket);
        gate.open();
        assert_eq!(eofs(aio.wait()), 1);
        // The failure goes first, and nobody looked at it.
        let ticket = file.read(vec![0; 10], past);
        while !ticket.is_done() {
            std::thread::yield_now();
        }
        assert!(ticket.wait_timeout(std::time::Duration::ZERO).unwrap());
        assert_eq!(eofs(aio.wait()), 0);
        drop(ticket);
        assert_eq!(eofs(aio.wait()), 1);
        assert_eq!(eofs(aio.wait()), 0);
        // Of a file operation, and of a scope, which tells itself.
        drop(file.punch_hole(u64::MAX, 1));
        let Error::Failures(failures) = aio.wait().unwrap_err() else { panic!() };
        assert_eq!(failures.errors.len(), 1);
        assert!(aio.scope(|scope| scope.read(&file, vec![0; 10], past)).is_err());
        assert_eq!(eofs(aio.wait()), 0);
        // Cancelled before or after its ticket goes, it ended as it was asked to.
        gate.close();
        // The queue is full, so that no worker begins what is cancelled.
        let first: Vec<_> = (0..8).map(|_| file.read(vec![0; BLOCK], 0)).collect();
        gate.wait_for(8);
        for dropped_early in [true, false] {
            let ticket = file.read(vec![0; 8 * BLOCK], 0);
            ticket.cancel();
            if !dropped_early {
                assert!(ticket.is_done());
            }
            drop(ticket);
        }
        gate.open();
        first.into_iter().for_each(|read| drop(read.wait().unwrap()));
        assert_eq!(eofs(aio.wait()), 0);
        // What close() finds.
        drop(file.read(vec![0; 10], past));
        let Error::Failures(failures) = aio.close().unwrap_err() else { panic!() };
        assert_eq!(failures.errors.len(), 1);
    });
}

#[test]
fn failures_do_not_use_up_the_memory() {
    const OPS: usize = 1100;
    each_backend("many failures", |backend, direct| {
        let (aio, _) = gated(backend, &Arc::new(Plain), small(2, 8, direct));
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, BLOCK))).unwrap();
        let past = BLOCK as u64;
        (0..OPS).for_each(|_| drop(file.read(vec![0; 10], past)));
        let unclaimed = aio.wait();
        let scoped = aio.scope(|scope| (0..OPS).for_each(|_| scope.read(&file, vec![0; 10], past)));
        for result in [unclaimed.map(drop), scoped] {
            let Error::Failures(failures) = result.unwrap_err() else { panic!() };
            assert_eq!((failures.completed, failures.errors.len(), failures.more), (0, 1024, OPS - 1024));
            let said = failures.to_string();
            assert!(said.starts_with("1100 ops failed (0 completed):") && said.ends_with("and 1092 more"), "{said}");
        }
        assert_eq!(aio.wait().unwrap(), 0);
    });
}

// ---- real I/O ----

/// A file larger than what is in flight, all of it on the device.
fn written(folder: &Folder, len: usize) -> PathBuf {
    let path = folder.file("large", &pattern(1, len));
    std::fs::File::open(&path).unwrap().sync_all().unwrap();
    path
}

/// Reads as much again, and so comes after whatever the device may still have to do.
fn read_behind(path: &Path, len: usize) {
    let aio = aio::builder().build().unwrap();
    let file = aio.open(path).unwrap();
    file.read(aio.alloc(len).unwrap(), 0).wait().unwrap();
}

#[test]
fn direct_reads_in_flight_never_land_in_released_memory() {
    let folder = Folder::new();
    let path = written(&folder, COUNT * MIB);
    for backend in backends() {
        for way in [Way::Tickets, Way::Handle, Way::Scope] {
            let path = path.clone();
            finishes(&format!("dropping {way:?} on {backend}"), move || {
                // It may be over before one can look; mostly it is not.
                let seen = (0..20).any(|_| drop_in_flight(backend, way, &path) > 0);
                assert!(seen, "nothing was ever seen in flight");
            });
        }
    }
}

const COUNT: usize = 48;

/// What is dropped while reads are in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Tickets,
    Handle,
    Scope,
}

/// How many blocks were in flight at that moment.
fn drop_in_flight(backend: Backend, way: Way, path: &Path) -> u64 {
    let memory = Watched::new(COUNT, MIB, 0);
    let aio = aio::builder().backend(backend).queue_depth(COUNT).build().unwrap();
    let file = aio.open(path).unwrap();
    let places = || memory.buffers().enumerate().map(|(i, buffer)| (buffer, (i * MIB) as u64));
    let mut seen = 0;
    if way == Way::Scope {
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            aio.scope(|scope| {
                places().for_each(|(buffer, offset)| scope.read(&file, buffer, offset));
                while seen == 0 && memory.dropped() < COUNT {
                    seen = aio.stats().in_flight;
                }
                panic!("with {seen} blocks in flight");
            })
        }));
        drop(unwound.map(|_: Result<(), _>| ()).unwrap_err());
        memory.assert_released();
    } else {
        let tickets: Vec<_> = places().map(|(buffer, offset)| file.read(buffer, offset)).collect();
        while seen == 0 && !tickets.iter().all(|ticket| ticket.is_done()) {
            seen = aio.stats().in_flight;
        }
        drop(tickets);
        if way == Way::Tickets {
            aio.wait().unwrap();
            memory.assert_released();
        }
    }
    drop((file, aio));
    memory.assert_released();
    read_behind(path, COUNT * MIB);
    memory.assert_released();
    seen
}

// ---- worker threads ----

/// Runs something in `fini`, on whatever thread that is.
struct OnFini {
    target: Target,
    run: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

// SAFETY: there are no extents, and the getters return fields that do not change.
unsafe impl IoOpDesc for OnFini {
    fn direction(&self) -> Direction {
        Direction::Read
    }

    fn target(&self) -> &Target {
        &self.target
    }

    fn extents(&self) -> &[Extent] {
        &[]
    }

    fn fini(&self, outcome: &Outcome) {
        assert!(outcome.is_ok());
        (self.run.lock().unwrap().take().unwrap())();
    }
}

fn on_fini(aio: &AioHandle, file: &AioFile, run: impl FnOnce() + Send + 'static) -> aio::Ticket<()> {
    aio.submit(OnFini { target: file.target(), run: Mutex::new(Some(Box::new(run))) })
}

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
        let ticket = on_fini(&aio, &file, move || {
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
        ticket.wait().unwrap();
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
            let ticket = on_fini(&aio, &file, move || {
                go.recv().unwrap();
                drop(inside);
                drop(inner);
                send.send(()).unwrap();
            });
            gate.close();
            memory.buffers().for_each(|buffer| drop(file.read(buffer, 0)));
            drop((file, aio));
            ready.send(()).unwrap();
            dropped.recv().unwrap();
            gate.open();
            // The threads end by themselves, after all that was accepted.
            ticket.wait().unwrap();
            while memory.dropped() < 8 {
                std::thread::yield_now();
            }
            memory.assert_released();
        }
    });
}

// ---- fork ----

/// Notes who wakes queues.
#[derive(Debug, Default)]
struct Wakes(AtomicUsize);

impl Rules for Wakes {
    fn woken(&self, _queue: usize) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_forked_child_is_told_and_disturbs_nobody() {
    each_backend("fork", |backend, direct| {
        let rules = Arc::new(Wakes::default());
        let (aio, gate) = gated(backend, &rules, small(2, 4, direct));
        let folder = Folder::new();
        let content = pattern(1, 64 * BLOCK);
        let path = folder.file("t", &content);
        for round in 0..5 {
            let file = aio.open(&path).unwrap();
            let (closing, forgotten) = (aio.open(&path).unwrap(), aio.open(&path).unwrap());
            let memory = Watched::new(8, 2 * BLOCK, round % 2);
            gate.close();
            let tickets: Vec<_> =
                memory.buffers().enumerate().map(|(i, buffer)| file.read(buffer, (i * 2 * BLOCK) as u64)).collect();
            let mut tickets: Vec<Option<_>> = tickets.into_iter().map(Some).collect();
            let arena = aio.alloc(BLOCK).unwrap();
            let sync = file.sync_data();
            gate.wait_for(8);
            assert_in_flight(&aio);
            let mut closing = Some(closing);
            let mut forgotten = Some(forgotten);
            let mut all = Some((aio.clone(), file.clone(), arena, sync));
            let wrong = forked(|| {
                let forked = |error: &Error| matches!(error, Error::Forked);
                let wakes = rules.0.load(Ordering::SeqCst);
                let (aio, file, arena, sync) = all.take()?;
                let checks = [
                    aio.wait().is_err_and(|error| forked(&error)),
                    aio.open("/dev/null").is_err_and(|error| forked(&error)),
                    aio.alloc(1).is_err_and(|error| forked(&error)),
                    aio.try_alloc(1).is_err_and(|error| forked(&error)),
                    aio.scope(|_| ()).is_err_and(|error| forked(&error)),
                    aio.clone().close().is_err_and(|error| forked(&error)),
                    file.read(vec![0; 10], 0).wait().is_err_and(|failed| forked(failed.error())),
                    file.write(vec![0; 10], 0).wait().is_err_and(|failed| forked(failed.error())),
                    file.try_read(vec![0; 10], 0).is_err_and(|failed| forked(failed.error())),
                    file.read_at(&mut [0; 10], 0).is_err_and(|error| forked(&error)),
                    file.write_at(&[0; 10], 0).is_err_and(|error| forked(&error)),
                    file.sync_data().wait().is_err_and(|failed| forked(failed.error())),
                    file.set_len(0).wait().is_err_and(|failed| forked(failed.error())),
                    aio.read_path("/dev/null", vec![0; 1]).wait().is_err_and(|failed| forked(failed.error())),
                    closing.take()?.close().is_err_and(|error| forked(&error)),
                    tickets[0].take()?.wait().is_err_and(|failed| forked(failed.error())),
                    tickets[1].as_ref()?.wait_timeout(std::time::Duration::ZERO).is_err_and(|error| forked(&error)),
                    {
                        let mut ticket = tickets[2].take()?;
                        let polled = std::pin::Pin::new(&mut ticket).poll(&mut Context::from_waker(Waker::noop()));
                        matches!(polled, Poll::Ready(Err(failed)) if forked(failed.error()))
                    },
                ];
                if let Some(wrong) = checks.iter().position(|check| !check) {
                    return Some(wrong as i32 + 1);
                }
                tickets[3].as_ref()?.cancel();
                let _ = (aio.stats(), aio.arena().in_use(), tickets[4].as_ref()?.is_done());
                // All that the child holds goes, the parent's I/O in flight or not.
                drop(sync);
                tickets.clear();
                drop(arena);
                drop(forgotten.take());
                drop(file);
                drop(aio);
                (rules.0.load(Ordering::SeqCst) != wakes).then_some(50)
            });
            assert_eq!(wrong, 0, "50: the child woke a queue of the parent's; 99: it panicked; negative: a signal");
            // The parent goes on as if nothing had been.
            assert_eq!(gate.kept(), 8);
            assert_eq!(memory.dropped(), 0);
            gate.open();
            for (i, ticket) in tickets.into_iter().enumerate() {
                let mut buffer = ticket.unwrap().wait().unwrap();
                assert!(buffer.bytes() == &content[i * 2 * BLOCK..][..2 * BLOCK]);
            }
            memory.assert_released();
            let (_, _, arena, sync) = all.unwrap();
            sync.wait().unwrap();
            drop(arena);
        }
        assert_eq!(gate.offences(), Vec::<String>::new());
    });
}

#[test]
fn a_forked_child_may_open_a_handle_of_its_own() {
    each_backend("a handle in a child", |backend, direct| {
        let (aio, gate) = gated(backend, &Arc::new(Plain), small(1, 4, direct));
        let folder = Folder::new();
        let path = folder.file("t", &pattern(1, 4 * BLOCK));
        let file = aio.open(&path).unwrap();
        // Two writes of the parent's are in flight, one of which makes the file longer.
        gate.close();
        let writes = [file.write(vec![1; BLOCK], 0), file.write(vec![2; BLOCK], 4 * BLOCK as u64)];
        gate.wait_for(2);
        let wrong = forked(|| {
            // Without the gate.
            let Ok(aio) = aio::builder().backend(backend).direct(direct).build() else { return Some(1) };
            let Ok(file) = aio.open(&path) else { return Some(2) };
            if file.write(vec![3; BLOCK], BLOCK as u64).wait().is_err() {
                return Some(3);
            }
            // It waits for the child's write, and for none of the parent's.
            if file.sync_data().wait().is_err() {
                return Some(4);
            }
            match file.read(vec![0; BLOCK], BLOCK as u64).wait() {
                Ok(bytes) if bytes == vec![3; BLOCK] => {}
                _ => return Some(5),
            }
            drop(file);
            aio.close().is_err().then_some(6)
        });
        assert_eq!(wrong, 0, "-14: the child hung");
        gate.open();
        for write in writes {
            write.wait().unwrap();
        }
        let data = std::fs::read(&path).unwrap();
        let starts: Vec<u8> = data.chunks(BLOCK).map(|chunk| chunk[7]).collect();
        assert_eq!((data.len(), starts[0], starts[1], starts[4]), (5 * BLOCK, 1, 3, 2));
    });
}

#[test]
fn a_scope_that_forks_returns_in_both() {
    each_backend("a fork in a scope", |backend, direct| {
        let (aio, gate) = gated(backend, &Arc::new(Plain), small(1, 4, direct));
        let folder = Folder::new();
        let content = pattern(1, 2 * BLOCK);
        let file = aio.open(folder.file("t", &content)).unwrap();
        let mut memory = vec![0; 2 * BLOCK];
        gate.close();
        let mut child = None;
        let result = aio.scope(|scope| {
            scope.read(&file, &mut memory[..], 0);
            gate.wait_for(2);
            // SAFETY: the child leaves the scope and ends itself.
            child = Some(unsafe { libc::fork() });
            if child == Some(0) {
                // SAFETY: sets a timer of this process.
                unsafe { libc::alarm(30) };
            } else {
                gate.open();
            }
        });
        if child == Some(0) {
            let told = matches!(result, Err(Error::Forked));
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(!told)) };
        }
        result.unwrap();
        assert!(memory == content);
        let mut status = 0;
        // SAFETY: waits for the child made above.
        assert_eq!(unsafe { libc::waitpid(child.unwrap(), &mut status, 0) }, child.unwrap());
        assert_eq!(status, 0);
    });
}

// ---- nothing is left ----

#[test]
fn nothing_outlives_its_handle() {
    alone("nothing_outlives_its_handle", || finishes("nothing outlives its handle", leave_nothing));
}

fn leave_nothing() {
    let folder = Folder::new();
    let path = written(&folder, 16 * MIB);
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
        // A ticket that nobody read keeps its buffer and its file, and neither threads nor queues.
        let unread = cycle();
        // A thread that was joined may show for a moment longer.
        while entries("/proc/self/task") != threads {
            std::thread::yield_now();
        }
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
        while entries("/proc/self/task") != threads {
            std::thread::yield_now();
        }
    }
}

#[test]
fn raw_memory_is_the_callers_until_the_op_has_ended() {
    each_backend("raw", |backend, direct| {
        let (aio, gate) = gated(backend, &Arc::new(Plain), small(1, 4, direct));
        let folder = Folder::new();
        let content = pattern(1, 4 * BLOCK);
        let file = aio.open(folder.file("t", &content)).unwrap();
        let memory = Watched::new(1, 4 * BLOCK, 0);
        let mut buffer = memory.buffer(0);
        gate.close();
        let raw = aio::op::RawOp {
            direction: Direction::Read,
            target: file.target(),
            extents: vec![Extent {
                offset: 0,
                len: 4 * BLOCK,
                memory: std::ptr::NonNull::new(buffer.as_mut_ptr()).map(|ptr| ExtentMemory { ptr, region: None }),
            }],
            validate: false,
        };
        // SAFETY: the buffer is kept until `wait` says that the op has ended.
        drop(unsafe { aio.submit_raw(raw) });
        gate.wait_for(4);
        assert_in_flight(&aio);
        gate.open();
        assert_eq!(aio.wait().unwrap(), 1);
        assert!(buffer.bytes() == content);
        drop(buffer);
        drop((file, aio));
        memory.assert_released();
    });
}

#[test]
fn each_priority_has_a_limit_that_pushes_back() {
    each_backend("limits", |backend, direct| {
        let mut config = small(1, 2, direct);
        config.max_pending_ops = 3;
        let (aio, gate) = gated(backend, &Arc::new(Plain), config);
        let folder = Folder::new();
        let content = pattern(1, 8 * BLOCK);
        let file = aio.open(folder.file("t", &content)).unwrap();
        gate.close();
        let held: Vec<_> = (0..3).map(|_| file.try_read(vec![0; BLOCK], 0).unwrap()).collect();
        gate.wait_for(2);
        assert_in_flight(&aio);
        let (error, buffer) = file.try_read(vec![7; BLOCK], 0).unwrap_err().into_parts();
        assert!(matches!(error, Error::QueueFull { limit: 3 }), "{error}");
        assert_eq!(buffer.unwrap(), vec![7; BLOCK]);
        // A checkpoint that fills its own limit takes nothing from this one, nor the other way round.
        let behind: Vec<_> = (0..3).map(|_| file.background().try_read(vec![0; BLOCK], 0).unwrap()).collect();
        assert!(file.background().try_read(vec![0; BLOCK], 0).is_err());
        std::thread::scope(|threads| {
            let waits = threads.spawn(|| file.read(vec![0; BLOCK], BLOCK as u64).wait().unwrap());
            gate.open();
            assert_eq!(waits.join().unwrap(), content[BLOCK..2 * BLOCK]);
        });
        for ticket in held.into_iter().chain(behind) {
            assert_eq!(ticket.wait().unwrap(), content[..BLOCK]);
        }
        assert_eq!(aio.wait().unwrap(), 7);
        assert_eq!(gate.offences(), Vec::<String>::new());
    });
}
