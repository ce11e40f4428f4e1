//! What a queue leaves behind in the process.

use std::fs;

use crate::conformance::Context;
use crate::conformance::rig::{PAGE, Rig, open};
use aio_core::backend::QueueConfig;
use aio_core::op::Direction;

/// What is counted, and how.
type Table = (&'static str, fn() -> usize);

/// Things of which a leaking queue leaves at least one each.
const TABLES: [Table; 3] = [
    ("file descriptors", || fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)),
    ("threads", || fs::read_dir("/proc/self/task").map_or(0, Iterator::count)),
    ("mappings", || fs::read_to_string("/proc/self/maps").map_or(0, |maps| maps.lines().count())),
];

/// Opens, uses and drops queues. Other tests of the process come and go at the same time, but they only move the
/// counts up and down: the lowest of many counts stays where it is unless something piles up, and a leak of one thing
/// per queue piles up `ROUNDS / 2` of them between the two halves.
pub(super) fn queues_leave_nothing_behind(context: &Context<'_>) {
    const ROUNDS: usize = 160;
    const TOLERATED: usize = ROUNDS / 4;
    let path = context.filled("file", 1, 8 * PAGE);
    let file = open(&path, context.slowest_mode()).expect("open");
    let mut config = QueueConfig::new(8);
    config.files = 2;
    config.regions = 2;
    let mut lowest = [[usize::MAX; TABLES.len()]; 2];
    for round in 0..ROUNDS {
        let mut rig = Rig::with(context.backend, &config, 8 * PAGE);
        let waker = rig.queue.waker();
        let blocks: Vec<_> = (0..8)
            .map(|at| rig.block(Direction::Read, &file, at as u64, at * PAGE, PAGE, (at * PAGE) as u64))
            .collect();
        assert_eq!(rig.submit(&blocks), 8);
        // Every other one goes with its blocks in flight.
        if round % 2 == 0 {
            rig.finish();
        }
        drop(rig);
        waker.wake();
        drop(waker);
        for (lowest, (_, count)) in lowest[round * 2 / ROUNDS].iter_mut().zip(TABLES) {
            *lowest = count().min(*lowest);
        }
    }
    for (index, (what, _)) in TABLES.iter().enumerate() {
        let [before, after] = lowest.map(|lowest| lowest[index]);
        assert!(before > 0, "no {what} to count");
        assert!(after < before + TOLERATED, "{before} {what} became {after} while queues were opened and dropped");
    }
}
