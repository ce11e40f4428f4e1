//! What of a transfer is not the same for every backend: when blocks are sent, how many fit, and how far offsets go.

use std::io::Read;

use super::*;

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
fn an_offset_past_all_files_is_not_the_file_position() {
    for backend in rungs() {
        let mut file = tempfile::tempfile().unwrap();
        let memory = Memory::new(PAGE);
        let mut queue = open(&backend, &QueueConfig::new(1));
        submit(&mut queue, &[block(3, Direction::Write, &file, &memory, 0, 1, u64::MAX)]);
        assert_eq!(reap_all(&mut queue), [(3, Err(libc::EINVAL))]);
        let mut text = Vec::new();
        file.read_to_end(&mut text).unwrap();
        assert!(text.is_empty(), "written to where the file position was");
    }
}
