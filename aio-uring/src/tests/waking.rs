//! No wake-up is lost, none is reported, and none is invented.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::*;

#[test]
fn a_wake_ends_a_wait_for_blocks_in_flight() {
    for backend in rungs() {
        let (reader, writer) = io::pipe().unwrap();
        let memory = Memory::new(PAGE);
        let mut queue = open(&backend, &QueueConfig::new(2));
        let stuck = |token| {
            let ptr = memory.ptr.wrapping_add(token as usize);
            IoBlock { token, ..IoBlock::new(Direction::Read, reader.as_raw_fd(), ptr, 1, 0) }
        };
        submit(&mut queue, &[stuck(0), stuck(1)]);
        let waker = queue.waker();
        // With `min` over 1 as well: a wake is only one completion.
        for min in [1, 2] {
            thread::scope(|scope| {
                scope.spawn(|| waker.wake());
                let (start, mut done) = (Instant::now(), Vec::new());
                queue.reap(min, Some(NEVER), &mut done).unwrap();
                assert!(start.elapsed() < NEVER, "lost");
                assert!(done.is_empty() && queue.in_flight() == 2);
            });
        }
        drop(writer);
        assert_eq!(reap_all(&mut queue), [(0, Ok(0)), (1, Ok(0))]);
    }
}

/// Several wakers at full speed, with I/O going through the queue all the while. What they did before waking is seen.
#[test]
fn wakes_in_a_storm_are_never_lost() {
    for backend in rungs() {
        const WAKERS: u64 = 3;
        const EACH: u64 = 3000;
        let file = direct_file(4 * PAGE);
        let memory = Memory::new(4 * PAGE);
        let mut queue = open(&backend, &QueueConfig::new(4));
        let waker = queue.waker();
        let work = AtomicU64::new(0);
        let start_line = Barrier::new(WAKERS as usize + 1);
        thread::scope(|scope| {
            for _ in 0..WAKERS {
                scope.spawn(|| {
                    start_line.wait();
                    for _ in 0..EACH {
                        work.fetch_add(1, Ordering::Relaxed);
                        waker.wake();
                    }
                });
            }
            start_line.wait();
            let mut done = Vec::new();
            let mut reaps = 0_u64;
            while work.load(Ordering::Relaxed) < WAKERS * EACH {
                if reaps.is_multiple_of(4) && queue.in_flight() == 0 {
                    submit(&mut queue, &reads(&file, &memory, 4, PAGE));
                }
                let start = Instant::now();
                queue.reap(1, Some(NEVER), &mut done).unwrap();
                assert!(start.elapsed() < NEVER, "lost after {reaps} reaps");
                reaps += 1;
            }
            queue.drain();
            assert!(done.iter().all(|done| matches!(done.result, Ok(PAGE)) && done.token < 4));
        });
    }
}

#[test]
fn wakes_at_full_depth_take_no_room_from_blocks() {
    for backend in rungs() {
        let file = direct_file(3 * PAGE);
        let memory = Memory::new(3 * PAGE);
        // One less than a power of two: the ring has no place to spare.
        let mut queue = open(&backend, &QueueConfig::new(3));
        assert_eq!(queue.ring.entries(), 4);
        let waker = queue.waker();
        let mut done = Vec::new();
        for _ in 0..1000 {
            submit(&mut queue, &reads(&file, &memory, 3, PAGE));
            waker.wake();
            queue.reap(3, Some(NEVER), &mut done).unwrap();
            while queue.in_flight() > 0 {
                queue.reap(3, Some(NEVER), &mut done).unwrap();
            }
        }
        assert!(done.len() == 3000 && done.iter().all(|done| matches!(done.result, Ok(PAGE))));
    }
}

#[test]
fn a_late_ring_is_not_a_wake() {
    for backend in rungs() {
        let mut queue = open(&backend, &QueueConfig::new(1));
        // As if a waker had been held up between setting the flag, long since seen, and ringing.
        queue.waker.bell().ring();
        let (start, timeout) = (Instant::now(), Duration::from_millis(5));
        queue.reap(0, Some(timeout), &mut Vec::new()).unwrap();
        assert!(start.elapsed() >= timeout);
        let waker = queue.waker();
        thread::scope(|scope| {
            scope.spawn(|| waker.wake());
            let start = Instant::now();
            queue.reap(0, Some(NEVER), &mut Vec::new()).unwrap();
            assert!(start.elapsed() < NEVER, "lost");
        });
    }
}

#[test]
fn a_bell_that_was_heard_is_silent() {
    for backend in rungs() {
        let mut queue = open(&backend, &QueueConfig::new(1));
        queue.waker.bell().ring();
        // One call finds it ringing, one waits, one may find that the time is not quite up. More is a busy loop.
        let calls = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&calls);
        *queue.ring.fault.borrow_mut() = Some(Box::new(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            None
        }));
        queue.reap(0, Some(Duration::from_millis(5)), &mut Vec::new()).unwrap();
        assert!(calls.load(Ordering::Relaxed) <= 4, "{calls:?}");
    }
}
