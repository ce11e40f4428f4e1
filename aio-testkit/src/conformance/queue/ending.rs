//! A queue that ends with blocks in flight: once it is gone, only the owner uses their memory.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::conformance::Context;
use crate::conformance::rig::{Mode, PAGE, Rig, expect_pattern, open, pattern};
use aio_core::backend::{IoBlock, IoQueue};
use aio_core::op::Direction;

const BLOCKS: usize = 24;
const LEN: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Drain,
    Drop,
}

/// Ends a queue with a full load in flight, in one of the states a load can be in: put off at most, handed to the
/// kernel, partly reaped. Returns whether anything was in flight, and the queue if it was only drained: that alone must
/// be enough.
fn end(
    rig: &mut Rig,
    context: &Context<'_>,
    blocks: &[IoBlock],
    state: usize,
    how: End,
) -> (bool, Option<Box<dyn IoQueue>>) {
    assert_eq!(rig.submit(blocks), blocks.len());
    match state {
        0 => assert_eq!(rig.queue.in_flight(), blocks.len()),
        1 => drop(rig.reap(0, Some(Duration::ZERO))),
        _ => drop(rig.reap(1, None)),
    }
    let in_flight = rig.queue.in_flight() > 0;
    let mut queue = rig.replace_queue(context.backend);
    match how {
        End::Drop => (in_flight, None),
        End::Drain => {
            assert_eq!(queue.drain(), 0, "blocks that drain gave up on");
            // Nothing forbids to do it twice.
            assert_eq!(queue.drain(), 0, "blocks that drain gave up on");
            (in_flight, Some(queue))
        }
    }
}

fn reads_leave_memory_alone(context: &Context<'_>, how: End) {
    let path = context.filled("file", 1, BLOCKS * LEN);
    let mode = context.slowest_mode();
    let file = open(&path, mode).expect("open");
    let mut rig = Rig::new(context.backend, BLOCKS, BLOCKS * LEN);
    let mut in_flight = 0;
    for round in 0..6 {
        let token = |at: usize| (round * BLOCKS + at) as u64;
        let blocks: Vec<_> = (0..BLOCKS)
            .map(|at| rig.block(Direction::Read, &file, token(at), at * LEN, LEN, (at * LEN) as u64))
            .collect();
        // Made before the end, since the time that it takes would let the device finish.
        let mine = pattern(100 + round as u64, 0, BLOCKS * LEN);
        let (was_in_flight, drained) = end(&mut rig, context, &blocks, round % 3, how);
        in_flight += usize::from(was_in_flight);
        rig.memory.put(0, &mine);
        let_the_device_finish(&path, mode, context);
        let kept = rig.memory.get(0, BLOCKS * LEN);
        expect_pattern(&format!("memory after {how:?}"), &kept, 100 + round as u64, 0);
        drop(drained);
    }
    // One third of the rounds reap nothing, so this much is certain on any file system.
    assert!(in_flight >= 2, "nothing was in flight");
}

/// What was in flight on the device before is done when as much again has been read.
fn let_the_device_finish(path: &Path, mode: Mode, context: &Context<'_>) {
    let file = open(path, mode).expect("open");
    let mut rig = Rig::new(context.backend, BLOCKS, BLOCKS * LEN);
    let blocks: Vec<_> = (0..BLOCKS)
        .map(|at| rig.block(Direction::Read, &file, at as u64, at * LEN, LEN, (at * LEN) as u64))
        .collect();
    rig.run_all(&blocks);
}

pub(super) fn drain_leaves_memory_alone(context: &Context<'_>) {
    reads_leave_memory_alone(context, End::Drain);
}

pub(super) fn drop_leaves_memory_alone(context: &Context<'_>) {
    reads_leave_memory_alone(context, End::Drop);
}

/// What is put into the memory after the end must not reach the file.
pub(super) fn drain_and_drop_of_writes(context: &Context<'_>) {
    let mode = context.slowest_mode();
    for (round, how) in [End::Drain, End::Drop].into_iter().cycle().take(6).enumerate() {
        let path = context.folder.join(format!("{round}"));
        fs::write(&path, vec![0; BLOCKS * LEN]).expect("a file");
        let file = open(&path, mode).expect("open");
        file.sync_all().expect("sync");
        let mut rig = Rig::new(context.backend, BLOCKS, BLOCKS * LEN);
        rig.memory.put(0, &pattern(1, 0, BLOCKS * LEN));
        let blocks: Vec<_> = (0..BLOCKS)
            .map(|at| rig.block(Direction::Write, &file, at as u64, at * LEN, LEN, (at * LEN) as u64))
            .collect();
        let (_, drained) = end(&mut rig, context, &blocks, round % 3, how);
        rig.memory.put(0, &vec![0xEE; BLOCKS * LEN]);
        let_the_device_finish(&path, mode, context);
        let content = fs::read(&path).expect("read");
        assert_eq!(content.len(), BLOCKS * LEN, "size of the file");
        let (zeros, written) = (vec![0; PAGE], pattern(1, 0, BLOCKS * LEN));
        for (page, expected) in content.chunks(PAGE).zip(written.chunks(PAGE)) {
            assert!(page == expected || page == zeros, "a write took what its memory held after {how:?}");
        }
        drop(drained);
        fs::remove_file(&path).expect("remove");
    }
}

pub(super) fn nothing_in_flight(context: &Context<'_>) {
    let path = context.filled("file", 1, PAGE);
    let file = open(&path, Mode::Buffered).expect("open");
    for used in [false, true] {
        let mut rig = Rig::new(context.backend, 4, PAGE);
        if used {
            rig.run_all(&[rig.block(Direction::Read, &file, 1, 0, PAGE, 0)]);
        }
        // A wake-up that no reap will see.
        rig.queue.waker().wake();
        assert_eq!(rig.queue.drain(), 0, "blocks that drain gave up on");
    }
}
