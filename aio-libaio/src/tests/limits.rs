//! The system's limit on requests, and what a queue takes of it.

use super::*;
use crate::refusal::setting;

/// Keeps other processes that run these tests from taking the slots at the same time.
fn alone() -> File {
    let path = std::env::temp_dir().join("aio-libaio-limits.lock");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap();
    // SAFETY: the descriptor is open; the lock goes with it.
    assert_eq!(unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX) }, 0);
    lock
}

#[test]
fn used_up_slots_are_an_error_with_a_remedy_and_come_back() {
    if !require(&LibaioBackend::default()) {
        return;
    }
    let _alone = alone();
    let Some(most) = setting("aio-max-nr").filter(|most| *most <= 1 << 20) else {
        println!("SKIPPED: fs.aio-max-nr is unknown, or too large to be used up by a test");
        return;
    };
    let deepest = QueueConfig::new(QueueConfig::MAX_DEPTH);
    let mut queues = Vec::new();
    // Twice: the second time needs what the first gave back.
    for _ in 0..2 {
        let refused = loop {
            match LibaioQueue::open(&deepest, WAYS[0]) {
                Ok(queue) => queues.push(queue),
                Err(refused) => break refused,
            }
            assert!(queues.len() as u64 * (QueueConfig::MAX_DEPTH as u64 + 1) <= most, "more slots than there are");
        };
        if queues.is_empty() {
            return println!("SKIPPED: other processes have too many slots: {refused}");
        }
        assert_eq!(refused.errno, Some(libc::EAGAIN));
        for part in ["fs.aio-nr", "fs.aio-max-nr", "sysctl -w fs.aio-max-nr=", "32769"] {
            assert!(refused.reason.contains(part), "{refused} lacks {part}");
        }
        queues.clear();
    }
}

#[test]
fn slots_come_back_with_drop() {
    if !require(&LibaioBackend::default()) {
        return;
    }
    let _alone = alone();
    let Some(most) = setting("aio-max-nr") else { return println!("SKIPPED: fs.aio-max-nr is unknown") };
    // Each takes an eighth of all there are: 16 would not fit at once.
    let depth = usize::try_from(most / 8).unwrap().min(QueueConfig::MAX_DEPTH);
    let rounds = 2 * most / depth as u64;
    if rounds > 1000 {
        return println!("SKIPPED: fs.aio-max-nr is too large to be used up by a test");
    }
    for round in 0..rounds {
        match LibaioQueue::open(&QueueConfig::new(depth), WAYS[round as usize % WAYS.len()]) {
            Ok(queue) => assert_eq!(queue.capacity(), depth),
            Err(refused) if round == 0 => return println!("SKIPPED: other processes have too many slots: {refused}"),
            Err(refused) => panic!("queue number {round}: {refused}"),
        }
    }
}

#[test]
fn as_many_blocks_as_the_capacity_fit_besides_the_poll_request() {
    let fixture = Fixture::new(4096);
    for depth in [1, 2, 3, 100, 4096] {
        each_way(&QueueConfig::new(depth), |mut queue| {
            let mut memory = Memory::new(4096);
            let mut block = fixture.block(0, Direction::Write, &mut memory, 0, 512);
            let blocks: Vec<_> = (0..depth as u64)
                .map(|token| {
                    block.token = token;
                    block
                })
                .collect();
            for _ in 0..3 {
                // A completed poll request that is still in the ring.
                queue.waker.bell().ring();
                submit(&mut queue, &blocks);
                assert_eq!(queue.in_flight(), depth);
                assert_eq!(reap_all(&mut queue), vec![Ok(512); depth]);
                queue.reap(0, Some(Duration::from_nanos(1)), &mut Vec::new()).unwrap();
            }
        });
    }
}
