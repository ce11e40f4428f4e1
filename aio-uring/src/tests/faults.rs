//! What the kernel says only in need: errors of the system call itself.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use aio_core::backend::FileId;

use super::*;

/// From now on the queue's system calls fail as `errno` says, which gets the number of entries to submit.
fn fail(queue: &UringQueue, errno: impl FnMut(usize) -> Option<i32> + 'static) {
    *queue.ring.fault.borrow_mut() = Some(Box::new(errno));
}

/// The first `times` calls that satisfy `which`.
fn first(times: usize, errno: i32, which: fn(usize) -> bool) -> impl FnMut(usize) -> Option<i32> {
    let mut left = times;
    move |submit| {
        let hit = left > 0 && which(submit);
        left -= usize::from(hit);
        hit.then_some(errno)
    }
}

#[test]
fn refusals_that_pass_are_waited_out() {
    for backend in rungs() {
        for errno in [libc::EAGAIN, libc::EBUSY, libc::EINTR] {
            for which in [(|_| true) as fn(usize) -> bool, |submit| submit > 0] {
                let file = direct_file(8 * PAGE);
                let memory = Memory::new(8 * PAGE);
                let mut config = QueueConfig::new(8);
                config.single_submit = errno == libc::EBUSY;
                let mut queue = open(&backend, &config);
                fail(&queue, first(5, errno, which));
                submit(&mut queue, &reads(&file, &memory, 8, PAGE));
                assert_eq!(queue.in_flight(), 8);
                assert!(reap_all(&mut queue).into_iter().all(|(_, result)| result == Ok(PAGE)));
                assert!(memory.bytes() == pattern(0, 8 * PAGE));
            }
        }
    }
}

#[test]
fn a_refusal_does_not_make_a_reap_wait_that_must_not() {
    for backend in rungs() {
        let file = direct_file(2 * PAGE);
        let memory = Memory::new(2 * PAGE);
        let mut queue = open(&backend, &QueueConfig::new(2));
        submit(&mut queue, &reads(&file, &memory, 2, PAGE));
        fail(&queue, |submit| (submit > 0).then_some(libc::EAGAIN));
        let mut done = Vec::new();
        queue.reap(0, None, &mut done).unwrap();
        queue.reap(2, Some(Duration::ZERO), &mut done).unwrap();
        let start = Instant::now();
        queue.reap(2, Some(Duration::from_millis(3)), &mut done).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(3));
        // The bell itself may be among what the kernel does not take.
        queue.waker().wake();
        queue.reap(2, None, &mut done).unwrap();
        assert!(done.is_empty() && queue.in_flight() == 2);
        fail(&queue, |_| None);
        assert_eq!(reap_all(&mut queue), [(0, Ok(PAGE)), (1, Ok(PAGE))]);
    }
}

#[test]
fn a_refusal_waits_for_what_is_in_flight_already() {
    for backend in rungs().into_iter().take(2) {
        let (reader, mut writer) = io::pipe().unwrap();
        let file = direct_file(PAGE);
        let memory = Memory::new(2 * PAGE);
        let mut queue = open(&backend, &QueueConfig::new(2));
        let mut first = block(0, Direction::Read, &file, &memory, 0, 1, 0);
        first.fd = reader.as_raw_fd();
        submit(&mut queue, &[first]);
        queue.reap(0, None, &mut Vec::new()).unwrap();
        assert_eq!(queue.ring.queued(), 0);
        // Refused until the first block is done, which takes longer than a refusal may last with nothing to wait for.
        let (started, mut write) = (Instant::now(), Some(move || writer.write_all(b"x").unwrap()));
        let mut refusals_after = 0;
        fail(&queue, move |submit| {
            if started.elapsed() > Duration::from_millis(1100)
                && let Some(mut write) = write.take()
            {
                write();
            }
            refusals_after += usize::from(write.is_none());
            (submit > 0 && refusals_after < 4).then_some(libc::EBUSY)
        });
        submit(&mut queue, &[block(1, Direction::Read, &file, &memory, PAGE, PAGE, 0)]);
        assert_eq!(reap_all(&mut queue), [(0, Ok(1)), (1, Ok(PAGE))]);
    }
}

