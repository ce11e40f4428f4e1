//! Writes past the page cache and writes through it are never in flight together for one inode, so that no reader of the
//! file makes a sync fail or sees old bytes.

mod support;

use std::collections::HashMap;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aio::op::{Direction, Extent, IoOpDesc, PathMode, Target};
use aio::{AioFile, AioHandle, DirectMode, Error, Ticket};
use aio_core::backend::{Completion, IoBlock};
use aio_testkit::fault::{Delay, Fate, Plain, Rules};
use support::random::Random;
use support::{Folder, backends, finishes, gated, pattern, small, until};

/// Knows which writes are in flight, and notes when both routes are taken at once.
#[derive(Debug, Default)]
struct OneRoute {
    /// By queue and token: whether the write is direct.
    writes: Mutex<HashMap<(usize, u64), bool>>,
    /// Blocks in the order in which queues took them: direction, and whether they were direct.
    taken: Mutex<Vec<(Direction, bool)>>,
    together: AtomicUsize,
    /// Most writes of one route at once, through the page cache and direct.
    most: [AtomicUsize; 2],
    /// How many reaps a completion is kept back.
    after: u32,
}

impl Rules for OneRoute {
    fn block(&self, queue: usize, block: &IoBlock) -> Fate {
        let direct = is_direct(block);
        self.taken.lock().unwrap().push((block.direction, direct));
        if block.direction == Direction::Write {
            let mut writes = self.writes.lock().unwrap();
            writes.insert((queue, block.token), direct);
            self.together.fetch_add(writes.values().filter(|other| **other != direct).count(), Ordering::SeqCst);
            self.most[usize::from(direct)].fetch_max(writes.len(), Ordering::SeqCst);
        }
        Fate::Transfer
    }

    fn delay(&self, _queue: usize, block: &IoBlock) -> Delay {
        Delay { before: 0, after: (block.token % 4) as u32 * self.after }
    }

    fn reaped(&self, queue: usize, done: &mut Vec<Completion>) {
        let mut writes = self.writes.lock().unwrap();
        for done in done {
            writes.remove(&(queue, done.token));
        }
    }

    fn transfer(&self, block: &IoBlock) -> Fate {
        if block.direction == Direction::Write {
            let direct = is_direct(block);
            let others = self.writes.lock().unwrap().values().filter(|other| **other != direct).count();
            self.together.fetch_add(others, Ordering::SeqCst);
        }
        Fate::Transfer
    }
}

fn is_direct(block: &IoBlock) -> bool {
    // SAFETY: asks for the flags of a descriptor, which the engine keeps open.
    unsafe { libc::fcntl(block.fd, libc::F_GETFL) & libc::O_DIRECT != 0 }
}

/// A file that can be written past the page cache; says so if there is none here.
fn direct_file(aio: &AioHandle, folder: &Folder, name: &str, len: usize) -> Option<AioFile> {
    let file = aio.open(folder.file(name, &pattern(1, len))).unwrap();
    if !file.is_direct() {
        eprintln!("SKIPPED: {} has no direct I/O", file.path().display());
    }
    file.is_direct().then_some(file)
}

const CELL: usize = 40_001;
const CELLS: usize = 24;

/// All kinds of writes into disjoint cells that share pages, from two engines and four threads.
#[test]
fn both_routes_are_never_taken_at_once() {
    for backend in backends() {
        finishes("writes on both routes", move || {
            let folder = Folder::new();
            let rules = Arc::new(OneRoute { after: 1, ..OneRoute::default() });
            let [(one, _), (other, _)] =
                [DirectMode::Auto, DirectMode::Off].map(|direct| gated(backend, &rules, small(2, 8, direct)));
            let Some(file) = direct_file(&one, &folder, "t", CELLS * CELL) else { return };
            let cached = other.open(file.path()).unwrap();
            std::thread::scope(|scope| {
                for thread in 0..4 {
                    let files = [&file, &file, &file, &cached];
                    scope.spawn(move || {
                        let mut random = Random::new(thread as u64);
                        for round in 0..12 {
                            let mut tickets: Vec<Ticket<Vec<u8>>> = Vec::new();
                            for cell in (thread..CELLS).step_by(4) {
                                write(
                                    &mut random,
                                    files,
                                    cell,
                                    pattern((round * CELLS + cell) as u64, CELL),
                                    &mut tickets,
                                );
                            }
                            tickets.into_iter().for_each(|ticket| drop(ticket.wait().unwrap()));
                        }
                    });
                }
            });
            file.sync_data().wait().unwrap();
            let expected: Vec<u8> = (0..CELLS).flat_map(|cell| pattern((11 * CELLS + cell) as u64, CELL)).collect();
            assert!(std::fs::read(file.path()).unwrap() == expected);
            assert!(file.read(vec![0; expected.len()], 0).wait().unwrap() == expected);
            assert!(rules.most.iter().all(|most| most.load(Ordering::SeqCst) > 1), "{rules:?}");
            assert_eq!(rules.together.load(Ordering::SeqCst), 0, "on {backend}");
        });
    }
}

