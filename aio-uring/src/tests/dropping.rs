//! The end of a queue: nothing that the kernel may still write to has another owner by then.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use aio_core::backend::FileId;

use super::*;

const LEN: usize = 1 << 20;
const COUNT: usize = 32;

/// Fills memory that a queue has just let go of and looks whether a device still writes to it, while the same device
/// reads as much again: what is left of the transfers is before that.
fn assert_untouched(file: &File, memory: &Memory) {
    memory.fill(0xee);
    let again = Memory::new(LEN);
    for piece in 0..COUNT {
        // SAFETY: nothing else uses this memory.
        let buffer = unsafe { slice::from_raw_parts_mut(again.ptr, LEN) };
        file.read_exact_at(buffer, (piece * LEN) as u64).unwrap();
    }
    assert!(memory.bytes().iter().all(|byte| *byte == 0xee), "written to after the queue was gone");
}

#[test]
fn a_drop_waits_for_what_is_in_flight() {
    for backend in rungs() {
        let file = direct_file(COUNT * LEN);
        let memory = Arc::new(Memory::new(COUNT * LEN));
        for fixed in [false, true] {
            let mut queue = open(&backend, &config(COUNT));
            queue.add_region(&region(0, &memory)).unwrap();
            queue.add_file(FileId { slot: 0, generation: 0 }, std::os::fd::AsFd::as_fd(&file)).unwrap();
            let mut blocks = reads(&file, &memory, COUNT, LEN);
            for block in blocks.iter_mut().filter(|_| fixed) {
                (block.region, block.file) = (Some(region_id(0)), Some(FileId { slot: 0, generation: 0 }));
            }
            submit(&mut queue, &blocks);
            queue.reap(0, Some(Duration::ZERO), &mut Vec::new()).unwrap();
            assert!(queue.in_flight() > 0 && queue.ring.queued() == 0);
            drop(queue);
            assert_untouched(&file, &memory);
        }
    }
}

#[test]
fn a_drop_sends_what_was_put_off() {
    for backend in rungs() {
        let file = direct_file(4 * PAGE);
        let memory = Memory::new(4 * PAGE);
        memory.fill(0x42);
        let mut queue = open(&backend, &QueueConfig::new(4));
        let mut blocks = reads(&file, &memory, 4, PAGE);
        blocks.iter_mut().for_each(|block| block.direction = Direction::Write);
        submit(&mut queue, &blocks);
        assert_eq!((queue.in_flight(), queue.ring.queued()), (4, 4));
        drop(queue);
        // SAFETY: the queue is gone.
        let read_back = unsafe { slice::from_raw_parts_mut(memory.ptr, 4 * PAGE) };
        read_back.fill(0);
        file.read_exact_at(read_back, 0).unwrap();
        assert!(memory.bytes().iter().all(|byte| *byte == 0x42));
    }
}

/// A thread has 16 places for registered rings, a process its limit of descriptors.
#[test]
fn a_dropped_queue_leaves_nothing_behind() {
    for backend in rungs() {
        let features = open(&backend, &config(2)).ring.features();
        for _ in 0..100 {
            let mut queue = open(&backend, &config(2));
            assert_eq!(queue.ring.features(), features);
            queue.reap(0, Some(Duration::from_micros(1)), &mut Vec::new()).unwrap();
        }
        // More rings than places work too.
        let file = direct_file(PAGE);
        let memory = Memory::new(PAGE);
        let mut queues: Vec<_> = (0..20).map(|_| open(&backend, &QueueConfig::new(1))).collect();
        for queue in &mut queues {
            submit(queue, &reads(&file, &memory, 1, PAGE));
            assert_eq!(reap_all(queue), [(0, Ok(PAGE))]);
        }
    }
}
