//! The limit of the arena: what is mapped stays below it, and what it leaves can be had.

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use aio::Error;
use aio::buf::AlignedBuf;
use aio_core::backend::IoBlock;
use aio_testkit::fault::{Fate, Plain, Rules};
use support::fini::OnFini;
use support::random::Random;
use support::{Folder, each_backend, finishes, gated, pattern, small};

const MIB: usize = 1 << 20;
const BLOCK: usize = 16 << 10;
/// What workers may have beyond the limit.
const fn beyond(workers: usize) -> u64 {
    (2 * workers * BLOCK) as u64
}

/// Lets a thread end also when the test fails.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn buffers_of_growing_sizes_stay_within_the_limit() {
    each_backend("growing buffers", |backend, direct| {
        let mut config = small(2, 4, direct);
        config.arena_limit = Some(24 << 20);
        let (aio, _) = gated(backend, &Arc::new(Plain), config);
        let folder = Folder::new();
        let content = pattern(1, 24 * MIB);
        let file = aio.open(folder.file("t", &content)).unwrap();
        // Twice as many as queues had room for if none were given back.
        for step in 0..64 {
            let len = 12 * MIB + step * (192 << 10);
            let mut buffer = aio.alloc(len).unwrap();
            assert!(aio.arena().mapped() <= 24 << 20, "{} mapped for {len}", aio.arena().mapped());
            buffer.truncate(4 * BLOCK);
            buffer.fill(0xEE);
            let buffer = file.read(buffer, (step * BLOCK) as u64).wait().unwrap();
            assert!(buffer[..] == content[step * BLOCK..][..4 * BLOCK]);
        }
    });
}

#[test]
fn what_is_free_in_pieces_can_be_had_in_one() {
    each_backend("fragments", |backend, direct| {
        let mut config = small(2, 4, direct);
        config.arena_limit = Some(32 << 20);
        let (aio, gate) = gated(backend, &Arc::new(Plain), config);
        let folder = Folder::new();
        let content = pattern(1, MIB);
        let file = aio.open(folder.file("t", &content)).unwrap();
        let buffers: Vec<_> = (0..32).map(|_| aio.alloc(MIB).unwrap()).collect();
        let tickets: Vec<_> = buffers.into_iter().map(|buffer| file.read(buffer, 0)).collect();
        let buffers: Vec<_> = tickets.into_iter().map(|ticket| ticket.wait().unwrap()).collect();
        let kept: Vec<_> = buffers.into_iter().step_by(10).collect();
        let _large = aio.alloc(28 * MIB).unwrap();
        assert!(aio.arena().mapped() <= (32 << 20) + beyond(2));
        for mut buffer in kept {
            assert!(buffer[..] == content, "a buffer lost its contents");
            buffer.fill(0xEE);
            assert!(file.read(buffer, 0).wait().unwrap()[..] == content);
        }
        assert_eq!(gate.offences(), Vec::<String>::new());
    });
}

/// An op in flight does not wait for buffers: its own caller may hold them.
#[test]
fn staging_needs_no_room_and_makes_room() {
    each_backend("staging", |backend, direct| {
        let mut config = small(2, 8, direct);
        config.arena_limit = Some(4 << 20);
        let (aio, gate) = gated(backend, &Arc::new(Plain), config);
        let folder = Folder::new();
        let content = pattern(1, 64 * BLOCK);
        let file = aio.open(folder.file("t", &content)).unwrap();
        let read = || {
            let mut memory = vec![0xEE; 64 * BLOCK + 1];
            aio.scope(|scope| scope.read(&file, &mut memory[1..], 0)).unwrap();
            assert!(memory[1..] == content);
        };
        // What workers keep of it makes way for a buffer as large as the arena.
        read();
        let all = aio.alloc(4 << 20).unwrap();
        assert!(aio.arena().mapped() <= 4 << 20, "{}", aio.arena().mapped());
        read();
        assert!(aio.arena().mapped() <= (4 << 20) + beyond(2));
        // And while it is in use: staged ops go on beside an allocation that waits.
        thread::scope(|threads| {
            let waiter = threads.spawn(|| aio.alloc(4 << 20).map(drop));
            read();
            drop(all);
            (0..4).for_each(|_| read());
            waiter.join().unwrap().unwrap();
        });
        assert_eq!(gate.offences(), Vec::<String>::new());
    });
}

/// Counts the blocks that name a region.
#[derive(Debug, Default)]
struct Named(AtomicUsize);

impl Rules for Named {
    fn block(&self, _queue: usize, block: &IoBlock) -> Fate {
        self.0.fetch_add(usize::from(block.region.is_some()), Ordering::SeqCst);
        Fate::Transfer
    }
}

