//! While a worker copies between staging and the user's memory, the device has something to do.

mod support;

use std::mem::MaybeUninit;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};

use aio::op::{Direction, Extent, IoOpDesc, PathMode, Target};
use aio_core::backend::{Completion, IoBlock};
use aio_testkit::fault::{Fate, Rules};
use support::{Folder, each_backend, gated, pattern, small};

/// Long enough that one copy is worth looking for other work after it.
const BLOCK: usize = 256 << 10;
const DEPTH: usize = 4;
const BLOCKS: usize = 2 * DEPTH;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Submitted,
    Copied,
}

/// Completions come `DEPTH` at a time; what happens is written down.
#[derive(Debug, Default)]
struct Batches {
    held: Mutex<Vec<Completion>>,
    events: Mutex<Vec<Event>>,
}

impl Rules for Batches {
    fn block(&self, _queue: usize, _block: &IoBlock) -> Fate {
        self.events.lock().unwrap().push(Event::Submitted);
        Fate::Transfer
    }

    fn reaped(&self, _queue: usize, done: &mut Vec<Completion>) {
        let mut held = self.held.lock().unwrap();
        held.append(done);
        if held.len() == DEPTH {
            done.append(&mut held);
        }
    }
}

/// An op whose bytes the engine never sees the memory of.
struct Foreign {
    direction: Direction,
    target: Target,
    extent: Extent,
    memory: Vec<u8>,
    batches: Arc<Batches>,
    /// What to wait for before it copies.
    wait: Option<Mutex<Receiver<()>>>,
}

// SAFETY: the extent has no memory of its own, and its bytes pass through `gather` and `scatter`.
unsafe impl IoOpDesc for Foreign {
    fn direction(&self) -> Direction {
        self.direction
    }

    fn target(&self) -> &Target {
        &self.target
    }

    fn extents(&self) -> &[Extent] {
        std::slice::from_ref(&self.extent)
    }

    fn gather(&self, _extent: usize, at: usize, into: &mut [MaybeUninit<u8>]) {
        if let Some(wait) = &self.wait {
            wait.lock().unwrap().recv().unwrap();
        }
        self.batches.events.lock().unwrap().push(Event::Copied);
        into.iter_mut().zip(&self.memory[at..]).for_each(|(to, from)| {
            to.write(*from);
        });
    }

    fn scatter(&self, _extent: usize, at: usize, from: &[u8]) {
        self.batches.events.lock().unwrap().push(Event::Copied);
        assert!(self.memory[at..at + from.len()] == *from);
    }
}

/// What a worker with one op does, in order.
fn events_of(direction: Direction, test: impl Fn(&[Event]) + Send + Sync + Copy + 'static) {
    each_backend("what a worker does", move |backend, direct| {
        let batches = Arc::new(Batches::default());
        let mut config = small(1, DEPTH, direct);
        config.block_size = BLOCK;
        let (aio, _gate) = gated(backend, &batches, config);
        let folder = Folder::new();
        let memory = pattern(1, BLOCKS * BLOCK);
        let (path, mode) = match direction {
            Direction::Read => (folder.file("t", &memory), PathMode::Read),
            Direction::Write => (folder.path("t"), PathMode::WriteNew),
        };
        let target = Target::Path(path.clone(), mode);
        let extent = Extent { offset: 0, len: BLOCKS * BLOCK, memory: None };
        let (expected, batches_of_op) = (memory.clone(), batches.clone());
        let op = Foreign { direction, target, extent, memory, batches: batches_of_op, wait: None };
        aio.submit(op).wait().unwrap();
        assert!(std::fs::read(path).unwrap() == expected);
        test(&batches.events.lock().unwrap());
    });
}

#[test]
fn freed_room_is_used_before_the_next_block_is_copied() {
    events_of(Direction::Read, |events| {
        let mut expected = vec![Event::Submitted; DEPTH];
        expected.extend([Event::Copied, Event::Submitted].repeat(DEPTH));
        expected.extend([Event::Copied; DEPTH]);
        assert_eq!(events, expected);
    });
}

#[test]
fn what_was_copied_is_submitted_before_the_next_block_is_copied() {
    events_of(Direction::Write, |events| {
        assert_eq!(events, [Event::Copied, Event::Submitted].repeat(BLOCKS));
    });
}

#[test]
fn that_holds_across_ops() {
    each_backend("ops that wait together", |backend, direct| {
        let batches = Arc::new(Batches::default());
        let mut config = small(1, DEPTH, direct);
        config.block_size = BLOCK;
        let (aio, _gate) = gated(backend, &batches, config);
        let folder = Folder::new();
        let memory = pattern(1, DEPTH * BLOCK);
        let path = folder.file("t", &vec![0; DEPTH * BLOCK]);
        let file = aio.open(&path).unwrap();
        let (go, wait) = mpsc::channel();
        let mut wait = Some(Mutex::new(wait));
        let op = |index: usize| Foreign {
            direction: Direction::Write,
            target: file.target(),
            extent: Extent { offset: (index * BLOCK) as u64, len: BLOCK, memory: None },
            memory: memory[index * BLOCK..][..BLOCK].to_vec(),
            batches: batches.clone(),
            wait: wait.take(),
        };
        // While the worker is in the first one, the others come to wait behind it.
        let tickets: Vec<_> = (0..DEPTH).map(op).map(|op| aio.submit(op)).collect();
        go.send(()).unwrap();
        tickets.into_iter().for_each(|ticket| ticket.wait().unwrap());
        assert_eq!(*batches.events.lock().unwrap(), [Event::Copied, Event::Submitted].repeat(DEPTH));
        assert!(std::fs::read(path).unwrap() == memory);
    });
}
