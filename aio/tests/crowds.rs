//! Crowds: many threads on one handle, each with every kind of call there is, none of which may be able to tell that it
//! is not alone.
//!
//! Threads share files and pages, but no byte: each knows what its own bytes are and compares what it reads with that.
//! What a thread does comes from its seed; how it meets the others is up to the machine.

mod support;

use std::sync::Arc;
use std::time::Duration;

use aio::{AioFile, AioHandle, Backend, DirectMode, Error};
use aio_testkit::fault::Plain;
use support::random::Random;
use support::{Folder, Kind, Memory, each_backend, gated, pattern, small, until};

const THREADS: usize = 8;
/// What belongs to one thread in one piece: more than two blocks, and no whole number of pages, so that neighbours of
/// different threads share one.
const CELL: usize = 36_001;
const CELLS_EACH: usize = 6;
const CELLS: usize = THREADS * CELLS_EACH;
const STEPS: usize = 120;

/// What a thread may do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Write,
    Read,
    Blocking,
    Scope,
    Vectored,
    Cancelled,
    TimedOut,
    Dropped,
    CancelledAndDropped,
    Tried,
    Synced,
    Paths,
}

const STEP_KINDS: [Step; 12] = [
    Step::Write,
    Step::Read,
    Step::Blocking,
    Step::Scope,
    Step::Vectored,
    Step::Cancelled,
    Step::TimedOut,
    Step::Dropped,
    Step::CancelledAndDropped,
    Step::Tried,
    Step::Synced,
    Step::Paths,
];

/// One thread: where its bytes are, and what they are.
struct Member<'a> {
    aio: &'a AioHandle,
    file: AioFile,
    folder: &'a Folder,
    number: usize,
    random: Random,
    cells: Vec<Vec<u8>>,
    seed: u64,
}

fn place(thread: usize, cell: usize) -> usize {
    (cell * THREADS + thread) * CELL
}

impl Member<'_> {
    /// A piece of one of its cells: which, from where in it, and how long.
    fn piece(&mut self) -> (usize, usize, usize) {
        let (cell, from) = (self.random.below(CELLS_EACH), self.random.below(CELL));
        let len = match self.random.below(3) {
            0 => CELL - from,
            1 => 1 + self.random.below((CELL - from).min(600)),
            _ => 1 + self.random.below(CELL - from),
        };
        (cell, from, len)
    }

    fn offset(&self, cell: usize, from: usize) -> u64 {
        (place(self.number, cell) + from) as u64
    }

    /// New bytes for a piece, which count from now on.
    fn change(&mut self, cell: usize, from: usize, len: usize) -> Vec<u8> {
        self.seed += 1;
        let bytes = pattern(self.seed, len);
        self.cells[cell][from..from + len].copy_from_slice(&bytes);
        bytes
    }

    fn buffer(&mut self, len: usize) -> Memory {
        self.random.of(&Kind::ALL).memory(self.aio, len)
    }

    fn filled(&mut self, bytes: &[u8]) -> Memory {
        let mut buffer = self.buffer(bytes.len());
        buffer.bytes_mut().copy_from_slice(bytes);
        buffer
    }

    fn compare(&self, (cell, from, len): (usize, usize, usize), found: &[u8], step: Step) {
        let expected = &self.cells[cell][from..from + len];
        let wrong = (0..len).find(|at| found.get(*at) != expected.get(*at));
        assert_eq!(wrong, None, "thread {}, {step:?}: cell {cell}, {len} bytes from {from}", self.number);
    }

    fn take(&mut self, step: Step) {
        let piece @ (cell, from, len) = self.piece();
        let offset = self.offset(cell, from);
        match step {
            Step::Write | Step::TimedOut => {
                let bytes = self.change(cell, from, len);
                let buffer = self.filled(&bytes);
                let ticket = self.file.write(buffer, offset);
                if step == Step::TimedOut {
                    let micros = self.random.below(200) as u64;
                    // Whether it is over by then is up to the device; what it says must be so.
                    let over = ticket.wait_timeout(Duration::from_micros(micros)).unwrap();
                    assert!(!over || ticket.is_done());
                }
                assert!(ticket.wait().unwrap().bytes() == bytes);
            }
            Step::Read => {
                let buffer = self.buffer(len);
                let file = if self.random.below(3) == 0 { self.file.background() } else { self.file.clone() };
                let buffer = file.read(buffer, offset).wait().unwrap();
                self.compare(piece, buffer.bytes(), step);
            }
            Step::Blocking => {
                let bytes = self.change(cell, from, len);
                self.file.write_at(&bytes, offset).unwrap();
                let mut found = vec![0; len];
                self.file.read_at(&mut found, offset).unwrap();
                self.compare(piece, &found, step);
            }
            Step::Scope => {
                let other = (cell + 1) % CELLS_EACH;
                let bytes = self.change(cell, from, len);
                let mut found = vec![0; CELL];
                self.aio
                    .scope(|scope| {
                        scope.write(&self.file, &bytes[..], offset);
                        scope.read(&self.file, &mut found[..], self.offset(other, 0));
                    })
                    .unwrap();
                self.compare((other, 0, CELL), &found, step);
            }
            Step::Vectored => {
                let changes: Vec<_> = (0..CELLS_EACH)
                    .map(|cell| (self.offset(cell, from), self.change(cell, from, len.min(5000))))
                    .collect();
                self.file.write_vectored(changes).wait().unwrap();
                let empty = (0..CELLS_EACH).map(|cell| (self.offset(cell, 0), vec![0; CELL])).collect();
                let found = self.file.read_vectored(empty).wait().unwrap();
                for (cell, (_, found)) in found.iter().enumerate() {
                    self.compare((cell, 0, CELL), found, step);
                }
            }
            Step::Cancelled => {
                let bytes = self.change(cell, from, len);
                let ticket = self.file.write(bytes, offset);
                ticket.cancel();
                match ticket.wait() {
                    Ok(_) => {}
                    Err(failed) => {
                        assert!(matches!(failed.error(), Error::Cancelled { .. }), "{failed}");
                        // Its range holds anything by now, and only its range does.
                        let bytes = failed.into_buffer().expect("its buffer comes back");
                        self.file.write(bytes, offset).wait().unwrap();
                    }
                }
            }
            Step::Dropped => {
                let bytes = self.change(cell, from, len);
                drop(self.file.write(bytes, offset));
                // Covers every write that was accepted before, whichever task still has its ticket.
                self.file.sync_data().wait().unwrap();
                let found = self.file.read(vec![0; len], offset).wait().unwrap();
                self.compare(piece, &found, step);
            }
            Step::CancelledAndDropped => {
                let ticket = self.file.read(vec![0; len], offset);
                ticket.cancel();
                drop(ticket);
            }
            Step::Tried => {
                let bytes = self.change(cell, from, len);
                match self.file.try_write(bytes, offset) {
                    Ok(ticket) => drop(ticket.wait().unwrap()),
                    Err(refused) => {
                        assert!(matches!(refused.error(), Error::QueueFull { .. }), "{refused}");
                        let bytes = refused.into_buffer().expect("its buffer comes back");
                        self.file.write(bytes, offset).wait().unwrap();
                    }
                }
            }
            Step::Synced => self.file.sync_all().wait().unwrap(),
            Step::Paths => {
                let path = self.folder.path(&format!("{}-{}", self.number, self.seed));
                let bytes = pattern(self.seed, len);
                let bytes = self.aio.write_new(&path, bytes).wait().unwrap();
                let found = self.aio.read_path(&path, vec![0; len]).wait().unwrap();
                assert!(found == bytes, "thread {}: a file of its own", self.number);
                std::fs::remove_file(path).unwrap();
            }
        }
    }

    /// All kinds of steps in an order of its own, several times over.
    fn run(&mut self) {
        for round in 0..STEPS / STEP_KINDS.len() {
            let first = self.random.below(STEP_KINDS.len());
            for kind in 0..STEP_KINDS.len() {
                self.take(STEP_KINDS[(first + kind * 5 + round) % STEP_KINDS.len()]);
            }
        }
    }
}

