//! The bell and the requests that watch it. That wake-ups end waits, and that none is lost, the suite checks.

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

/// Has the request that watches the bell complete, so that the next wait needs another one.
fn use_up_the_poll_request(queue: &mut LibaioQueue) {
    queue.waker.bell().ring();
    while matches!(queue.wait, Wait::Poll { armed: true }) {
        queue.collect(&mut Vec::new()).unwrap();
    }
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
fn a_poll_request_that_cannot_be_armed_costs_naps_but_no_wake() {
    each_way(&QueueConfig::new(4), |mut queue| {
        let waker = queue.waker.clone();
        use_up_the_poll_request(&mut queue);
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

#[test]
fn a_poll_request_that_is_refused_for_good_breaks_the_queue() {
    for errno in [libc::EBADF, libc::EINVAL, libc::EPERM, libc::EBUSY] {
        each_way(&QueueConfig::new(4), |mut queue| {
            if matches!(queue.wait, Wait::Resfd(_)) {
                return;
            }
            use_up_the_poll_request(&mut queue);
            queue.context.faults.submit.borrow_mut().push_back(errno);
            let broken = queue.reap(1, None, &mut Vec::new()).unwrap_err();
            assert_eq!(broken.raw_os_error(), Some(errno));
            // The wait is over all the same: wakers need not ring.
            assert!(!queue.waker.is_waiting());
        });
    }
}
