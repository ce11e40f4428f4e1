//! What ends a reap.

use std::io::{PipeReader, PipeWriter};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::*;

/// A read that stays in flight until the test writes to the pipe.
fn pipe_read(token: u64, pipe: &PipeReader, memory: &Memory) -> IoBlock {
    let ptr = memory.ptr.wrapping_add(token as usize);
    IoBlock { token, ..IoBlock::new(Direction::Read, pipe.as_raw_fd(), ptr, 1, 0) }
}

fn pipes(count: usize) -> Vec<(PipeReader, PipeWriter)> {
    (0..count).map(|_| io::pipe().unwrap()).collect()
}

#[test]
fn min_is_waited_for_and_more_is_not() {
    for backend in rungs() {
        let mut pipes = pipes(4);
        let memory = Memory::new(PAGE);
        let mut queue = open(&backend, &QueueConfig::new(4));
        let blocks: Vec<_> = (0..4).map(|i| pipe_read(i, &pipes[i as usize].0, &memory)).collect();
        submit(&mut queue, &blocks);
        let mut done = Vec::new();
        queue.reap(0, None, &mut done).unwrap();
        queue.reap(4, Some(Duration::ZERO), &mut done).unwrap();
        assert_eq!((done.len(), queue.in_flight()), (0, 4));
        for ready in [2, 0, 3] {
            pipes[ready].1.write_all(b"x").unwrap();
        }
        queue.reap(3, None, &mut done).unwrap();
        assert_eq!((done.len(), queue.in_flight()), (3, 1));
        // Appends, and clamps `min` to what is in flight.
        pipes[1].1.write_all(b"x").unwrap();
        queue.reap(99, None, &mut done).unwrap();
        assert_eq!((done.len(), queue.in_flight()), (4, 0));
        assert_eq!(memory.bytes()[..4], *b"xxxx");
    }
}

/// Where completions are deferred, the kernel reports them only to who enters it.
#[test]
fn what_went_past_the_ring_does_not_hide_what_is_in_it() {
    for backend in rungs() {
        let (memory, mut pipes) = (Memory::new(PAGE), pipes(1));
        let mut queue = open(&backend, &QueueConfig::new(4));
        submit(&mut queue, &[pipe_read(0, &pipes[0].0, &memory)]);
        let mut done = Vec::new();
        queue.reap(0, None, &mut done).unwrap();
        pipes[0].1.write_all(b"x").unwrap();
        let end = Instant::now() + NEVER;
        while done.iter().all(|completion| completion.token != 0) {
            assert!(Instant::now() < end, "the block in the ring is starved");
            done.clear();
            queue.pretend_over(Completion { token: 1, result: Ok(1) });
            queue.reap(1, None, &mut done).unwrap();
        }
    }
}

#[test]
fn a_timeout_ends_the_wait_and_not_before_its_time() {
    for (ext_arg, backends) in [(true, rungs()), (false, rungs_without_ext_arg().collect())] {
        for backend in backends {
            let mut pipes = pipes(1);
            let memory = Memory::new(PAGE);
            let mut queue = open(&backend, &QueueConfig::new(4));
            queue.ring.ext_arg &= ext_arg;
            let mut done = Vec::new();
            let timeout = Duration::from_millis(5);
            for in_flight in [0, 1] {
                // The first of these waits submits as well, the second only waits.
                for _ in 0..2 {
                    assert_eq!(queue.in_flight(), in_flight);
                    let start = Instant::now();
                    queue.reap(1, Some(timeout), &mut done).unwrap();
                    assert!(start.elapsed() >= timeout && done.is_empty());
                }
                if in_flight == 0 {
                    submit(&mut queue, &[pipe_read(0, &pipes[0].0, &memory)]);
                }
            }
            pipes[0].1.write_all(b"x").unwrap();
            queue.reap(1, Some(NEVER), &mut done).unwrap();
            assert_eq!(done.len(), 1);
        }
    }
}

#[test]
fn a_wait_without_ext_arg_sees_completions_and_wakes() {
    for backend in rungs_without_ext_arg() {
        let file = direct_file(64 * PAGE);
        let memory = Memory::new(64 * PAGE);
        let mut queue = open(&backend, &QueueConfig::new(64));
        queue.ring.ext_arg = false;
        submit(&mut queue, &reads(&file, &memory, 64, PAGE));
        assert!(reap_all(&mut queue).into_iter().all(|(_, result)| result == Ok(PAGE)));
        assert!(memory.bytes() == pattern(0, 64 * PAGE));
        let (waker, noticed) = (queue.waker(), AtomicU32::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..1000 {
                    waker.wake();
                    while noticed.load(Ordering::Acquire) <= round {
                        std::thread::yield_now();
                    }
                }
            });
            for round in 0..1000 {
                let start = Instant::now();
                queue.reap(0, Some(NEVER), &mut Vec::new()).unwrap();
                assert!(start.elapsed() < NEVER, "lost in {round}");
                noticed.store(round + 1, Ordering::Release);
            }
        });
    }
}

#[test]
fn a_timeout_of_zero_never_waits() {
    for backend in rungs() {
        let pipes = pipes(1);
        let memory = Memory::new(PAGE);
        let mut queue = open(&backend, &QueueConfig::new(4));
        let mut done = Vec::new();
        queue.reap(0, Some(Duration::ZERO), &mut done).unwrap();
        queue.reap(1, Some(Duration::ZERO), &mut done).unwrap();
        submit(&mut queue, &[pipe_read(0, &pipes[0].0, &memory)]);
        queue.reap(1, Some(Duration::ZERO), &mut done).unwrap();
        assert!(done.is_empty() && queue.in_flight() == 1);
        assert_eq!(queue.ring.queued(), 0, "what was put off is submitted all the same");
        drop(pipes);
    }
}

#[test]
fn completions_that_are_there_cost_no_system_call() {
    for backend in rungs() {
        let file = direct_file(4 * PAGE);
        let memory = Memory::new(4 * PAGE);
        let mut queue = open(&backend, &QueueConfig::new(4));
        // Buffered reads of cached pages complete while they are submitted.
        let mut cached = tempfile::tempfile().unwrap();
        cached.write_all(&pattern(0, 4 * PAGE)).unwrap();
        submit(&mut queue, &reads(&cached, &memory, 4, PAGE));
        while queue.ring.completions().len() < 4 {
            let queued = queue.ring.queued();
            queue.ring.enter(queued, crate::ring::Enter::Wait { limit: None, idle: false }).unwrap();
        }
        *queue.ring.fault.borrow_mut() = Some(Box::new(|_| panic!("a system call for nothing")));
        let mut done = Vec::new();
        queue.reap(4, None, &mut done).unwrap();
        assert_eq!(done.len(), 4);
        queue.reap(0, Some(Duration::ZERO), &mut done).unwrap();
        drop(file);
    }
}