/// Writes a cell in one of several ways.
fn write(random: &mut Random, files: [&AioFile; 4], cell: usize, bytes: Vec<u8>, tickets: &mut Vec<Ticket<Vec<u8>>>) {
    let (way, at) = (random.below(4), (cell * CELL) as u64);
    let file = files[random.below(4)];
    match way {
        0 => tickets.push(file.write(bytes, at)),
        1 => {
            let (from, to) = bytes.split_at(9000);
            file.write_at(from, at).unwrap();
            tickets.push(file.write(to.to_vec(), at + 9000));
        }
        2 => {
            let extents =
                bytes.chunks(7001).enumerate().map(|(index, chunk)| (at + 7001 * index as u64, chunk.to_vec()));
            file.write_vectored(extents.collect()).wait().unwrap();
        }
        _ => bytes.chunks(5000).enumerate().for_each(|(index, chunk)| {
            file.write_at(chunk, at + 5000 * index as u64).unwrap();
        }),
    }
}

/// A write, or an operation on the file.
enum Change {
    Write(Ticket<Vec<u8>>),
    Op(Ticket<()>),
}

impl Change {
    fn is_done_within(&self, timeout: Duration) -> bool {
        match self {
            Self::Write(ticket) => ticket.wait_timeout(timeout).unwrap(),
            Self::Op(ticket) => ticket.wait_timeout(timeout).unwrap(),
        }
    }
}

/// What dirties pages waits for a direct write that is in flight; what does not is let past.
#[test]
fn what_dirties_a_page_waits_for_direct_writes() {
    type Dirties = fn(&AioFile) -> Change;
    let all: [(&str, Dirties); 5] = [
        ("an edge", |file| Change::Write(file.write(vec![1; 100], 50_001))),
        ("an end inside a page", |file| Change::Op(file.set_len(99_999))),
        ("a hole", |file| Change::Op(file.punch_hole(60_001, 10_000))),
        ("an allocation past the end", |file| Change::Op(file.allocate(0, 200_001))),
        ("a write past an end inside a page", |file| Change::Write(file.write(vec![1; 4096], 102_400))),
    ];
    for backend in backends() {
        for (what, dirties) in all {
            finishes(what, move || {
                let folder = Folder::new();
                let rules = Arc::new(OneRoute::default());
                let (aio, gate) = gated(backend, &rules, small(1, 8, DirectMode::On));
                let Some(file) = direct_file(&aio, &folder, "t", 100_001) else { return };
                gate.close();
                let direct = file.write(vec![2; 8192], 4096);
                gate.wait_for(1);
                let waits = dirties(&file);
                // One worker takes ops in their order, so by the time that it has the read, it has seen the other.
                let read = file.read(vec![0; 4096], 16_384);
                gate.wait_for(2);
                assert!(!waits.is_done_within(Duration::from_millis(50)), "{what} did not wait");
                assert_eq!(
                    *rules.taken.lock().unwrap(),
                    [(Direction::Write, true), (Direction::Read, true)],
                    "{what}"
                );
                assert_eq!(std::fs::metadata(file.path()).unwrap().len(), 100_001, "{what}");
                gate.open();
                assert!(waits.is_done_within(Duration::MAX));
                direct.wait().unwrap();
                read.wait().unwrap();
                file.sync_all().wait().unwrap();
            });
        }
    }
}

/// Ends direct writes with this error.
#[derive(Debug)]
struct NotDirect(i32);

impl Rules for NotDirect {
    fn block(&self, _queue: usize, block: &IoBlock) -> Fate {
        if block.direction == Direction::Write && is_direct(block) {
            return Fate::End(Err(std::io::Error::from_raw_os_error(self.0)));
        }
        Fate::Transfer
    }

    fn transfer(&self, block: &IoBlock) -> Fate {
        self.block(0, block)
    }
}

