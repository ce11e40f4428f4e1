//! Invariant 1: memory handed to the kernel stays owned until its completion is reaped, whatever is dropped meanwhile.
//!
//! Every test asserts that blocks are in flight.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aio::buf::IoBufMut;
use aio::op::{Direction, Extent, ExtentMemory};
use aio::{Backend, Error};
use aio_testkit::fault::Plain;

use crate::BLOCK;
use crate::support::watched::Watched;
use crate::support::{Folder, backends, each_backend, finishes, gated, pattern, small, until_in_flight};

const MIB: usize = 1 << 20;

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
            until_in_flight(&aio);
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
            until_in_flight(&aio);
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
            until_in_flight(&aio);
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
                memory: std::ptr::NonNull::new(buffer.byte_mut_ptr()).map(|ptr| ExtentMemory { ptr, region: None }),
            }],
            validate: false,
        };
        // SAFETY: the buffer is kept until `wait` says that the op has ended.
        drop(unsafe { aio.submit_raw(raw) });
        gate.wait_for(4);
        until_in_flight(&aio);
        gate.open();
        assert_eq!(aio.wait().unwrap(), 1);
        assert!(buffer.bytes() == content);
        drop(buffer);
        drop((file, aio));
        memory.assert_released();
    });
}

#[test]
fn direct_reads_in_flight_never_land_in_released_memory() {
    let folder = Folder::new();
    let path = folder.file("large", &pattern(1, COUNT * MIB));
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

/// Reads as much again, and so comes after whatever the device may still have to do.
fn read_behind(path: &Path, len: usize) {
    let aio = aio::builder().build().unwrap();
    let file = aio.open(path).unwrap();
    file.read(aio.alloc(len).unwrap(), 0).wait().unwrap();
}
