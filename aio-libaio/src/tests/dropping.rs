//! Whatever ends a queue, the kernel is done with the memory of its blocks afterwards, or the queue says so.

use super::*;

const LEN: usize = 16 << 20;
const BLOCK: usize = 512 << 10;

#[test]
fn drain_of_a_queue_that_cannot_reap_destroys_the_context_and_waits_there() {
    let fixture = Fixture::new(LEN);
    each_way(&QueueConfig::new(LEN / BLOCK), |mut queue| {
        let mut memory = Memory::new(LEN);
        submit(&mut queue, &fixture.blocks(Direction::Read, &mut memory, BLOCK));
        assert_eq!(queue.in_flight(), LEN / BLOCK);
        queue.context.faults.getevents.borrow_mut().push_back(libc::EIO);
        assert_eq!(queue.drain(), 0);
        assert_eq!(queue.in_flight(), 0);
        assert!(!queue.context.has_ring());
        assert!(memory.copy() == pattern(0, LEN));
        // The context is gone; what is asked of it now fails, and touches no ring that is not mapped any more.
        queue.reap(0, Some(Duration::ZERO), &mut Vec::new()).unwrap_err();
    });
}

#[test]
fn drain_of_a_queue_that_cannot_be_destroyed_says_so_each_time() {
    let fixture = Fixture::new(LEN);
    each_way(&QueueConfig::new(LEN / BLOCK), |mut queue| {
        let mut memory = Memory::new(LEN);
        submit(&mut queue, &fixture.blocks(Direction::Read, &mut memory, BLOCK));
        queue.context.faults.getevents.borrow_mut().extend([libc::EIO; 2]);
        queue.context.faults.destroy.borrow_mut().extend([libc::EINVAL; 2]);
        for _ in 0..2 {
            assert_eq!(queue.drain(), LEN / BLOCK, "blocks without a completion");
            assert_eq!(queue.in_flight(), LEN / BLOCK);
        }
        // The kernel is well again.
        assert_eq!(queue.drain(), 0);
        assert!(memory.copy() == pattern(0, LEN));
    });
}