/// What a write does after its direct blocks dirties pages, too: it goes on through the cache, gives back the length
/// of a write that failed, cuts a file that was longer.
#[test]
fn the_end_of_a_write_waits_for_direct_writes() {
    type Write = Ticket<Vec<u8>>;
    type Check = fn(&AioHandle, &AioFile, &dyn Fn(&dyn Fn() -> Write) -> Result<(), i32>);
    let all: [(&str, i32, Check); 3] = [
        ("a block that direct I/O does not take", libc::EINVAL, |aio, file, beside| {
            let other = aio.open(file.path()).unwrap();
            assert_eq!(beside(&|| other.write(vec![7; 40_000], 20_480)), Ok(()));
            assert!(std::fs::read(file.path()).unwrap()[20_480..60_480].iter().all(|byte| *byte == 7));
        }),
        ("a length that is given back", libc::EIO, |aio, file, beside| {
            let other = aio.open(file.path()).unwrap();
            assert_eq!(beside(&|| other.write(vec![7; 40_960], 102_400)), Err(libc::EIO));
            assert_eq!(file.len().unwrap(), 102_400);
        }),
        ("a tail that is cut", 0, |aio, file, beside| {
            let aio = aio.durable(file.len().unwrap() % 2 == 0);
            assert_eq!(beside(&|| aio.write_path(file.path(), vec![7; 40_960])), Ok(()));
            assert_eq!(file.len().unwrap(), 40_960);
        }),
    ];
    for backend in backends() {
        for (what, errno, check) in all {
            finishes(what, move || {
                let folder = Folder::new();
                let (holder, gate) = gated(backend, &Arc::new(OneRoute::default()), small(1, 8, DirectMode::On));
                let Some(file) = direct_file(&holder, &folder, "t", 102_400) else { return };
                let (aio, _) = match errno {
                    0 => gated(backend, &Arc::new(Plain), small(1, 8, DirectMode::On)),
                    errno => gated(backend, &Arc::new(NotDirect(errno)), small(1, 8, DirectMode::On)),
                };
                check(&aio, &file, &|start| {
                    gate.close();
                    let direct = file.write(vec![2; 4096], 81_920);
                    gate.wait_for(1);
                    let write = start();
                    assert!(!write.wait_timeout(Duration::from_millis(50)).unwrap(), "{what} did not wait");
                    gate.open();
                    direct.wait().unwrap();
                    write.wait().map(drop).map_err(|error| error.error().raw_os_error().unwrap_or(0))
                });
                aio.close().unwrap();
            });
        }
    }
}

/// On the caller's thread.
#[test]
fn a_call_that_direct_io_does_not_take_goes_through_the_cache() {
    for backend in backends() {
        let folder = Folder::new();
        let (aio, _) = gated(backend, &Arc::new(NotDirect(libc::EINVAL)), small(1, 8, DirectMode::On));
        let Some(file) = direct_file(&aio, &folder, "t", 100_000) else { return };
        file.write_at(&[7; 10_000], 5000).unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap()[5000..15_000], [7; 10_000]);
    }
}

#[test]
fn a_direct_write_waits_for_an_edge() {
    for backend in backends() {
        finishes("a direct write beside an edge", move || {
            let folder = Folder::new();
            let rules = Arc::new(OneRoute::default());
            let (aio, gate) = gated(backend, &rules, small(1, 8, DirectMode::On));
            let Some(file) = direct_file(&aio, &folder, "t", 100_000) else { return };
            gate.close();
            let edge = file.write(vec![2; 100], 1000);
            gate.wait_for(1);
            let direct = file.write(vec![3; 8192], 8192);
            let read = file.read(vec![0; 4096], 32_768);
            gate.wait_for(2);
            assert_eq!(*rules.taken.lock().unwrap(), [(Direction::Write, false), (Direction::Read, true)]);
            // One that is cancelled while it waits ends at once, and does not keep the others.
            let cancelled = file.write(vec![4; 4096], 16_384);
            cancelled.cancel();
            cancelled.wait().unwrap_err();
            assert!(!direct.is_done());
            gate.open();
            edge.wait().unwrap();
            direct.wait().unwrap();
            read.wait().unwrap();
            file.write(vec![5; 10_000], 1).wait().unwrap();
        });
    }
}

/// Its target panics when it is asked for the time `at`.
struct Panics {
    target: Target,
    extents: [Extent; 1],
    at: usize,
    asked: AtomicUsize,
}

// SAFETY: the extent has no memory, and `gather` writes every byte. A getter that panics answers nothing else.
unsafe impl IoOpDesc for Panics {
    fn direction(&self) -> Direction {
        Direction::Write
    }

