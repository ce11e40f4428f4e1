//! Bytes arrive where they belong, many blocks at a time.

use super::*;

const LEN: usize = 4 << 20;
const BLOCK: usize = 64 << 10;

#[test]
fn direct_blocks_at_depth_are_read() {
    let fixture = Fixture::new(LEN);
    for single_submit in [false, true] {
        let mut config = QueueConfig::new(LEN / BLOCK);
        config.single_submit = single_submit;
        each_way(&config, |mut queue| {
            let mut memory = Memory::new(LEN);
            queue.context.faults.submits.set(0);
            submit(&mut queue, &fixture.blocks(Direction::Read, &mut memory, BLOCK));
            assert_eq!(queue.context.faults.submits.get(), if single_submit { LEN / BLOCK } else { 1 });
            assert_eq!(queue.in_flight(), LEN / BLOCK);
            assert_eq!(reap_all(&mut queue), vec![Ok(BLOCK); LEN / BLOCK]);
            assert!(memory.copy() == pattern(0, LEN));
        });
    }
}

#[test]
fn direct_blocks_at_depth_are_written() {
    each_way(&QueueConfig::new(LEN / BLOCK), |mut queue| {
        let fixture = Fixture::new(LEN);
        let bytes = pattern(LEN, LEN);
        let mut memory = Memory::filled(&bytes);
        submit(&mut queue, &fixture.blocks(Direction::Write, &mut memory, BLOCK));
        assert_eq!(queue.in_flight(), LEN / BLOCK);
        assert_eq!(reap_all(&mut queue), vec![Ok(BLOCK); LEN / BLOCK]);
        assert!(fixture.contents() == bytes);
    });
}

#[test]
fn a_queue_kept_full_takes_only_what_it_has_room_for() {
    let fixture = Fixture::new(LEN);
    each_way(&QueueConfig::new(7), |mut queue| {
        let mut memory = Memory::new(LEN);
        let blocks = fixture.blocks(Direction::Read, &mut memory, 4096);
        let (mut sent, mut done) = (0, Vec::new());
        while done.len() < blocks.len() {
            // SAFETY: memory and file outlive the queue.
            sent += unsafe { queue.submit(&blocks[sent..]) }.unwrap();
            assert_eq!(queue.in_flight(), 7.min(blocks.len() - done.len()));
            // SAFETY: as above, and there is no room.
            assert!(sent == blocks.len() || unsafe { queue.submit(&blocks[sent..]) }.unwrap() == 0);
            queue.reap(1, PATIENCE, &mut done).unwrap();
        }
        assert_eq!(results(done), vec![Ok(4096); blocks.len()]);
        assert!(memory.copy() == pattern(0, LEN));
    });
}

#[test]
fn short_transfers_and_the_end_of_the_file_are_counted() {
    let fixture = Fixture::new(8192 + 512);
    each_way(&QueueConfig::new(4), |mut queue| {
        let mut memory = Memory::new(16384);
        let tail = fixture.block(0, Direction::Read, &mut memory, 4096, 8192);
        let past = fixture.block(1, Direction::Read, &mut memory, 12288, 4096);
        submit(&mut queue, &[tail, past]);
        assert_eq!(reap_all(&mut queue), [Ok(4096 + 512), Ok(0)]);
    });
}

#[test]
fn reap_waits_for_min_and_clamps_it() {
    let fixture = Fixture::new(LEN);
    each_way(&QueueConfig::new(64), |mut queue| {
        let mut memory = Memory::new(LEN);
        let blocks = fixture.blocks(Direction::Read, &mut memory, BLOCK);
        let mut done = Vec::new();

        submit(&mut queue, &blocks[..32]);
        queue.reap(20, PATIENCE, &mut done).unwrap();
        assert!((20..=32).contains(&done.len()), "{} of at least 20", done.len());
        assert_eq!(queue.in_flight(), 32 - done.len());

        submit(&mut queue, &blocks[32..40]);
        queue.reap(usize::MAX, PATIENCE, &mut done).unwrap();
        assert_eq!((done.len(), queue.in_flight()), (40, 0));
    });
}

#[test]
fn reap_without_a_reason_to_wait_does_not() {
    let fixture = Fixture::new(LEN);
    each_way(&QueueConfig::new(64), |mut queue| {
        let mut memory = Memory::new(LEN);
        let mut done = Vec::new();
        // Nothing in flight: no time to wait for the waker.
        queue.reap(0, Some(Duration::ZERO), &mut done).unwrap();
        queue.reap(5, Some(Duration::ZERO), &mut done).unwrap();
        assert!(done.is_empty());

        // In flight, and each of these would hang if it waited for all of it.
        submit(&mut queue, &fixture.blocks(Direction::Read, &mut memory, BLOCK));
        assert_eq!(queue.in_flight(), 64);
        while done.len() < 64 {
            queue.reap(0, None, &mut done).unwrap();
            queue.reap(64, Some(Duration::ZERO), &mut done).unwrap();
        }
        assert_eq!(results(done), vec![Ok(BLOCK); 64]);
    });
}

#[test]
fn a_timeout_ends_a_wait_for_nothing() {
    each_way(&QueueConfig::new(1), |mut queue| {
        let mut done = Vec::new();
        let (timeout, start) = (Duration::from_millis(20), Instant::now());
        queue.reap(0, Some(timeout), &mut done).unwrap();
        queue.reap(1, Some(timeout), &mut done).unwrap();
        // A lower bound holds however busy the machine is.
        assert!(start.elapsed() >= 2 * timeout);
        assert!(done.is_empty());
    });
}

#[test]
fn a_timeout_past_the_end_of_time_is_none() {
    let fixture = Fixture::new(LEN);
    each_way(&QueueConfig::new(64), |mut queue| {
        let mut memory = Memory::new(LEN);
        let mut done = Vec::new();
        for timeout in [Duration::MAX, Duration::from_secs(1 << 40)] {
            submit(&mut queue, &fixture.blocks(Direction::Read, &mut memory, BLOCK));
            queue.reap(64, Some(timeout), &mut done).unwrap();
        }
        assert_eq!(done.len(), 128);
    });
}
