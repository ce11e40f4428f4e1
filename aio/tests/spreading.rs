//! Who gets which blocks: one large op reaches every worker, and what takes second place still keeps its part of a
//! queue full.

#[path = "support/scripted.rs"]
mod scripted;
mod support;

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use aio::op::{Direction, Extent, IoOpDesc, PathMode, Target};
use aio::{AioHandle, DirectMode};
use aio_core::backend::{Completion, IoBlock};
use aio_testkit::fault::{Fate, Rules};
use scripted::{Script, Scripted};
use support::{Folder, backends, finishes, gated, pattern, small, until};

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
                until(|| rules.reaps.iter().any(|reaps| reaps.load(Ordering::SeqCst) > 0));
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

/// Stops a thread where the test wants it, once, until the test lets it go.
#[derive(Debug)]
struct Stop {
    armed: AtomicBool,
    there: mpsc::Sender<()>,
    go: Mutex<mpsc::Receiver<()>>,
}

impl Stop {
    /// With an end to hear of the thread, and one to let it go.
    fn new() -> (Arc<Self>, mpsc::Receiver<()>, mpsc::Sender<()>) {
        let ((there, is_there), (let_go, go)) = (mpsc::channel(), mpsc::channel());
        (Arc::new(Self { armed: AtomicBool::new(true), there, go: Mutex::new(go) }), is_there, let_go)
    }

    fn here(&self) {
        if self.armed.swap(false, Ordering::SeqCst) {
            // Errors mean that the test has failed and is gone.
            let _ = self.there.send(());
            let _ = self.go.lock().unwrap().recv();
        }
    }
}

/// Stops the first worker that has blocks before it reaps them.
#[derive(Debug)]
struct Busy {
    counts: Counts,
    stop: Arc<Stop>,
}

impl Rules for Busy {
    fn block(&self, queue: usize, block: &IoBlock) -> Fate {
        self.counts.block(queue, block)
    }

    fn reap(&self, queue: usize) -> io::Result<()> {
        if self.counts.blocks[queue].load(Ordering::SeqCst) > 0 {
            self.stop.here();
        }
        self.counts.reap(queue)
    }
}

/// A read of a path that a worker begins, and that takes long before its first block.
struct Slow {
    target: Target,
    memory: Vec<u8>,
    stop: Arc<Stop>,
}

// SAFETY: the extent has no memory of its own, and gets its bytes through `scatter`.
unsafe impl IoOpDesc for Slow {
    fn direction(&self) -> Direction {
        Direction::Read
    }

    fn target(&self) -> &Target {
        if std::thread::current().name().is_some_and(|name| name.starts_with("aio-")) {
            self.stop.here();
        }
        &self.target
    }

    fn extents(&self) -> &[Extent] {
        const { &[Extent { offset: 0, len: BLOCK, memory: None }] }
    }

    fn scatter(&self, _extent: usize, at: usize, from: &[u8]) {
        assert!(self.memory[at..at + from.len()] == *from);
    }
}

#[test]
fn what_waits_behind_an_op_that_is_slow_to_open_goes_to_another_worker() {
    for backend in backends() {
        for direct in [DirectMode::Auto, DirectMode::Off] {
            finishes(&format!("a slow open on {backend}, direct {direct:?}"), move || {
                let (busy, is_busy, reap) = Stop::new();
                let rules = Arc::new(Busy { counts: Counts::default(), stop: busy });
                let mut config = small(2, 2, direct);
                config.spin = Duration::ZERO;
                let (aio, _) = gated(backend, &rules, config);
                let folder = Folder::new();
                let content = pattern(1, 2 * BLOCK);
                let path = folder.file("t", &content);
                let file = aio.open(&path).unwrap();
                until(|| rules.counts.reaps[..2].iter().any(|reaps| reaps.load(Ordering::SeqCst) > 0));
                // One worker is full; the other one sleeps, and two more blocks are not worth waking it.
                let first = file.read(vec![0; 2 * BLOCK], 0);
                is_busy.recv().unwrap();
                let (opening, is_opening, open) = Stop::new();
                let target = Target::Path(path, PathMode::Read);
                let slow = aio.submit(Slow { target, memory: content[..BLOCK].to_vec(), stop: opening });
                let behind = file.read(vec![0; BLOCK], BLOCK as u64);
                assert!(!slow.is_done() && !behind.is_done());
                reap.send(()).unwrap();
                is_opening.recv().unwrap();
                let others_go_on = behind.wait_timeout(Duration::from_secs(20)).unwrap();
                let is_held = !slow.is_done();
                open.send(()).unwrap();
                assert!(is_held);
                assert!(others_go_on, "it waits for a worker that opens something else, and another one sleeps");
                assert!(behind.wait().unwrap() == content[BLOCK..]);
                slow.wait().unwrap();
                assert!(first.wait().unwrap() == content);
            });
        }
    }
}

/// Transfers the oldest block at each reap, and notes how many were in flight.
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
                // A quarter of every queue is kept for ops with a waiting caller.
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
