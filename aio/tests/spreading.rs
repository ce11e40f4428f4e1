//! Who gets which blocks: one large op reaches every worker, and what takes second place still keeps its part of a
//! queue full.

#[path = "support/scripted.rs"]
mod scripted;
mod support;

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aio::{AioHandle, DirectMode};
use aio_core::{Completion, IoBlock};
use scripted::{Script, Scripted};
use support::gate::{Fate, Rules};
use support::{Folder, backends, finishes, gated, pattern, small};

const BLOCK: usize = 16 << 10;

/// Counts by queue.
#[derive(Debug, Default)]
struct Counts {
    blocks: [AtomicUsize; 4],
    reaps: [AtomicUsize; 4],
}

impl Rules for Counts {
    fn block(&self, queue: usize, _block: &IoBlock) -> Fate {
        self.blocks[queue].fetch_add(1, Ordering::SeqCst);
        Fate::Transfer
    }

    fn reap(&self, queue: usize) -> io::Result<()> {
        self.reaps[queue].fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

#[test]
fn one_large_op_fills_the_queue_of_every_worker() {
    const DEPTH: usize = 16;
    for backend in backends() {
        for direct in [DirectMode::Auto, DirectMode::Off] {
            finishes(&format!("one op of many blocks on {backend}, direct {direct:?}"), move || {
                let rules = Arc::new(Counts::default());
                let mut config = small(4, DEPTH, direct);
                // A worker that finds nothing goes to sleep, and has to be woken for what comes.
                config.spin = Duration::ZERO;
                let (aio, gate) = gated(backend, &rules, config);
                let folder = Folder::new();
                let content = pattern(1, 256 * BLOCK);
                let file = aio.open(folder.file("t", &content)).unwrap();
                // Before it waits for the first time, a worker has said that it sleeps.
                while rules.reaps.iter().any(|reaps| reaps.load(Ordering::SeqCst) == 0) {
                    std::thread::yield_now();
                }
                gate.close();
                let ticket = file.read(vec![0; 256 * BLOCK], 0);
                // As many as all queues hold together, so each of them is full.
                gate.wait_for(4 * DEPTH);
                assert!(!ticket.is_done());
                let blocks: Vec<_> = rules.blocks.iter().map(|blocks| blocks.load(Ordering::SeqCst)).collect();
                assert_eq!(blocks, [DEPTH; 4]);
                gate.open();
                assert!(ticket.wait().unwrap() == content);
                assert_eq!(rules.blocks.iter().map(|blocks| blocks.load(Ordering::SeqCst)).sum::<usize>(), 256);
                assert_eq!(gate.offences(), Vec::<String>::new());
            });
        }
    }
}

/// Transfers the oldest block at each reap, and notes how many were in flight and how many had ended before.
#[derive(Debug, Default)]
struct Depths(Mutex<Vec<usize>>);

impl Script for Depths {
    fn reap(&self, in_flight: &mut VecDeque<IoBlock>) -> io::Result<Completion> {
        self.0.lock().unwrap().push(in_flight.len());
        let block = in_flight.pop_front().expect("asked only with blocks in flight");
        // SAFETY: the queue accepted the block and has not reported it, so its memory is valid.
        Ok(unsafe { scripted::transfer(&block) })
    }
}

#[test]
fn a_queue_stays_filled_with_whatever_waits() {
    const DEPTH: usize = 16;
    const BLOCKS: usize = 128;
    let folder = Folder::new();
    let content = pattern(1, BLOCKS * BLOCK);
    let path = folder.file("t", &content);
    // One op of all the blocks, and many ops of a few.
    for each in [BLOCKS, 4, 1] {
        for background in [false, true] {
            let (path, content) = (path.clone(), content.clone());
            finishes("a queue that is kept full", move || {
                let depths = Arc::new(Depths::default());
                let backend = Arc::new(Scripted(depths.clone()));
                let aio = AioHandle::with_backend(backend, small(1, DEPTH, DirectMode::Off)).unwrap();
                let file = aio.open(&path).unwrap();
                let file = if background { file.background() } else { file };
                // Nothing is reaped before all is submitted, so that work is waiting from the first reap to the last.
                let held = depths.0.lock().unwrap();
                let tickets: Vec<_> =
                    (0..BLOCKS / each).map(|i| file.read(vec![0; each * BLOCK], (i * each * BLOCK) as u64)).collect();
                drop(held);
                for (ticket, expected) in tickets.into_iter().zip(content.chunks(each * BLOCK)) {
                    assert!(ticket.wait().unwrap() == expected);
                }
                let depths = std::mem::take(&mut *depths.0.lock().unwrap());
                assert_eq!(depths.len(), BLOCKS);
                // A quarter of every queue is kept for what somebody waits for.
                let share = if background { DEPTH - DEPTH / 4 } else { DEPTH };
                // The first reap may have come before the last ticket.
                let waiting = |ended: usize, depth: usize| ended + depth < BLOCKS;
                let lowest = (1..).zip(&depths[1..]).filter(|(ended, depth)| waiting(*ended, **depth));
                let lowest = lowest.map(|(_, depth)| *depth).min().expect("more than a queue holds");
                assert!(
                    lowest > share / 2,
                    "{each} blocks each, background {background}: work was waiting, and {lowest} blocks of {share} were \
                     in flight: {depths:?}"
                );
                assert!(depths.iter().all(|depth| *depth <= share), "{depths:?}");
            });
        }
    }
}
