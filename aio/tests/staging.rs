//! While a worker copies between staging and the user's memory, the device has something to do.

mod support;

use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex};

use aio::{DirectMode, Direction, Extent, IoOpDesc, PathMode, Target};
use aio_core::{Completion, IoBlock};
use support::gate::{Fate, Rules};
use support::{Folder, backends, finishes, gated, pattern, small};

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
    memory: Vec<u8>,
    batches: Arc<Batches>,
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
        const { &[Extent { offset: 0, len: BLOCKS * BLOCK, memory: None }] }
    }

    fn gather(&self, _extent: usize, at: usize, into: &mut [MaybeUninit<u8>]) {
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
    for backend in backends() {
        for direct in [DirectMode::Auto, DirectMode::Off] {
            finishes(&format!("{direction:?} on {backend}, direct {direct:?}"), move || {
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
                let op = Foreign { direction, target, memory: memory.clone(), batches: batches.clone() };
                aio.submit(op).wait().unwrap();
                assert!(std::fs::read(path).unwrap() == memory);
                test(&batches.events.lock().unwrap());
            });
        }
    }
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