#[test]
fn a_refusal_that_lasts_is_an_error() {
    for backend in rungs().into_iter().take(2) {
        for timeout in [None, Some(Duration::ZERO)] {
            let file = direct_file(2 * PAGE);
            let memory = Memory::new(2 * PAGE);
            let mut queue = open(&backend, &config(2));
            let id = FileId { slot: 0, generation: 0 };
            queue.add_file(id, file.as_fd()).unwrap();
            submit(&mut queue, &reads(&file, &memory, 2, PAGE));
            fail(&queue, |submit| (submit > 0).then_some(libc::EAGAIN));
            let error = loop {
                if let Err(error) = queue.reap(1, timeout, &mut Vec::new()) {
                    break error;
                }
            };
            assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
            assert_eq!(queue.in_flight(), 2);
            // They never reached the kernel, and never will.
            assert_eq!(queue.drain(), 0);
            assert_eq!(queue.in_flight(), 0);
            fail(&queue, |_| None);
            memory.fill(0x11);
            assert!(queue.reap(0, Some(Duration::ZERO), &mut Vec::new()).is_err());
            // SAFETY: a closed queue accepts nothing.
            assert!(unsafe { queue.submit(&reads(&file, &memory, 1, PAGE)) }.is_err());
            drop(queue);
            assert!(memory.bytes().iter().all(|byte| *byte == 0x11));
        }
    }
}

#[test]
fn a_broken_queue_says_what_it_can_never_reap() {
    for backend in rungs() {
        let (reader, writer) = io::pipe().unwrap();
        // Forgotten with the queue: the kernel may write to them at any time.
        let memory = std::mem::ManuallyDrop::new(Memory::new(2 * PAGE));
        let file = direct_file(PAGE);
        let mut queue = open(&backend, &config(2));
        let owner = Arc::new(Memory::new(PAGE));
        queue.add_region(&region(0, &owner)).unwrap();
        let mut stuck = block(0, Direction::Read, &file, &memory, 0, 1, 0);
        stuck.fd = reader.as_raw_fd();
        submit(&mut queue, &[stuck]);
        queue.reap(0, None, &mut Vec::new()).unwrap();
        submit(&mut queue, &[block(1, Direction::Read, &file, &memory, PAGE, PAGE, 0)]);
        fail(&queue, |_| Some(libc::ENXIO));
        assert_eq!(queue.reap(1, None, &mut Vec::new()).unwrap_err().raw_os_error(), Some(libc::ENXIO));
        assert_eq!(queue.in_flight(), 2);
        assert_eq!(queue.drain(), 1);
        drop(queue);
        assert!(Arc::strong_count(&owner) > 1, "regions of a broken queue are never released");
        drop(writer);
    }
}

/// Time without a call into the kernel does not count.
#[test]
fn refusals_far_apart_are_not_a_lasting_one() {
    for backend in rungs().into_iter().take(1) {
        let file = direct_file(PAGE);
        let memory = Memory::new(PAGE);
        let mut queue = open(&backend, &QueueConfig::new(1));
        submit(&mut queue, &reads(&file, &memory, 1, PAGE));
        fail(&queue, first(2, libc::EAGAIN, |submit| submit > 0));
        queue.reap(0, Some(Duration::ZERO), &mut Vec::new()).unwrap();
        // The caller does something else for longer than the queue's patience.
        queue.pretend_refused_before(Duration::from_secs(60));
        queue.reap(0, Some(Duration::ZERO), &mut Vec::new()).unwrap();
        assert_eq!(reap_all(&mut queue), [(0, Ok(PAGE))]);
    }
}

#[test]
fn a_refusal_that_passed_is_forgotten() {
    for backend in rungs().into_iter().take(1) {
        let file = direct_file(PAGE);
        let memory = Memory::new(PAGE);
        let mut queue = open(&backend, &QueueConfig::new(1));
        // The bell is refused once, and nothing completes until a new refusal would be too late if this one counted.
        fail(&queue, first(1, libc::EAGAIN, |submit| submit > 0));
        queue.reap(0, Some(Duration::from_millis(1100)), &mut Vec::new()).unwrap();
        fail(&queue, first(1, libc::EAGAIN, |submit| submit > 0));
        submit(&mut queue, &reads(&file, &memory, 1, PAGE));
        assert_eq!(reap_all(&mut queue), [(0, Ok(PAGE))]);
    }
}
