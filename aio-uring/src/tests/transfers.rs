//! Bytes arrive where they belong, and errors belong to their block.

use std::io::{Read, Seek};

use super::*;

#[test]
fn reads_through_a_full_queue_arrive() {
    for backend in rungs() {
        let (count, len) = (100, 4 * PAGE);
        let file = direct_file(count * len);
        let memory = Memory::new(count * len);
        let mut queue = open(&backend, &QueueConfig::new(8));
        let blocks = reads(&file, &memory, count, len);
        let mut rest = &blocks[..];
        let mut done = Vec::new();
        let mut deepest = 0;
        while done.len() < count {
            // SAFETY: memory and file outlive the queue.
            let accepted = unsafe { queue.submit(rest) }.unwrap();
            rest = &rest[accepted..];
            deepest = deepest.max(queue.in_flight());
            assert!(queue.in_flight() > 0 && queue.in_flight() <= queue.capacity());
            queue.reap(1, None, &mut done).unwrap();
        }
        assert_eq!(deepest, 8);
        let mut done: Vec<_> = done.into_iter().map(outcome).collect();
        done.sort_unstable();
        assert_eq!(done, (0..count as u64).map(|token| (token, Ok(len))).collect::<Vec<_>>());
        assert!(memory.bytes() == pattern(0, count * len));
    }
}

#[test]
fn writes_in_flight_together_arrive() {
    for backend in rungs() {
        for single_submit in [false, true] {
            let (count, len) = (16, PAGE);
            let file = direct_file(count * len);
            let memory = Memory::new(count * len);
            memory.fill(0xc3);
            let mut config = QueueConfig::new(count);
            config.single_submit = single_submit;
            let mut queue = open(&backend, &config);
            let mut blocks = reads(&file, &memory, count, len);
            blocks.iter_mut().for_each(|block| block.direction = Direction::Write);
            submit(&mut queue, &blocks);
            assert_eq!(queue.in_flight(), count);
            assert_eq!(queue.ring.queued(), if single_submit { 0 } else { count });
            assert!(reap_all(&mut queue).into_iter().all(|(_, result)| result == Ok(len)));
            // A direct descriptor reads into aligned memory only.
            memory.fill(0);
            submit(&mut queue, &reads(&file, &memory, count, len));
            assert!(reap_all(&mut queue).into_iter().all(|(_, result)| result == Ok(len)));
            assert!(memory.bytes().iter().all(|byte| *byte == 0xc3));
        }
    }
}

#[test]
fn a_queue_takes_no_more_than_its_capacity() {
    for backend in rungs() {
        for depth in [0, 1, 2, 3, 31, 32, 33] {
            let file = direct_file(PAGE);
            let memory = Memory::new(64 * PAGE);
            let mut queue = open(&backend, &QueueConfig::new(depth));
            assert_eq!(queue.capacity(), depth.max(1));
            let blocks: Vec<_> =
                (0..64).map(|i| block(i, Direction::Read, &file, &memory, i as usize * PAGE, PAGE, 0)).collect();
            // SAFETY: memory and file outlive the queue.
            let accepted = unsafe { [queue.submit(&blocks).unwrap(), queue.submit(&blocks).unwrap()] };
            assert_eq!(accepted, [depth.max(1), 0]);
            assert_eq!(reap_all(&mut queue).len(), depth.max(1));
        }
    }
}

#[test]
fn the_deepest_queue_fills_and_empties() {
    for backend in rungs() {
        let file = direct_file(PAGE);
        let memory = Memory::new(PAGE);
        let mut queue = open(&backend, &QueueConfig::new(usize::MAX));
        let capacity = queue.capacity();
        assert!(capacity > 30_000, "{capacity}");
        // Past the end of the file, so that all may share their memory: none is written to.
        let past_end = block(7, Direction::Read, &file, &memory, 0, PAGE, 1 << 30);
        for _ in 0..2 {
            submit(&mut queue, &vec![past_end; capacity]);
            assert_eq!(queue.in_flight(), capacity);
            let done = reap_all(&mut queue);
            assert!(done.len() == capacity && done.iter().all(|done| *done == (7, Ok(0))));
        }
    }
}

#[test]
fn a_block_that_fails_leaves_the_others_alone() {
    for backend in rungs() {
        for single_submit in [false, true] {
            let file = direct_file(8 * PAGE);
            let memory = Memory::new(8 * PAGE);
            let mut config = QueueConfig::new(8);
            config.single_submit = single_submit;
            let mut queue = open(&backend, &config);
            let mut blocks = reads(&file, &memory, 8, PAGE);
            blocks[0].fd = -1;
            blocks[2].offset += 1;
            blocks[4].ptr = std::ptr::without_provenance_mut(PAGE);
            blocks[6].offset = u64::MAX;
            submit(&mut queue, &blocks);
            assert_eq!(queue.in_flight(), 8);
            let expected = [
                Err(libc::EBADF),
                Ok(PAGE),
                Err(libc::EINVAL),
                Ok(PAGE),
                Err(libc::EFAULT),
                Ok(PAGE),
                Err(libc::EINVAL),
                Ok(PAGE),
            ];
            let results: Vec<_> = reap_all(&mut queue).into_iter().map(|(_, result)| result).collect();
            assert_eq!(results, expected);
            for good in [1, 3, 5, 7] {
                assert!(memory.bytes()[good * PAGE..][..PAGE] == pattern(good * PAGE, PAGE));
            }
        }
    }
}

#[test]
fn the_end_of_a_file_is_a_short_read() {
    for backend in rungs() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&pattern(0, 1000)).unwrap();
        file.rewind().unwrap();
        let memory = Memory::new(2 * PAGE);
        let mut queue = open(&backend, &QueueConfig::new(2));
        let blocks = [
            block(1, Direction::Read, &file, &memory, 0, PAGE, 1),
            block(2, Direction::Read, &file, &memory, PAGE, PAGE, 1000),
        ];
        submit(&mut queue, &blocks);
        assert_eq!(reap_all(&mut queue), [(1, Ok(999)), (2, Ok(0))]);
        assert!(memory.bytes()[..999] == pattern(0, 1000)[1..]);
        // An offset beyond all files must not come to mean the file position, which is 0.
        submit(&mut queue, &[block(3, Direction::Write, &file, &memory, 0, 1, u64::MAX)]);
        assert!(matches!(reap_all(&mut queue)[..], [(3, Err(_))]));
        let mut text = Vec::new();
        file.read_to_end(&mut text).unwrap();
        assert!(text == pattern(0, 1000));
    }
}

#[test]
fn one_block_on_the_calling_thread() {
    for backend in rungs() {
        let file = direct_file(PAGE);
        let memory = Memory::new(PAGE);
        // SAFETY: memory and file outlive the call.
        let moved = unsafe { backend.transfer(&block(0, Direction::Read, &file, &memory, 0, PAGE, 0)) };
        assert_eq!(moved.unwrap(), PAGE);
        assert!(memory.bytes() == pattern(0, PAGE));
    }
}