    fn target(&self) -> &Target {
        assert_ne!(self.asked.fetch_add(1, Ordering::SeqCst) + 1, self.at, "as the test has it");
        &self.target
    }

    fn extents(&self) -> &[Extent] {
        &self.extents
    }

    fn gather(&self, _extent: usize, _at: usize, into: &mut [MaybeUninit<u8>]) {
        into.fill(MaybeUninit::new(7));
    }
}

/// Wherever it does, also where a file is cut or a length is given back.
#[test]
fn a_descriptor_that_panics_keeps_no_op_from_its_end() {
    for backend in backends() {
        finishes("a descriptor that panics", move || {
            let folder = Folder::new();
            for (offset, durable, fails) in [(0, false, false), (0, true, false), (40_000, false, true)] {
                let (mut panicked, mut others) = (0, 0);
                for at in 1..=40 {
                    let config = small(1, 8, DirectMode::Auto);
                    let (aio, _) = match fails {
                        true => gated(backend, &Arc::new(NotDirect(libc::EIO)), config),
                        false => gated(backend, &Arc::new(Plain), config),
                    };
                    let path = folder.file("t", &pattern(1, 30_000));
                    let extents = [Extent { offset, len: 20_000, memory: None }];
                    let (target, asked) = (Target::Path(path, PathMode::Write), AtomicUsize::new(0));
                    let desc = Panics { target, extents, at, asked };
                    // On this thread if it is asked before the op is accepted.
                    let submitted = catch_unwind(AssertUnwindSafe(|| aio.durable(durable).submit(desc)));
                    let Ok(ticket) = submitted else { continue };
                    match ticket.wait().map_err(|error| error.into_error()) {
                        // Where a block is issued, the worker goes with it.
                        Err(Error::Panicked { .. } | Error::WorkerDied { .. }) => panicked += 1,
                        other => {
                            assert_eq!(other.is_err(), fails, "{other:?}");
                            others += 1;
                        }
                    }
                    aio.close().unwrap();
                }
                assert!(panicked > 0 && others > 0, "{panicked} {others}");
            }
        });
    }
}

/// Odd-sized writes that overlap nothing, beside a reader whose read-ahead fills the cache with large folios.
#[test]
fn a_reader_through_the_page_cache_makes_no_sync_fail() {
    const LEN: usize = 16 << 20;
    for backend in backends() {
        let aio = aio::builder().backend(backend).build().unwrap();
        for round in 0..6 {
            let folder = Folder::new();
            let Some(file) = direct_file(&aio, &folder, "t", LEN) else { return };
            let (stop, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
            let mut expected = vec![0; LEN];
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let (reader, mut memory) = (File::open(file.path()).unwrap(), vec![0; 64 << 10]);
                    while !stop.load(Ordering::Relaxed) {
                        for at in (0..LEN).step_by(memory.len()) {
                            reader.read_exact_at(&mut memory, at as u64).unwrap();
                            reads.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
                until(|| reads.load(Ordering::Relaxed) > 0);
                let (mut random, mut at, mut tickets) = (Random::new(round), 0, Vec::new());
                while at < LEN {
                    let len = (1 + random.below(40_000)).min(LEN - at);
                    let byte = random.next() as u8;
                    expected[at..at + len].fill(byte);
                    tickets.push(file.write(vec![byte; len], at as u64));
                    at += len;
                }
                let failed = tickets.into_iter().filter_map(|ticket| ticket.wait().err()).count();
                let synced = file.sync_data().wait();
                stop.store(true, Ordering::Relaxed);
                assert_eq!(failed, 0);
                synced.unwrap();
            });
            assert!(std::fs::read(file.path()).unwrap() == expected, "the page cache has other bytes, on {backend}");
            support::evict(file.path());
            assert!(std::fs::read(file.path()).unwrap() == expected, "the device has other bytes, on {backend}");
        }
    }
}

/// They leave unspecified bytes, and no damage beyond that.
#[test]
fn writes_that_overlap_make_no_sync_fail() {
    const LEN: usize = 4 << 20;
    for backend in backends() {
        let folder = Folder::new();
        let aio = aio::builder().backend(backend).build().unwrap();
        for round in 0..3 {
            let Some(file) = direct_file(&aio, &folder, "t", LEN) else { return };
            let mut random = Random::new(round);
            let writes = (0..1500).map(|_| {
                let len = 1 + random.below(60_000);
                file.write(vec![9; len], random.below(LEN - len) as u64)
            });
            for write in writes.collect::<Vec<_>>() {
                write.wait().unwrap();
            }
            file.sync_data().wait().unwrap();
        }
    }
}
