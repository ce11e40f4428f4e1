//! Wake-ups end a wait, and none is lost.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;

/// Spins, on another thread than the queue's, until `condition` holds.
fn until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(Some(start.elapsed()) < PATIENCE, "the queue's thread made no progress for a minute");
        thread::yield_now();
    }
}

/// Spins until the queue is about to sleep or sleeps.
fn until_waiting(waker: &EventWaker) {
    until(|| waker.is_waiting());
}

#[test]
fn a_wake_before_reap_ends_one_reap() {
    each_way(&QueueConfig::new(4), |mut queue| {
        let mut done = Vec::new();
        for round in 0..100 {
            queue.waker().wake();
            queue.waker().wake();
            queue.reap(round % 2, None, &mut done).unwrap();
            // Taken by that: the next one has nothing to return for but its timeout.
            let (timeout, start) = (Duration::from_micros(200), Instant::now());
            queue.reap(round % 2, Some(timeout), &mut done).unwrap();
            assert!(start.elapsed() >= timeout);
        }
        assert!(done.is_empty());
        assert_eq!(queue.in_flight(), 0);
    });
}

#[test]
fn a_wake_during_reap_ends_it() {
    each_way(&QueueConfig::new(4), |mut queue| {
        let waker = queue.waker.clone();
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..200 {
                    until_waiting(&waker);
                    waker.wake();
                }
            });
            let mut done = Vec::new();
            for _ in 0..200 {
                // Without a limit: a lost wake-up hangs here.
                queue.reap(1, None, &mut done).unwrap();
            }
            assert!(done.is_empty());
        });
    });
}

#[test]
fn a_wake_reports_completions_that_are_there() {
    let fixture = Fixture::new(1 << 20);
    each_way(&QueueConfig::new(256), |mut queue| {
        let mut memory = Memory::new(1 << 20);
        submit(&mut queue, &fixture.blocks(Direction::Read, &mut memory, 4096));
        assert_eq!(queue.in_flight(), 256);
        let mut done = Vec::new();
        let mut reaps = 0;
        while queue.in_flight() > 0 {
            queue.waker().wake();
            queue.reap(usize::MAX, None, &mut done).unwrap();
            reaps += 1;
        }
        assert_eq!(results(done), vec![Ok(4096); 256], "after {reaps} reaps");
    });
}

#[test]
fn no_wake_is_lost_in_thousands_of_round_trips() {
    const ROUNDS: u64 = 3000;
    each_way(&QueueConfig::new(4), |mut queue| {
        let (asked, answered) = (AtomicU64::new(0), AtomicU64::new(0));
        let waker = queue.waker();
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    asked.store(round, Ordering::Relaxed);
                    waker.wake();
                    until(|| answered.load(Ordering::Acquire) >= round);
                }
            });
            let mut done = Vec::new();
            while answered.load(Ordering::Relaxed) < ROUNDS {
                let before = asked.load(Ordering::Relaxed);
                queue.reap(1, PATIENCE, &mut done).unwrap();
                // Relaxed on purpose: the wake-up itself has to publish what came before it.
                let now = asked.load(Ordering::Relaxed);
                assert!(
                    now > before || now > answered.load(Ordering::Relaxed),
                    "woken by nothing, or a wake was lost"
                );
                answered.store(now, Ordering::Release);
            }
        });
    });
}

#[test]
fn no_wake_is_lost_between_completions() {
    const BURSTS: u64 = 3000;
    let fixture = Fixture::new(1 << 20);
    each_way(&QueueConfig::new(16), |mut queue| {
        let mut memory = Memory::new(1 << 20);
        let blocks = fixture.blocks(Direction::Read, &mut memory, 4096);
        let (posted, seen) = (AtomicU64::new(0), AtomicU64::new(0));
        let waker = queue.waker();
        thread::scope(|scope| {
            scope.spawn(|| {
                for burst in 1..=BURSTS {
                    posted.store(burst, Ordering::Relaxed);
                    (0..=burst % 3).for_each(|_| waker.wake());
                    until(|| seen.load(Ordering::Acquire) >= burst);
                }
            });
            let (mut round, mut slept, mut done) = (0, 0, Vec::new());
            while seen.load(Ordering::Relaxed) < BURSTS {
                // 0 to 4 blocks, so that all of it happens: nothing in flight, fewer than `min`, more.
                let at = round % (blocks.len() - 4);
                let mut batch = blocks[at..at + round % 5].to_vec();
                batch.iter_mut().for_each(|block| block.token += (round * blocks.len()) as u64);
                // SAFETY: memory and file outlive the queue.
                unsafe { queue.submit(&batch) }.unwrap();
                let (in_flight, start) = (queue.in_flight(), Instant::now());
                queue.reap(2, PATIENCE, &mut done).unwrap();
                assert!(Some(start.elapsed()) < PATIENCE, "a wake was lost with {in_flight} blocks in flight");
                slept += usize::from(in_flight > 0);
                seen.store(posted.load(Ordering::Relaxed), Ordering::Release);
                round += 1;
                done.clear();
            }
            assert!(slept > 0, "no wake met a block in flight");
            reap_all(&mut queue);
        });
    });
}

