//! An error of one block is that block's, and what the kernel refuses is neither lost nor doubled.

use super::*;

const BLOCKS: usize = 8;

#[test]
fn a_bad_descriptor_fails_its_block_alone() {
    let fixture = Fixture::new(BLOCKS * 4096);
    for single_submit in [false, true] {
        let mut config = QueueConfig::new(BLOCKS);
        config.single_submit = single_submit;
        for bad in [vec![0], vec![4], vec![7], vec![0, 1], vec![3, 4, 7], (0..BLOCKS).collect()] {
            each_way(&config, |mut queue| {
                let mut memory = Memory::new(BLOCKS * 4096);
                let mut blocks = fixture.blocks(Direction::Read, &mut memory, 4096);
                for at in &bad {
                    blocks[*at].fd = -1;
                }
                let expected: Vec<_> =
                    (0..BLOCKS).map(|at| if bad.contains(&at) { Err(libc::EBADF) } else { Ok(4096) }).collect();
                // Twice: the slots of the failed ones are free again.
                for _ in 0..2 {
                    memory.fill(0);
                    submit(&mut queue, &blocks);
                    assert_eq!(queue.in_flight(), BLOCKS);
                    // SAFETY: as in `submit`; there is no room.
                    assert_eq!(unsafe { queue.submit(&blocks) }.unwrap(), 0);
                    assert_eq!(reap_all(&mut queue), expected);
                    let (read, whole) = (memory.copy(), pattern(0, BLOCKS * 4096));
                    for at in (0..BLOCKS).filter(|at| !bad.contains(at)) {
                        assert!(read[at * 4096..][..4096] == whole[at * 4096..][..4096]);
                    }
                }
            });
        }
    }
}

#[test]
fn each_kind_of_error_reaches_its_block() {
    let fixture = Fixture::new(BLOCKS * 4096);
    each_way(&QueueConfig::new(BLOCKS), |mut queue| {
        let mut memory = Memory::new(BLOCKS * 4096);
        let mut blocks = fixture.blocks(Direction::Read, &mut memory, 4096);
        blocks[1].ptr = std::ptr::without_provenance_mut(4096);
        blocks[3].offset = u64::MAX - 4095;
        let read_only = File::open(format!("/proc/self/fd/{}", fixture.file.as_raw_fd())).unwrap();
        blocks[5].direction = Direction::Write;
        blocks[5].fd = read_only.as_raw_fd();
        submit(&mut queue, &blocks);
        let mut expected = [Ok(4096); BLOCKS];
        expected[1] = Err(libc::EFAULT);
        expected[3] = Err(libc::EINVAL);
        expected[5] = Err(libc::EBADF);
        assert_eq!(reap_all(&mut queue), expected);
    });
}

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
    let Ok(mut queue) = LibaioQueue::open(&QueueConfig::new(1), WAYS[0]).inspect_err(skip) else { return };
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
    let Ok(mut queue) = LibaioQueue::open(&QueueConfig::new(4), WAYS[0]).inspect_err(skip) else { return };
    let mut done = Vec::new();
    for data in [0, 3, 4, u64::from(u32::MAX), u64::MAX - 1] {
        queue.events.push(io_event { data, ..io_event::default() });
        queue.sort_fetched(&mut done).unwrap_err();
    }
    assert!(done.is_empty());
    assert_eq!(queue.in_flight(), 0);
}
