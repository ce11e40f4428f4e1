//! When threads are started, and what happens where they cannot be.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use aio_core::backend::{Capabilities, Direction, IoBackend, IoBlock, IoQueue, QueueConfig, Unavailable};

use crate::pool::{MAX_THREADS, Pool, STACK_SIZE};
use crate::queue::PthreadQueue;

/// More than an address space has.
const IMPOSSIBLE_STACK: usize = 1 << 60;

const LEN: usize = 512;

/// The backend with pools that are limited in some way.
#[derive(Debug)]
struct Limited {
    limit: usize,
    stack_size: usize,
}

impl IoBackend for Limited {
    fn name(&self) -> &'static str {
        "limited"
    }

    fn probe(&self) -> Result<Capabilities, Unavailable> {
        Ok(Capabilities::default())
    }

    fn open_queue(&self, config: &QueueConfig) -> Result<Box<dyn IoQueue>, Unavailable> {
        let pool = Pool::with_limits(config, self.limit, self.stack_size);
        Ok(Box::new(PthreadQueue::new(config, pool)))
    }
}

#[test]
fn one_thread_does_everything() {
    aio_testkit::conformance::queue(&Limited { limit: 1, stack_size: STACK_SIZE });
}

#[test]
fn without_threads_the_reaper_does_everything() {
    aio_testkit::conformance::queue(&Limited { limit: MAX_THREADS, stack_size: IMPOSSIBLE_STACK });
}

/// A queue with its pool, reading from a file.
struct Reads {
    queue: PthreadQueue,
    pool: Arc<Pool>,
    file: File,
    memory: Vec<u8>,
}

impl Reads {
    fn new(depth: usize) -> Self {
        let config = QueueConfig::new(depth);
        let pool = Pool::new(&config);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![1; depth * LEN]).unwrap();
        Self { queue: PthreadQueue::new(&config, pool.clone()), pool, file, memory: vec![0; depth * LEN] }
    }

    /// Reads `count` blocks that are no neighbours.
    fn run(&mut self, count: usize) {
        let blocks: Vec<_> = (0..count)
            .map(|at| {
                let (ptr, offset) = (self.memory[at * LEN..].as_mut_ptr(), ((count - 1 - at) * LEN) as u64);
                let block = IoBlock::new(Direction::Read, self.file.as_raw_fd(), ptr, LEN, offset);
                IoBlock { token: at as u64, ..block }
            })
            .collect();
        // SAFETY: each block has a part of the memory of its own, which outlives the queue and is not touched.
        assert_eq!(unsafe { self.queue.submit(&blocks) }.unwrap(), count);
        let mut done = Vec::new();
        self.queue.reap(count, None, &mut done).unwrap();
        assert_eq!(done.len(), count);
        assert!(done.iter().all(|completion| matches!(completion.result, Ok(LEN))), "{done:?}");
    }
}

#[test]
fn threads_are_started_when_there_is_work() {
    let mut reads = Reads::new(64);
    assert_eq!(reads.pool.threads(), 0);
    reads.run(1);
    assert_eq!(reads.pool.threads(), 1);
    for _ in 0..200 {
        reads.run(64);
    }
    // The thread that takes the first of many blocks summons another one.
    assert!((2..=MAX_THREADS).contains(&reads.pool.threads()));
}

#[test]
fn a_queue_is_no_wider_than_deep() {
    let mut reads = Reads::new(2);
    for _ in 0..200 {
        reads.run(2);
    }
    assert_eq!(reads.pool.threads(), 2);
}

#[test]
fn a_pool_that_cannot_grow_goes_on_with_what_it_has() {
    let mut reads = Reads::new(64);
    reads.run(1);
    reads.pool.lock().stack_size = IMPOSSIBLE_STACK;
    // Until growing was tried, which takes more than one block pending while the thread is busy.
    while reads.pool.lock().limit > 1 {
        reads.run(64);
    }
    assert_eq!(reads.pool.threads(), 1);
    for count in (1..=64).cycle().take(2000) {
        reads.run(count);
    }
    assert_eq!(reads.pool.threads(), 1);
}

#[test]
fn a_pool_that_had_no_thread_tries_again() {
    let mut reads = Reads::new(8);
    reads.pool.lock().stack_size = IMPOSSIBLE_STACK;
    reads.run(8);
    assert_eq!(reads.pool.threads(), 0);
    reads.pool.lock().stack_size = STACK_SIZE;
    reads.run(8);
    assert_eq!(reads.pool.threads(), 1);
}