/// Whether the next sleep would be one, rather than a loop through the kernel that only burns time.
fn sleeps_soundly(queue: &mut LibaioQueue) -> bool {
    queue.collect(&mut Vec::new()).unwrap();
    let completions = match &queue.wait {
        Wait::Poll { armed } => *armed,
        Wait::Resfd(completed) => !completed.is_ringing(),
    };
    completions && !queue.waker.bell().is_ringing()
}

#[test]
fn a_late_ring_without_a_wake_up_behind_it_changes_nothing() {
    let fixture = Fixture::new(1 << 20);
    each_way(&QueueConfig::new(16), |mut queue| {
        let mut memory = Memory::new(1 << 20);
        let blocks = fixture.blocks(Direction::Read, &mut memory, 64 << 10);
        let mut done = Vec::new();
        for _ in 0..50 {
            // As a waker that was suspended between its swap and its ring.
            queue.waker.bell().ring();
            let (timeout, start) = (Duration::from_micros(500), Instant::now());
            queue.reap(1, Some(timeout), &mut done).unwrap();
            assert!(start.elapsed() >= timeout, "the queue took a ring for a wake-up");
            assert!(done.is_empty());
            assert!(sleeps_soundly(&mut queue), "the ring would end every sleep from now on");

            submit(&mut queue, &blocks);
            queue.waker.bell().ring();
            queue.reap(16, PATIENCE, &mut done).unwrap();
            assert_eq!((done.len(), queue.in_flight()), (16, 0));
            done.clear();
        }
    });
}

#[test]
fn signals_neither_end_a_wait_nor_wake() {
    extern "C" fn ignore(_: libc::c_int) {}
    let handler: extern "C" fn(libc::c_int) = ignore;
    // SAFETY: a zeroed sigaction is a valid one, the handler does nothing, and no other test uses this signal.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as usize;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()), 0);
    }
    each_way(&QueueConfig::new(4), |mut queue| {
        let (over, waker) = (AtomicBool::new(false), queue.waker.clone());
        // SAFETY: takes nothing.
        let owner = unsafe { libc::pthread_self() };
        thread::scope(|scope| {
            scope.spawn(|| {
                until_waiting(&waker);
                for _ in 0..2000 {
                    // SAFETY: the scope keeps the owner's thread alive.
                    unsafe { libc::pthread_kill(owner, libc::SIGUSR1) };
                    assert!(waker.is_waiting(), "a signal ended the wait");
                }
                over.store(true, Ordering::Relaxed);
                waker.wake();
            });
            let mut done = Vec::new();
            queue.reap(1, PATIENCE, &mut done).unwrap();
            assert!(over.load(Ordering::Relaxed));
        });
    });
}

#[test]
fn a_waker_outlives_its_queue() {
    each_way(&QueueConfig::new(4), |mut queue| {
        let waker = queue.waker();
        queue.reap(0, Some(Duration::from_micros(1)), &mut Vec::new()).unwrap();
        drop(queue);
        waker.wake();
        thread::spawn(move || waker.wake()).join().unwrap();
    });
}

#[test]
fn a_poll_request_that_cannot_be_armed_costs_naps_but_no_wake() {
    each_way(&QueueConfig::new(4), |mut queue| {
        let waker = queue.waker.clone();
        // Uses up the request that was armed at the start.
        queue.waker.bell().ring();
        queue.reap(0, Some(Duration::from_micros(1)), &mut Vec::new()).unwrap();
        queue.context.faults.submit.borrow_mut().extend([libc::EAGAIN; 20]);
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..10 {
                    until_waiting(&waker);
                    waker.wake();
                }
            });
            for _ in 0..10 {
                queue.reap(1, None, &mut Vec::new()).unwrap();
            }
        });
        queue.context.faults.submit.borrow_mut().clear();
    });
}