/// A region is needed while blocks that name it are on their way: it is removed when they have come back, and the blocks
/// of other buffers in it are served meanwhile.
#[test]
fn regions_are_not_removed_under_blocks_in_flight() {
    each_backend("regions in flight", |backend, direct| {
        let mut config = small(2, 4, direct);
        config.arena_limit = Some(16 << 20);
        let named = Arc::new(Named::default());
        let (aio, gate) = gated(backend, &named, config);
        let folder = Folder::new();
        let content = pattern(1, 4 * BLOCK);
        let file = aio.open(folder.file("t", &content)).unwrap();
        let mut buffers: Vec<_> = (0..16).map(|_| aio.alloc(MIB).unwrap()).collect();
        for buffer in &mut buffers {
            buffer.truncate(4 * BLOCK);
        }
        let tickets: Vec<_> = buffers.into_iter().map(|buffer| file.read(buffer, 0)).collect();
        let mut buffers: Vec<_> = tickets.into_iter().map(|ticket| ticket.wait().unwrap()).collect();
        let mut flying = buffers.swap_remove(7);
        buffers.clear();
        flying.fill(0xEE);
        gate.close();
        let ticket = file.read(flying, 0);
        gate.wait_for(4);
        let is_registered = named.0.load(Ordering::SeqCst) > 0;
        thread::scope(|threads| {
            let waiter = threads.spawn(|| aio.alloc(15 * MIB));
            // Where nothing is registered nothing is waited for. Where it is, `try_alloc` waits for a second.
            if is_registered {
                assert!(matches!(
                    aio.alloc_timeout(15 * MIB, Duration::from_millis(50)),
                    Err(Error::OutOfMemory { .. })
                ));
                assert!(!waiter.is_finished(), "memory was returned that blocks in flight may use");
            }
            gate.open();
            let read = ticket.wait().unwrap();
            assert!(read[..] == content);
            let large = waiter.join().unwrap().unwrap();
            assert!(aio.arena().mapped() <= (16 << 20) + beyond(2));
            drop((large, read));
        });
        assert_eq!(gate.offences(), Vec::<String>::new());
    });
}

/// Threads that hold, drop and transfer buffers of any size, of which the arena has room for a few.
#[test]
fn a_crowd_stays_within_the_limit_and_every_byte_is_right() {
    const WORKERS: usize = 4;
    const LIMIT: u64 = 12 << 20;
    each_backend("a crowd", |backend, direct| {
        let mut config = small(WORKERS, 4, direct);
        config.arena_limit = Some(LIMIT);
        let (aio, gate) = gated(backend, &Arc::new(Plain), config);
        let folder = Folder::new();
        let content = pattern(7, 6 * MIB);
        let path = folder.file("t", &content);
        let (aio, stop) = (&aio, AtomicBool::new(false));
        let file = &aio.open(path).unwrap();
        thread::scope(|threads| {
            let watch = threads.spawn(|| {
                let mut most = 0;
                while !stop.load(Ordering::SeqCst) {
                    most = most.max(aio.arena().mapped());
                    thread::yield_now();
                }
                most
            });
            let stop = StopAtEnd(&stop);
            let members: Vec<_> = (0..6)
                .map(|seed| {
                    let content = &content;
                    threads.spawn(move || {
                        let mut random = Random::new(seed);
                        let mut held: Vec<AlignedBuf> = Vec::new();
                        for step in 0..60 {
                            // A task that holds buffers does not wait for more: six of these would wait for each other.
                            let len = 1 + random.below([6 * MIB, 600_000, 9000][step % 3]);
                            let buffer = if held.is_empty() { aio.alloc(len) } else { aio.try_alloc(len) };
                            let Ok(mut buffer) = buffer else {
                                held.clear();
                                continue;
                            };
                            buffer.fill(0xEE);
                            // Odd places are staged, and even ones are not.
                            let at = random.below(content.len() - len + 1);
                            let at = if random.one_in(2) { at } else { at / 4096 * 4096 };
                            let mut buffer = file.read(buffer, at as u64).wait().unwrap();
                            assert!(buffer[..] == content[at..at + len], "{len} bytes at {at}");
                            buffer.fill(seed as u8);
                            if held.iter().any(|held| held.iter().any(|byte| *byte != seed as u8)) {
                                panic!("a buffer was written to that had no op");
                            }
                            match random.below(3) {
                                0 => held.clear(),
                                1 => held.push(buffer),
                                _ => drop(buffer),
                            }
                        }
                    })
                })
                .collect();
            members.into_iter().for_each(|member| member.join().unwrap());
            drop(stop);
            let most = watch.join().unwrap();
            assert!(most <= LIMIT + beyond(WORKERS), "{most} bytes were mapped");
        });
        assert_eq!(gate.offences(), Vec::<String>::new());
        assert_eq!(aio.arena().in_use(), 0);
        drop(aio.alloc(LIMIT as usize).unwrap());
        // Workers keep what they had beyond the limit for the next time.
        assert!(aio.arena().mapped() <= LIMIT + beyond(WORKERS));
    });
}

