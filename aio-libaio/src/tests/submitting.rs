//! What goes to the kernel, and what it refuses: neither lost nor doubled.

use super::*;
use crate::queue::LONELY_TRIES;

const BLOCKS: usize = 8;

#[test]
fn a_batch_is_one_system_call_unless_each_block_is_to_have_its_own() {
    let fixture = Fixture::new(BLOCKS * 4096);
    for single_submit in [false, true] {
        let mut config = QueueConfig::new(BLOCKS);
        config.single_submit = single_submit;
        each_way(&config, |mut queue| {
            let mut memory = Memory::new(BLOCKS * 4096);
            queue.context.faults.submits.set(0);
            submit(&mut queue, &fixture.blocks(Direction::Read, &mut memory, 4096));
            assert_eq!(queue.context.faults.submits.get(), if single_submit { BLOCKS } else { 1 });
            assert_eq!(reap_all(&mut queue), [Ok(4096); BLOCKS]);
        });
    }
}

#[test]
fn an_offset_past_all_files_is_refused() {
    let fixture = Fixture::new(4096);
    each_way(&QueueConfig::new(1), |mut queue| {
        let mut memory = Memory::new(4096);
        let mut blocks = fixture.blocks(Direction::Read, &mut memory, 4096);
        blocks[0].offset = u64::MAX - 4095;
        submit(&mut queue, &blocks);
        assert_eq!(reap_all(&mut queue), [Err(libc::EINVAL)]);
    });
}

#[test]
fn no_room_in_the_kernel_means_not_now() {
    let fixture = Fixture::new(BLOCKS * 4096);
    each_way(&QueueConfig::new(BLOCKS), |mut queue| {
        let mut memory = Memory::new(BLOCKS * 4096);
        let blocks = fixture.blocks(Direction::Read, &mut memory, 4096);
        submit(&mut queue, &blocks[..1]);
        queue.context.faults.submit.borrow_mut().push_back(libc::EAGAIN);
        // SAFETY: memory and file outlive the queue.
        let refused = unsafe { queue.submit(&blocks[1..]) }.unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EAGAIN));
        assert_eq!(queue.in_flight(), 1);
        submit(&mut queue, &blocks[1..]);
        assert_eq!(reap_all(&mut queue), [Ok(4096); BLOCKS]);

        // Nothing in flight, so nothing to reap first: tried again until it works.
        queue.context.faults.submit.borrow_mut().extend([libc::EAGAIN, libc::EINTR, libc::EAGAIN]);
        submit(&mut queue, &blocks);
        assert_eq!(reap_all(&mut queue), [Ok(4096); BLOCKS]);
    });
}

/// A driver's EBUSY is the block's: only EAGAIN says that the context has no room.
#[test]
fn a_busy_device_fails_its_block_alone() {
    let fixture = Fixture::new(BLOCKS * 4096);
    each_way(&QueueConfig::new(BLOCKS), |mut queue| {
        let mut memory = Memory::new(BLOCKS * 4096);
        let blocks = fixture.blocks(Direction::Read, &mut memory, 4096);
        submit(&mut queue, &blocks[..1]);
        queue.context.faults.submit.borrow_mut().push_back(libc::EBUSY);
        submit(&mut queue, &blocks[1..]);
        let mut expected = [Ok(4096); BLOCKS];
        expected[1] = Err(libc::EBUSY);
        assert_eq!(reap_all(&mut queue), expected);
    });
}

#[test]
fn a_batch_cut_short_by_the_kernel_is_accepted_in_part() {
    let fixture = Fixture::new(BLOCKS * 4096);
    let mut config = QueueConfig::new(BLOCKS);
    config.single_submit = true;
    each_way(&config, |mut queue| {
        let mut memory = Memory::new(BLOCKS * 4096);
        let blocks = fixture.blocks(Direction::Read, &mut memory, 4096);
        // The first block fails by itself, the second finds no room.
        queue.context.faults.submit.borrow_mut().extend([libc::EBADF, libc::EAGAIN]);
        // SAFETY: memory and file outlive the queue.
        assert_eq!(unsafe { queue.submit(&blocks) }.unwrap(), 1);
        assert_eq!(queue.in_flight(), 1);
        submit(&mut queue, &blocks[1..]);
        let mut expected = [Ok(4096); BLOCKS];
        expected[0] = Err(libc::EBADF);
        assert_eq!(reap_all(&mut queue), expected);
    });
}

#[test]
fn no_room_for_long_with_nothing_in_flight_is_an_error() {
    let fixture = Fixture::new(4096);
    if !require(&LibaioBackend::default()) {
        return;
    }
    let mut queue = open(&QueueConfig::new(1), WAYS[0]);
    let mut memory = Memory::new(4096);
    let blocks = fixture.blocks(Direction::Read, &mut memory, 4096);
    queue.context.faults.submit.borrow_mut().extend([libc::EAGAIN; LONELY_TRIES as usize + 1]);
    // SAFETY: memory and file outlive the queue.
    let broken = unsafe { queue.submit(&blocks) }.unwrap_err();
    assert_eq!(broken.raw_os_error(), None, "an EAGAIN would send the engine to wait for a completion");
    assert!(broken.to_string().contains("EAGAIN"));
    assert_eq!(queue.in_flight(), 0);
    submit(&mut queue, &blocks);
    assert_eq!(reap_all(&mut queue), [Ok(4096)]);
}
