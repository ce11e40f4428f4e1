//! The right bytes at the right offsets, each block exactly once, never more of them than fit.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::thread;

use crate::conformance::Context;
use crate::conformance::rig::{Mode, PAGE, Rig, Shuffle, expect_pattern, open, pattern};
use aio_core::backend::{IoBlock, QueueConfig};
use aio_core::op::Direction;

/// Lengths that are neighbours small enough to be worth merging, and some that are not.
const LENGTHS: [usize; 7] = [PAGE, PAGE, PAGE, 2 * PAGE, 16 * PAGE, PAGE, 64 * PAGE];

pub(super) fn move_the_right_bytes(context: &Context<'_>) {
    for mode in context.modes() {
        for (depth, count) in [(1, 5), (4, 50), (64, 7), (64, 150)] {
            round_trips(context, &QueueConfig::new(depth), mode, count);
        }
    }
}

pub(super) fn one_system_call_each(context: &Context<'_>) {
    for mode in context.modes() {
        let mut config = QueueConfig::new(16);
        config.single_submit = true;
        round_trips(context, &config, mode, 40);
    }
}

/// Writes a new file and reads it back, front to back, back to front and in disorder.
fn round_trips(context: &Context<'_>, config: &QueueConfig, mode: Mode, count: usize) {
    let lengths: Vec<_> = LENGTHS.into_iter().cycle().take(count).collect();
    let orders: [fn(&mut [IoBlock]); 3] = [|_| (), |blocks| blocks.reverse(), |blocks| Shuffle(7).shuffle(blocks)];
    let files = [1, 2, 3].map(|seed| {
        let path = context.folder.join(format!("{mode:?}-{}-{count}-{seed}", config.depth));
        (open(&path, mode).expect("open"), path)
    });
    let mut rig = Rig::with(context.backend, config, lengths.iter().sum());
    for (seed, (file, order)) in (1..).zip(files.iter().zip(orders)) {
        round_trip(&mut rig, file, &lengths, seed, order);
        fs::remove_file(&file.1).expect("remove");
    }
}

/// `file` with its path.
fn round_trip(
    rig: &mut Rig,
    (file, path): &(File, PathBuf),
    lengths: &[usize],
    seed: u64,
    order: fn(&mut [IoBlock]),
) {
    let total: usize = lengths.iter().sum();
    // Neighbours in the file are not neighbours in memory: there, blocks lie back to front.
    let blocks = |rig: &Rig, direction| {
        let mut blocks = Vec::new();
        let mut offset = 0;
        for (token, &len) in (0..).zip(lengths) {
            blocks.push(rig.block(direction, file, token, total - offset - len, len, offset as u64));
            offset += len;
        }
        blocks
    };
    let mut writes = blocks(rig, Direction::Write);
    for block in &writes {
        rig.memory.put(total - block.offset as usize - block.len, &pattern(seed, block.offset, block.len));
    }
    order(&mut writes);
    rig.run_all(&writes);
    let written = fs::read(path).expect("read");
    assert_eq!(written.len(), total, "size of the file");
    expect_pattern("written", &written, seed, 0);

    rig.memory.put(0, &vec![0xEE; total]);
    let mut reads = blocks(rig, Direction::Read);
    order(&mut reads);
    rig.run_all(&reads);
    for block in &reads {
        let read = rig.memory.get(total - block.offset as usize - block.len, block.len);
        expect_pattern("read", &read, seed, block.offset);
    }
}

/// Through the page cache there is no alignment.
pub(super) fn of_any_size_when_buffered(context: &Context<'_>) {
    let lengths: Vec<_> = [1, 511, 3, 4097, 8, 40_001, 77].into_iter().cycle().take(40).collect();
    let path = context.folder.join("odd");
    let file = (open(&path, Mode::Buffered).expect("open"), path);
    let mut rig = Rig::new(context.backend, 8, lengths.iter().sum());
    round_trip(&mut rig, &file, &lengths, 1, |_| ());
}

pub(super) fn of_large_blocks(context: &Context<'_>) {
    let mebibyte = 1 << 20;
    let lengths = [mebibyte, mebibyte, 4 * mebibyte, mebibyte, 3 * mebibyte + PAGE];
    for mode in context.modes() {
        let path = context.folder.join(format!("{mode:?}"));
        let file = (open(&path, mode).expect("open"), path);
        let mut rig = Rig::new(context.backend, 4, lengths.iter().sum());
        round_trip(&mut rig, &file, &lengths, 1, |_| ());
    }
}