/// Breaks a queue once the switch is set.
#[derive(Debug, Default)]
struct Breaks(AtomicBool);

impl Rules for Breaks {
    fn reap(&self, _queue: usize) -> std::io::Result<()> {
        if self.0.load(Ordering::SeqCst) { Err(std::io::Error::other("as the test has it")) } else { Ok(()) }
    }
}

/// The queue registered the memory, and never answers.
#[test]
fn a_queue_that_breaks_gives_its_memory_to_those_that_wait() {
    each_backend("a broken queue", |backend, direct| {
        let mut config = small(1, 4, direct);
        config.arena_limit = Some(16 << 20);
        let breaks = Arc::new(Breaks::default());
        let (aio, gate) = gated(backend, &breaks, config);
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, 8 * MIB))).unwrap();
        let buffer = file.read(aio.alloc(8 * MIB).unwrap(), 0).wait().unwrap();
        let small = aio.alloc(MIB).unwrap();
        // Held in flight until the queue breaks.
        gate.close();
        let ticket = file.read(buffer, 0);
        gate.wait_for(4);
        thread::scope(|threads| {
            let waiter = threads.spawn(|| aio.alloc(15 * MIB).map(drop));
            breaks.0.store(true, Ordering::SeqCst);
            gate.open();
            drop(ticket.wait().unwrap_err());
            waiter.join().unwrap().unwrap();
        });
        drop(small);
        assert!(aio.arena().mapped() <= 16 << 20);
    });
}

#[test]
fn a_worker_never_waits_for_memory() {
    each_backend("on a worker", |backend, direct| {
        let mut config = small(1, 4, direct);
        config.arena_limit = Some(16 << 20);
        let (aio, _) = gated(backend, &Arc::new(Plain), config);
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, 8 * MIB))).unwrap();
        // Registered, and free: its own worker would have to give it back.
        let buffer = file.read(aio.alloc(6 * MIB).unwrap(), 0).wait().unwrap();
        let held = aio.alloc(MIB).unwrap();
        drop(buffer);
        let (send, results) = mpsc::channel();
        let inner = aio.clone();
        let run = move || {
            let mut results = Vec::new();
            for arena in [inner.arena().clone(), aio::buf::Arena::new(1 << 20)] {
                let _all = arena.try_alloc(MIB);
                results.push(arena.alloc(15 * MIB).map(drop));
                results.push(arena.alloc_timeout(15 * MIB, Duration::MAX).map(drop));
                results.push(arena.try_alloc(15 * MIB).map(drop));
            }
            send.send(results).unwrap();
        };
        aio.submit(OnFini::empty(&file, run)).wait().unwrap();
        for result in results.recv().unwrap() {
            assert!(matches!(result, Ok(()) | Err(Error::OutOfMemory { .. })), "{result:?}");
        }
        drop(held);
    });
}

#[test]
fn handles_without_a_limit_have_one_together() {
    finishes("two handles", || {
        let (one, other) = (aio::builder().build().unwrap(), aio::builder().build().unwrap());
        let limited = aio::builder().arena_limit(8 << 20).build().unwrap();
        let before = other.arena().in_use();
        let buffer = one.alloc(MIB).unwrap();
        assert_eq!(other.arena().in_use(), before + MIB as u64);
        assert_eq!((limited.arena().in_use(), limited.arena().limit()), (0, 8 << 20));
        drop(one);
        // It lives on with the other handle, and is registered there.
        let folder = Folder::new();
        let content = pattern(1, MIB);
        let file = other.open(folder.file("t", &content)).unwrap();
        assert!(file.read(buffer, 0).wait().unwrap()[..] == content);
    });
}

/// `wait` in a loop that keeps its tickets would never end; a time-out makes it an error.
#[test]
fn tickets_that_are_not_waited_for_keep_their_buffers() {
    each_backend("kept tickets", |backend, direct| {
        let mut config = small(1, 4, direct);
        config.arena_limit = Some(4 << 20);
        let (aio, _) = gated(backend, &Arc::new(Plain), config);
        let file = aio.create(Folder::new().path("t")).unwrap();
        let mut tickets = Vec::new();
        let refused = loop {
            match aio.alloc_timeout(MIB, Duration::from_millis(1)) {
                Ok(buffer) => tickets.push(file.write(buffer, (tickets.len() * MIB) as u64)),
                Err(refused) => break refused,
            }
        };
        assert_eq!(tickets.len(), 4);
        assert!(matches!(refused, Error::OutOfMemory { in_use: 4_194_304, .. }), "{refused}");
        tickets.remove(0).wait().unwrap();
        drop(aio.alloc_timeout(MIB, Duration::from_secs(60)).unwrap());
        tickets.into_iter().for_each(|ticket| drop(ticket.wait().unwrap()));
    });
}