fn crowd(backend: Backend, direct: DirectMode) {
    let mut config = small(2, 8, direct);
    // Fewer than there are threads, so that submitting waits for room now and then.
    config.max_pending_ops = THREADS / 2;
    let (aio, gate) = gated(backend, &Arc::new(Plain), config);
    let folder = Folder::new();
    let content = pattern(1, CELLS * CELL);
    let path = folder.file("shared", &content);
    let file = aio.open(&path).unwrap();
    // Half of them find the queue full, and stand there until it is not.
    gate.close();
    let cells: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|number| {
                let cells: Vec<_> =
                    (0..CELLS_EACH).map(|cell| content[place(number, cell)..][..CELL].to_vec()).collect();
                let mut member = Member {
                    aio: &aio,
                    file: file.clone(),
                    folder: &folder,
                    number,
                    random: Random::new(number as u64 + 1),
                    cells,
                    seed: 1000 * (1 + number as u64),
                };
                scope.spawn(move || {
                    member.take(Step::Write);
                    member.run();
                    member.cells
                })
            })
            .collect();
        until(|| aio.stats().ops >= (THREADS / 2) as u64);
        gate.wait_for(1);
        // No byte has moved, and the queue is full.
        match file.try_write(vec![0], 0) {
            Err(error) => assert!(matches!(error.error(), Error::QueueFull { .. }), "{error}"),
            Ok(_) => panic!("the queue took more than its limit"),
        }
        gate.open();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    // What was dropped was cancelled or ended well.
    aio.wait().unwrap();
    assert_eq!(aio.stats().in_flight, 0);
    file.close().unwrap();
    let found = std::fs::read(&path).unwrap();
    assert_eq!(found.len(), content.len());
    for (number, cells) in cells.iter().enumerate() {
        for (cell, bytes) in cells.iter().enumerate() {
            assert!(found[place(number, cell)..][..CELL] == bytes[..], "cell {cell} of thread {number}");
        }
    }
    assert_eq!(folder.count(), 1, "a file of a thread's own is left");
    assert_eq!(gate.offences(), Vec::<String>::new());
    aio.close().unwrap();
}

#[test]
fn threads_that_share_a_handle_do_not_notice_each_other() {
    each_backend("a crowd", crowd);
}