/// Reads and writes of three files take turns in one batch.
pub(super) fn of_several_files_in_one_batch(context: &Context<'_>) {
    let count = 16;
    let half = count * PAGE;
    for mode in context.modes() {
        let paths = [1, 2, 3].map(|seed| context.filled(&format!("{mode:?}-{seed}"), seed, half));
        let files = [(&paths[0], mode), (&paths[1], Mode::Buffered), (&paths[2], mode)]
            .map(|(path, mode)| open(path, mode).expect("open"));
        let mut rig = Rig::new(context.backend, 64, 6 * half);
        let mut blocks = Vec::new();
        for at in (0..half).step_by(PAGE) {
            for (seed, file) in (0..).zip(&files) {
                let (read, write) = (2 * seed * half + at, (2 * seed + 1) * half + at);
                rig.memory.put(write, &pattern(10 + seed as u64, at as u64, PAGE));
                let token = blocks.len() as u64;
                // Reads of the first half of the file, writes behind its end.
                blocks.push(rig.block(Direction::Read, file, token, read, PAGE, at as u64));
                let behind = (half + at) as u64;
                blocks.push(rig.block(Direction::Write, file, token + 1, write, PAGE, behind));
            }
        }
        rig.run_all(&blocks);
        for (index, path) in paths.iter().enumerate() {
            expect_pattern("read", &rig.memory.get(2 * index * half, half), index as u64 + 1, 0);
            let file = fs::read(path).expect("read");
            assert_eq!(file.len(), 2 * half, "size of the file");
            expect_pattern("kept", &file[..half], index as u64 + 1, 0);
            expect_pattern("written", &file[half..], index as u64 + 10, 0);
        }
    }
}

/// Blocks that follow each other in the file are read and written in turn.
pub(super) fn of_neighbours_in_both_directions(context: &Context<'_>) {
    let pages = 16;
    for mode in context.modes() {
        let path = context.filled(&format!("{mode:?}"), 1, pages * PAGE);
        let file = open(&path, mode).expect("open");
        let mut rig = Rig::new(context.backend, pages, pages * PAGE);
        rig.memory.put(0, &pattern(2, 0, pages * PAGE));
        let blocks: Vec<_> = (0..pages)
            .map(|page| {
                let direction = if page % 2 == 0 { Direction::Read } else { Direction::Write };
                rig.block(direction, &file, page as u64, page * PAGE, PAGE, (page * PAGE) as u64)
            })
            .collect();
        rig.run_all(&blocks);
        let content = fs::read(&path).expect("read");
        let memory = rig.memory.get(0, pages * PAGE);
        for (page, (content, memory)) in content.chunks(PAGE).zip(memory.chunks(PAGE)).enumerate() {
            let seed = 1 + page as u64 % 2;
            expect_pattern("file", content, seed, (page * PAGE) as u64);
            expect_pattern("memory", memory, seed, (page * PAGE) as u64);
        }
    }
}

/// Thousands of blocks through a small queue, refilled in batches of any size.
pub(super) fn keep_the_queue_full(context: &Context<'_>) {
    let (pages, depth, total) = (256, 13, 4000);
    let path = context.filled("file", 5, pages * PAGE);
    for mode in context.modes() {
        let file = open(&path, mode).expect("open");
        let mut rig = Rig::new(context.backend, depth, depth * PAGE);
        let mut shuffle = Shuffle(11);
        // Places of the memory that are not in flight, and what the others are reading.
        let mut free: Vec<_> = (0..depth).collect();
        let mut reading = std::collections::HashMap::new();
        let (mut started, mut ended) = (0, 0);
        while ended < total {
            let batch: Vec<_> = (0..free.len().min(total - started).min(1 + shuffle.below(depth)))
                .map(|index| {
                    let offset = (shuffle.below(pages) * PAGE) as u64;
                    let token = (started + index) as u64;
                    rig.block(Direction::Read, &file, token, free[index] * PAGE, PAGE, offset)
                })
                .collect();
            let accepted = rig.submit(&batch);
            for (block, place) in batch.iter().zip(free.drain(..accepted)) {
                reading.insert(block.token, (place, block.offset));
            }
            started += accepted;
            let in_flight = rig.queue.in_flight();
            if in_flight == 0 {
                continue;
            }
            for completion in rig.reap(1 + shuffle.below(in_flight), None) {
                let (place, offset) = reading.remove(&completion.token).expect("a token in flight");
                assert_eq!(completion.result.expect("read"), PAGE, "bytes read");
                expect_pattern("read", &rig.memory.get(place * PAGE, PAGE), 5, offset);
                free.push(place);
                ended += 1;
            }
        }
        assert_eq!(rig.queue.in_flight(), 0, "in flight at the end");
    }
}

