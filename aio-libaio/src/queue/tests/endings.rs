//! Whatever ends a queue, the kernel is done with the memory of its blocks afterwards.

use super::*;

const LEN: usize = 16 << 20;
const BLOCK: usize = 512 << 10;

#[test]
fn drain_waits_for_all_of_it() {
    let fixture = Fixture::new(LEN);
    each_way(&QueueConfig::new(LEN / BLOCK), |mut queue| {
        let mut memory = Memory::new(LEN);
        let mut blocks = fixture.blocks(Direction::Read, &mut memory, BLOCK);
        blocks[3].fd = -1;
        submit(&mut queue, &blocks);
        assert_eq!(queue.in_flight(), LEN / BLOCK);
        assert_eq!(queue.drain(), 0);
        assert_eq!(queue.in_flight(), 0);
        let (read, whole) = (memory.copy(), pattern(0, LEN));
        assert!(read[..3 * BLOCK] == whole[..3 * BLOCK] && read[4 * BLOCK..] == whole[4 * BLOCK..]);
    });
}

#[test]
fn drop_waits_and_memory_is_left_alone_afterwards() {
    let fixture = Fixture::new(LEN);
    each_way(&QueueConfig::new(LEN / BLOCK), |mut queue| {
        let mut memory = Memory::new(LEN);
        let blocks = fixture.blocks(Direction::Read, &mut memory, BLOCK);
        submit(&mut queue, &blocks);
        assert_eq!(queue.in_flight(), LEN / BLOCK);
        drop(queue);
        assert!(memory.copy() == pattern(0, LEN), "drop returned before the last block arrived");
        memory.fill(0xee);
        // As much I/O again gives a straggler the time to show.
        let mut other = Memory::new(LEN);
        let mut queue = LibaioQueue::open(&QueueConfig::new(LEN / BLOCK), WAYS[0]).unwrap();
        submit(&mut queue, &fixture.blocks(Direction::Read, &mut other, BLOCK));
        reap_all(&mut queue);
        assert!(memory.copy().iter().all(|byte| *byte == 0xee), "memory was written to after drop");
    });
}

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
fn a_forked_child_leaves_the_blocks_of_its_parent_alone() {
    let fixture = Fixture::new(LEN);
    each_way(&QueueConfig::new(LEN / BLOCK), |mut queue| {
        let mut memory = Memory::new(LEN);
        submit(&mut queue, &fixture.blocks(Direction::Read, &mut memory, BLOCK));
        assert_eq!(queue.in_flight(), LEN / BLOCK);
        // SAFETY: the child only ends the queue, which calls nothing that another thread could have left locked but
        // the allocator, and the C library takes care of that one in `fork`.
        let child = unsafe { libc::fork() };
        assert!(child >= 0);
        if child == 0 {
            let lost = queue.drain();
            drop(queue);
            // SAFETY: ends the child at once, without the handlers of the test's process.
            unsafe { libc::_exit(i32::from(lost > 0)) };
        }
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0);
        assert_eq!(reap_all(&mut queue), vec![Ok(BLOCK); LEN / BLOCK]);
    });
}
