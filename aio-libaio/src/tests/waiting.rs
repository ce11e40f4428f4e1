//! What comes back, and what the kernel says instead.

use super::*;

const BLOCKS: usize = 8;

#[test]
fn blocks_that_failed_at_once_count_for_min() {
    let fixture = Fixture::new(BLOCKS * 4096);
    each_way(&QueueConfig::new(BLOCKS), |mut queue| {
        let mut memory = Memory::new(BLOCKS * 4096);
        let mut blocks = fixture.blocks(Direction::Read, &mut memory, 4096);
        blocks.iter_mut().for_each(|block| block.fd = -1);
        submit(&mut queue, &blocks);
        let mut done = Vec::new();
        queue.reap(BLOCKS, None, &mut done).unwrap();
        assert_eq!((done.len(), queue.in_flight()), (BLOCKS, 0));
    });
}

#[test]
fn a_signal_in_getevents_is_retried() {
    let fixture = Fixture::new(BLOCKS * 4096);
    each_way(&QueueConfig::new(BLOCKS), |mut queue| {
        let mut memory = Memory::new(BLOCKS * 4096);
        submit(&mut queue, &fixture.blocks(Direction::Read, &mut memory, 4096));
        queue.context.faults.getevents.borrow_mut().extend([libc::EINTR; 3]);
        let mut done = Vec::new();
        queue.reap(BLOCKS, PATIENCE, &mut done).unwrap();
        assert_eq!(done.len(), BLOCKS);
        queue.context.faults.getevents.borrow_mut().clear();
    });
}

#[test]
fn an_event_of_no_block_breaks_the_queue_without_a_panic() {
    if !require(&LibaioBackend::default()) {
        return;
    }
    let mut queue = open(&QueueConfig::new(4), WAYS[0]);
    let mut done = Vec::new();
    for data in [0, 3, 4, u64::from(u32::MAX), u64::MAX - 1] {
        queue.events.push(io_event { data, ..io_event::default() });
        queue.sort_fetched(&mut done).unwrap_err();
    }
    assert!(done.is_empty());
    assert_eq!(queue.in_flight(), 0);
}