/// `IoBackend::transfer`.
pub(super) fn without_a_queue(context: &Context<'_>) {
    let path = context.filled("file", 1, 3 * PAGE);
    for mode in context.modes() {
        let file = open(&path, mode).expect("open");
        let rig = Rig::new(context.backend, 1, 2 * PAGE);
        // SAFETY: the memory is the rig's and nothing else is in flight.
        let transfer = |block: IoBlock| unsafe { context.backend.transfer(&block) };
        let read = |len, offset| transfer(rig.block(Direction::Read, &file, 0, 0, len, offset));

        assert_eq!(read(PAGE, PAGE as u64).expect("read"), PAGE);
        expect_pattern("read", &rig.memory.get(0, PAGE), 1, PAGE as u64);
        assert_eq!(read(2 * PAGE, 2 * PAGE as u64).expect("short read"), PAGE, "short read");
        assert_eq!(read(PAGE, 3 * PAGE as u64).expect("read at the end"), 0, "read at the end of the file");

        rig.memory.put(0, &pattern(9, 0, PAGE));
        let write = rig.block(Direction::Write, &file, 0, 0, PAGE, 0);
        assert_eq!(transfer(write).expect("write"), PAGE, "written");
        expect_pattern("written", &fs::read(&path).expect("read")[..PAGE], 9, 0);
        fs::write(&path, pattern(1, 0, 3 * PAGE)).expect("write");

        let closed = transfer(IoBlock { fd: -1, ..write });
        assert_eq!(closed.expect_err("a closed file").raw_os_error(), Some(libc::EBADF), "errno of a closed file");
    }
}

pub(super) fn on_two_threads(context: &Context<'_>) {
    thread::scope(|scope| {
        for name in ["left", "right"] {
            let folder = context.folder.join(name);
            fs::create_dir(&folder).expect("a folder");
            scope.spawn(move || {
                let context = Context { folder: &folder, ..*context };
                for mode in context.modes() {
                    round_trips(&context, &QueueConfig::new(8), mode, 60);
                }
            });
        }
    });
}

pub(super) fn respect_the_capacity(context: &Context<'_>) {
    let path = context.filled("file", 3, 64 * PAGE);
    let file = open(&path, context.slowest_mode()).expect("open");
    for depth in [1, 2, 3, 31, 64, 500] {
        let mut rig = Rig::new(context.backend, depth, (depth + 3) * PAGE);
        let capacity = rig.queue.capacity();
        assert_eq!(rig.submit(&[]), 0, "accepted of nothing");
        // Twice, since the second time the queue has wrapped around.
        for round in 0..2 {
            let blocks: Vec<_> = (0..capacity + 3)
                .map(|at| {
                    let token = (round * 10_000 + at) as u64;
                    rig.block(Direction::Read, &file, token, at * PAGE, PAGE, (at % 64 * PAGE) as u64)
                })
                .collect();
            let mut accepted = 0;
            while rig.queue.in_flight() < capacity {
                let more = rig.submit(&blocks[accepted..]);
                assert!(more > 0, "a queue of capacity {capacity} took only {accepted} blocks");
                accepted += more;
            }
            assert_eq!(accepted, capacity);
            assert_eq!(rig.submit(&blocks[accepted..]), 0, "accepted by a full queue");
            // What one completion makes room for is as much as was reaped.
            let freed = rig.reap(1, None).len();
            assert!(freed > 0, "reap returned without a completion");
            let room = rig.submit(&blocks[accepted..]);
            assert!(room <= freed, "accepted {room} blocks into the room of {freed}");
            assert_eq!(rig.finish().len(), capacity - freed + room);
        }
    }
}

/// A queue of no depth is one of depth 1.
pub(super) fn fit_the_smallest_queue(context: &Context<'_>) {
    let path = context.filled("file", 3, PAGE);
    let file = open(&path, context.slowest_mode()).expect("open");
    let mut rig = Rig::new(context.backend, 0, PAGE);
    assert_eq!(rig.queue.capacity(), 1, "capacity");
    rig.run_all(&[rig.block(Direction::Read, &file, 1, 0, PAGE, 0)]);
    expect_pattern("read", &rig.memory.get(0, PAGE), 3, 0);
}

pub(super) fn give_every_token_back(context: &Context<'_>) {
    let path = context.filled("file", 3, 8 * PAGE);
    let file = open(&path, Mode::Buffered).expect("open");
    let mut rig = Rig::new(context.backend, 8, 8 * PAGE);
    let tokens = [0, 1, u64::MAX - 1, 1 << 63, 1 << 32, u64::from(u32::MAX), file.as_raw_fd() as u64, (1 << 63) - 1];
    let blocks: Vec<_> = tokens
        .into_iter()
        .enumerate()
        .map(|(at, token)| rig.block(Direction::Read, &file, token, at * PAGE, PAGE, (at * PAGE) as u64))
        .collect();
    // A token is free again once its completion was reaped.
    for _ in 0..3 {
        rig.run_all(&blocks);
    }
}
