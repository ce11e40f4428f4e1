//! Small blocking calls that run through a file go through the page cache; others do not, and no byte is lost.

#[path = "support/disk.rs"]
mod disk;
mod support;

use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, RwLock};
use std::time::Duration;

use aio::backend::IoBlock;
use aio::op::Direction;
use aio::{AioFile, AioHandle, Backend, DirectMode, OpenOptions};
use aio_testkit::fault::{Fate, Rules};
use disk::SmallDisk;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use proptest::prelude::*;
use support::child::alone;
use support::random::Random;
use support::{Folder, backends, evict, finishes, gated, pattern, small};

const PAGE: usize = 4096;
const MIB: usize = 1 << 20;
/// More calls than it takes to make a stream.
const FEW: usize = 8;

/// How many bytes `run` moved directly, and how many through the page cache.
fn moved(aio: &AioHandle, run: impl FnOnce()) -> (usize, usize) {
    let before = aio.stats();
    run();
    let after = aio.stats();
    ((after.bytes_direct - before.bytes_direct) as usize, (after.bytes_buffered - before.bytes_buffered) as usize)
}

/// A handle on each backend with an open file, which is not cached, where there is direct I/O.
fn each_cold(mode: DirectMode, content: &[u8], test: impl Fn(&AioHandle, &AioFile)) {
    for backend in backends() {
        let aio = aio::builder().backend(backend).direct(mode).build().unwrap();
        let folder = Folder::new();
        let path = folder.file("t", content);
        let file = match aio.open(&path) {
            Ok(file) if file.is_direct() => file,
            Err(error) if !error.to_string().contains("does not offer it") => panic!("{error}"),
            _ => return skipped(backend),
        };
        eprintln!("on {backend}");
        test(&aio, &file);
    }
}

fn skipped(backend: Backend) {
    eprintln!("SKIPPED {backend}: no direct I/O on the file system of the temporary folder");
}

/// Reads `range` in calls of `len` bytes, and compares.
fn run_through(file: &AioFile, content: &[u8], range: std::ops::Range<usize>, len: usize) {
    let mut memory = vec![0; len];
    for at in range.step_by(len) {
        file.read_at(&mut memory, at as u64).unwrap();
        assert!(memory == content[at..at + len], "at {at}");
    }
}

/// Writes `range` in calls of `len` bytes.
fn write_through(file: &AioFile, content: &[u8], range: std::ops::Range<usize>, len: usize) {
    for at in range.step_by(len) {
        file.write_at(&content[at..at + len], at as u64).unwrap();
    }
}

/// The page cache and the device have these bytes.
fn assert_holds(path: &Path, content: &[u8]) {
    assert!(std::fs::read(path).unwrap() == content, "the page cache has other bytes");
    evict(path);
    assert!(std::fs::read(path).unwrap() == content, "the device has other bytes");
}

#[test]
fn reads_that_run_through_a_file_go_through_the_page_cache() {
    let content = pattern(1, 16 * MIB);
    for len in [PAGE, 5000, 64 << 10, 256 << 10] {
        each_cold(DirectMode::Auto, &content, |aio, file| {
            run_through(file, &content, 0..FEW * len, len);
            let read = moved(aio, || run_through(file, &content, FEW * len..20 * len, len));
            assert_eq!(read, (0, 12 * len), "{len}");
            // What is read at another place, and what is large, is as before.
            let mut page = vec![0; PAGE];
            for at in [3, 1, 2].map(|at| 15 * MIB - at * PAGE) {
                assert_eq!(moved(aio, || file.read_at(&mut page, at as u64).unwrap()), (PAGE, 0));
                assert!(page == content[at..at + PAGE]);
            }
            let read = moved(aio, || run_through(file, &content, 8 * MIB..14 * MIB, MIB));
            assert_eq!(read, (6 * MIB, 0));
            // The stream goes on beside those.
            assert_eq!(moved(aio, || run_through(file, &content, 20 * len..21 * len, len)), (0, len), "{len}");
        });
    }
}

#[test]
fn reads_all_over_a_file_are_direct() {
    let content = pattern(1, 64 * MIB);
    each_cold(DirectMode::Auto, &content, |aio, file| {
        let (mut random, mut page) = (Random::new(1), vec![0; PAGE]);
        let read = moved(aio, || {
            for _ in 0..500 {
                let at = random.below(content.len() / PAGE - 1) * PAGE;
                file.read_at(&mut page, at as u64).unwrap();
                assert!(page == content[at..at + PAGE]);
            }
        });
        // Neighbours by chance make no stream.
        assert_eq!(read, (500 * PAGE, 0));
    });
}

#[test]
fn what_must_be_direct_is() {
    let content = pattern(1, MIB);
    each_cold(DirectMode::On, &content, |aio, file| {
        let read = moved(aio, || run_through(file, &content, 0..MIB, PAGE));
        assert_eq!(read, (MIB, 0));
        assert_eq!(moved(aio, || write_through(file, &content, 0..MIB, PAGE)), (MIB, 0));
        let content = [&content[..], &content[..]].concat();
        assert_eq!(moved(aio, || write_through(file, &content, MIB..2 * MIB, PAGE)), (MIB, 0));
        assert_holds(file.path(), &content);
    });
    each_cold(DirectMode::Auto, &content, |aio, file| {
        let validated = file.validated(true);
        assert_eq!(moved(aio, || run_through(&validated, &content, 0..MIB, 16 << 10)), (2 * MIB, 0));
        assert_eq!(moved(aio, || write_through(&validated, &content, 0..MIB, 16 << 10)), (2 * MIB, 0));
        let durable = file.durable(true);
        assert_eq!(moved(aio, || write_through(&durable, &content, 0..FEW * PAGE, PAGE)), (FEW * PAGE, 0));
        assert_holds(file.path(), &content);
    });
}

#[test]
fn a_write_ends_a_stream_of_reads() {
    let old = pattern(1, 4 * MIB);
    let changed = pattern(2, PAGE);
    each_cold(DirectMode::Auto, &old, |aio, file| {
        let (other, mut content) = (aio.open(file.path()).unwrap(), old.clone());
        content[MIB + PAGE..MIB + 2 * PAGE].copy_from_slice(&changed);
        run_through(file, &old, 0..MIB, PAGE);
        // By another open file, ahead of the stream, where the kernel has read already.
        assert_eq!(moved(aio, || other.write_at(&changed, (MIB + PAGE) as u64).unwrap()), (PAGE, 0));
        assert_eq!(moved(aio, || run_through(file, &content, MIB..MIB + 2 * PAGE, PAGE)), (2 * PAGE, 0));
        // And then it is one again.
        let from = MIB + (2 + FEW) * PAGE;
        run_through(file, &content, MIB + 2 * PAGE..from, PAGE);
        assert_eq!(moved(aio, || run_through(file, &content, from..2 * MIB, PAGE)), (0, 2 * MIB - from));
    });
}

#[test]
fn writes_that_run_through_a_file_go_through_the_page_cache() {
    // A new file, and one that is overwritten.
    for old in [0, 9 * MIB] {
        for len in [PAGE, 5000, 64 << 10, 256 << 10] {
            each_cold(DirectMode::Auto, &pattern(1, old), |aio, file| {
                let content = pattern(2, 8 * MIB / len * len);
                write_through(file, &content, 0..FEW * len, len);
                let written = moved(aio, || write_through(file, &content, FEW * len..content.len() - FEW * len, len));
                assert_eq!(written, (0, content.len() - 2 * FEW * len), "{len}");
                // Elsewhere, past the end, and large, they are as before.
                write_through(file, &content, content.len() - FEW * len..content.len(), len);
                assert_eq!(moved(aio, || file.write_at(&content[..PAGE], 0).unwrap()), (PAGE, 0));
                assert_eq!(file.len().unwrap(), content.len().max(old) as u64);
                let end = 20 * MIB as u64;
                assert_eq!(moved(aio, || file.write_at(&content[..PAGE], end).unwrap()), (PAGE, 0));
                file.set_len(content.len() as u64).wait().unwrap();
                let large = pattern(3, MIB);
                let at = content.len().next_multiple_of(MIB);
                assert_eq!(moved(aio, || file.write_at(&large, at as u64).unwrap()), (MIB, 0));
                file.set_len(content.len() as u64).wait().unwrap();
                file.sync_data().wait().unwrap();
                assert_holds(file.path(), &content);
            });
        }
    }
}

#[test]
fn a_file_for_writing_only_and_one_without_direct_io_are_written_as_well() {
    for backend in backends() {
        for mode in [DirectMode::Auto, DirectMode::Off] {
            let (aio, folder) = (aio::builder().backend(backend).direct(mode).build().unwrap(), Folder::new());
            let path = folder.path("t");
            let file = aio.open_with(&path, &OpenOptions::new().write(true).create(true)).unwrap();
            let content = pattern(1, MIB);
            write_through(&file, &content, 0..FEW * PAGE, PAGE);
            let written = moved(&aio, || write_through(&file, &content, FEW * PAGE..MIB, PAGE));
            assert_eq!(written, (0, MIB - FEW * PAGE));
            file.sync_all().wait().unwrap();
            assert_holds(&path, &content);
        }
    }
}

/// Ends every `write(2)` of a caller past `after` bytes of the file: with an error, after a part or at once.
#[derive(Debug)]
struct FailsAfter {
    after: u64,
    part: usize,
    errno: i32,
}

impl FailsAfter {
    /// As the rule, of blocks that begin in the first `len` bytes past `after`.
    fn transfer_within(&self, block: &IoBlock, len: usize) -> Fate {
        if block.offset < self.after + len as u64 { self.transfer(block) } else { Fate::Transfer }
    }
}

impl Rules for FailsAfter {
    fn transfer(&self, block: &IoBlock) -> Fate {
        match block.direction {
            Direction::Write if block.offset == self.after && self.part > 0 => Fate::Cut(self.part),
            Direction::Write if block.offset >= self.after => {
                Fate::End(Err(std::io::Error::from_raw_os_error(self.errno)))
            }
            _ => Fate::Transfer,
        }
    }
}

#[test]
fn a_write_that_fails_gives_its_length_back_and_the_stream_goes_on() {
    for backend in backends() {
        for (part, errno) in [(0, libc::EIO), (100, libc::ENOSPC), (4000, libc::EDQUOT)] {
            let after = 100 * 5000;
            let rules = Arc::new(FailsAfter { after, part, errno });
            let (aio, _) = gated(backend, &rules, small(1, 8, DirectMode::Auto));
            let folder = Folder::new();
            let file = aio.create(folder.path("t")).unwrap();
            let content = pattern(1, 200 * 5000);
            write_through(&file, &content, 0..after as usize, 5000);
            let error = file.write_at(&content[..5000], after).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(errno), "{error}");
            assert_eq!(file.len().unwrap(), after);
            // By workers, which the rules let through.
            let rest = content[after as usize..].to_vec();
            file.write(rest, after).wait().unwrap();
            file.sync_data().wait().unwrap();
            assert_holds(file.path(), &content);
        }
    }
}

#[test]
fn a_write_that_fails_keeps_what_others_wrote_meanwhile() {
    for backend in backends() {
        let after = 40 * PAGE as u64;
        let rules = Arc::new(FailsAfter { after, part: 100, errno: libc::EIO });
        let (aio, gate) = gated(backend, &rules, small(1, 8, DirectMode::Auto));
        let folder = Folder::new();
        let file = aio.create(folder.path("t")).unwrap();
        let content = pattern(1, 80 * PAGE);
        write_through(&file, &content, 0..after as usize, PAGE);
        // Reserved, and in flight; through the page cache, so that the stream need not wait for it.
        gate.close();
        let end = 79 * PAGE + 100;
        let beyond = file.write(content[end - 50..end].to_vec(), (end - 50) as u64);
        gate.wait_for(1);
        file.write_at(&content[..PAGE], after).unwrap_err();
        assert_eq!(file.len().unwrap(), end as u64);
        gate.open();
        beyond.wait().unwrap();
        assert_eq!(file.len().unwrap(), end as u64);
    }
}

/// Keeps the write of a caller at `from` back.
#[derive(Debug)]
struct Holds {
    from: u64,
    begun: Barrier,
    released: AtomicBool,
}

impl Rules for Holds {
    fn transfer(&self, block: &IoBlock) -> Fate {
        if block.direction == Direction::Write && block.offset == self.from {
            self.begun.wait();
            support::until(|| self.released.load(Ordering::SeqCst));
        }
        Fate::Transfer
    }
}

/// Keeps a write of a caller back, and ends another one after a part: it may be the same.
#[derive(Debug)]
struct HoldsAndFails {
    holds: Holds,
    fails: u64,
}

impl Rules for HoldsAndFails {
    fn transfer(&self, block: &IoBlock) -> Fate {
        let _ = self.holds.transfer(block);
        FailsAfter { after: self.fails, part: 100, errno: libc::EIO }.transfer_within(block, PAGE)
    }
}

#[test]
fn of_two_that_append_one_fails_and_the_other_keeps_its_bytes() {
    let (near, far) = (20 * PAGE, 50 * PAGE);
    // The one nearer to the start fails while the other is in flight, and the other way round.
    for (held, fails) in [(far, near), (far, far)] {
        for backend in backends() {
            finishes("two that append", move || {
                let (begun, released) = (Barrier::new(2), AtomicBool::new(false));
                let rules = Arc::new(HoldsAndFails {
                    holds: Holds { from: held as u64, begun, released },
                    fails: fails as u64,
                });
                let (aio, _) = gated(backend, &rules, small(1, 8, DirectMode::Auto));
                let (folder, content) = (Folder::new(), pattern(1, 60 * PAGE));
                let file = aio.create(folder.path("t")).unwrap();
                write_through(&file, &content, 0..near, PAGE);
                write_through(&file, &content, 30 * PAGE..far, PAGE);
                // So that both streams go on past the end.
                file.set_len(10 * PAGE as u64).wait().unwrap();
                let write = |at: usize| file.write_at(&content[at..at + PAGE], at as u64);
                std::thread::scope(|scope| {
                    let other = scope.spawn(|| write(held));
                    rules.holds.begun.wait();
                    let written = moved(&aio, || assert_eq!(write(near).is_err(), fails == near));
                    assert_eq!(written, (0, if fails == near { 100 } else { PAGE }));
                    rules.holds.released.store(true, Ordering::SeqCst);
                    assert_eq!(other.join().unwrap().is_err(), fails == held);
                });
                let mut expected = [&content[..10 * PAGE], &vec![0; 41 * PAGE]].concat();
                expected[near..near + 100].copy_from_slice(&content[near..near + 100]);
                if fails == near {
                    expected[far..].copy_from_slice(&content[far..far + PAGE]);
                } else {
                    expected[near..near + PAGE].copy_from_slice(&content[near..near + PAGE]);
                    expected.truncate(near + PAGE);
                }
                file.sync_data().wait().unwrap();
                assert_holds(file.path(), &expected);
            });
        }
    }
}

/// Panics at a write of a caller, and fails the next.
#[derive(Debug)]
struct Panics {
    at: u64,
    fails: FailsAfter,
}

impl Rules for Panics {
    fn transfer(&self, block: &IoBlock) -> Fate {
        assert!(block.direction == Direction::Read || block.offset != self.at, "a bug");
        self.fails.transfer(block)
    }
}

#[test]
fn a_backend_that_panics_leaves_no_length_behind() {
    for backend in backends() {
        let (at, after) = (40 * 5000, 41 * 5000);
        let fails = FailsAfter { after, part: 100, errno: libc::EIO };
        let (aio, _) = gated(backend, &Arc::new(Panics { at, fails }), small(1, 8, DirectMode::Auto));
        let folder = Folder::new();
        let file = aio.create(folder.path("t")).unwrap();
        let content = pattern(1, 50 * 5000);
        write_through(&file, &content, 0..at as usize, 5000);
        catch_unwind(AssertUnwindSafe(|| file.write_at(&content[..5000], at))).unwrap_err();
        assert_eq!(file.len().unwrap(), at);
        // If the one that panicked was taken for one in flight, its length would stay.
        file.write_at(&content[..5000], after).unwrap_err();
        assert_eq!(file.len().unwrap(), at);
        file.write(content[at as usize..].to_vec(), at).wait().unwrap();
        file.sync_data().wait().unwrap();
        assert_holds(file.path(), &content);
    }
}

#[test]
fn a_limit_of_file_sizes_is_an_error_and_no_signal() {
    alone("a_limit_of_file_sizes_is_an_error_and_no_signal", || {
        let limit = |bytes| setrlimit(Resource::RLIMIT_FSIZE, bytes, RLIM_INFINITY).unwrap();
        for backend in backends() {
            for mode in [DirectMode::Auto, DirectMode::Off] {
                let (aio, folder) = (aio::builder().backend(backend).direct(mode).build().unwrap(), Folder::new());
                let file = aio.create(folder.path("t")).unwrap();
                let content = pattern(1, 100 * 5000);
                write_through(&file, &content, 0..50 * 5000, 5000);
                // In the middle of the next call.
                limit(50 * 5000 + 777);
                for _ in 0..3 {
                    let error = file.write_at(&content[..5000], 50 * 5000).unwrap_err();
                    assert_eq!(error.raw_os_error(), Some(libc::EFBIG), "{error}");
                    assert_eq!(file.len().unwrap(), 50 * 5000);
                }
                limit(RLIM_INFINITY);
                write_through(&file, &content, 50 * 5000..content.len(), 5000);
                file.sync_data().wait().unwrap();
                assert_holds(file.path(), &content);
            }
        }
    });
}

#[test]
fn a_full_disk_is_an_error_and_what_was_written_stays() {
    for backend in backends() {
        let Some(disk) = SmallDisk::new(64) else { return };
        disk.leave(10);
        let (aio, path) = (aio::builder().backend(backend).build().unwrap(), disk.path().join("t"));
        let file = aio.create(&path).unwrap();
        let content = pattern(1, 64 * MIB);
        let mut at = 0;
        let error = loop {
            match file.write_at(&content[at..at + 5000], at as u64) {
                Ok(()) => at += 5000,
                Err(error) => break error,
            }
        };
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
        assert!(at > 4 * MIB, "{at}");
        assert_eq!(file.len().unwrap(), at as u64);
        file.sync_all().wait().unwrap();
        assert_holds(&path, &content[..at]);
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn syncs_and_direct_writes_wait_for_a_stream() {
    for backend in backends() {
        finishes("a sync beside a stream", move || {
            let from = 40 * PAGE as u64;
            let rules = Arc::new(Holds { from, begun: Barrier::new(2), released: AtomicBool::new(false) });
            let (aio, _) = gated(backend, &rules, small(1, 8, DirectMode::Auto));
            let folder = Folder::new();
            let path = folder.file("t", &pattern(1, MIB));
            let file = aio.open(&path).unwrap();
            if !file.is_direct() {
                return skipped(backend);
            }
            let content = pattern(2, MIB);
            std::thread::scope(|scope| {
                scope.spawn(|| write_through(&file, &content, 0..from as usize + PAGE, PAGE));
                rules.begun.wait();
                let direct = file.write(content[128 << 10..].to_vec(), 128 << 10);
                let sync = file.sync_data();
                assert!(!direct.wait_timeout(Duration::from_millis(50)).unwrap(), "it did not wait");
                assert!(!sync.is_done());
                rules.released.store(true, Ordering::SeqCst);
                direct.wait().unwrap();
                sync.wait().unwrap();
            });
        });
    }
}

/// All kinds of calls at once, each thread in a part of its own. Now and then one thread is alone with its stream, since
/// streams of reads do not last beside writes.
#[test]
fn streams_beside_everything_else_lose_nothing() {
    const PART: usize = 4 * MIB;
    for backend in backends() {
        finishes("all kinds of calls at once", move || {
            for round in 0..3 {
                let aio = aio::builder().backend(backend).build().unwrap();
                let folder = Folder::new();
                let mut content = pattern(1, 4 * PART);
                let path = folder.file("t", &content);
                let (file, other) = (aio.open(&path).unwrap(), aio.open(&path).unwrap());
                let (running, read) = (AtomicUsize::new(3), AtomicUsize::new(0));
                let beside = RwLock::new(());
                let (overwritten, odd, appended) = (pattern(2, PART), pattern(3, PART), pattern(4, PART));
                let ends = |run: &dyn Fn()| {
                    run();
                    running.fetch_sub(1, Ordering::SeqCst);
                };
                std::thread::scope(|scope| {
                    // Nothing is written to the first part.
                    for (number, file) in [&file, &other].into_iter().enumerate() {
                        let (content, running, read) = (&content[..PART], &running, &read);
                        let (aio, beside) = (&aio, &beside);
                        scope.spawn(move || {
                            let (mut random, mut page) = (Random::new(round * 2 + number as u64), vec![0; PAGE]);
                            while running.load(Ordering::SeqCst) > 0 {
                                for at in (0..PART).step_by(64 << 10) {
                                    let _beside = beside.read();
                                    run_through(file, content, at..at + (64 << 10), 16 << 10);
                                }
                                let beside_others = beside.read();
                                let at = random.below(PART - PAGE);
                                file.read_at(&mut page, at as u64).unwrap();
                                assert!(page == content[at..at + PAGE]);
                                drop(beside_others);
                                let _alone = beside.write();
                                let (direct, streamed) = moved(aio, || run_through(file, content, 0..PART, 16 << 10));
                                assert!(streamed > PART / 2, "{direct} {streamed}");
                                read.fetch_add(1, Ordering::SeqCst);
                            }
                        });
                    }
                    scope.spawn(|| {
                        ends(&|| {
                            let shifted = [vec![0; PART], overwritten.clone()].concat();
                            for from in (PART..2 * PART).step_by(MIB / 2) {
                                for at in (from..from + MIB / 4).step_by(8 << 10) {
                                    let _beside = beside.read();
                                    write_through(&file, &shifted, at..at + (8 << 10), 8 << 10);
                                }
                                let _alone = beside.write();
                                let rest = from + MIB / 4..from + MIB / 2;
                                assert_eq!(
                                    moved(&aio, || write_through(&file, &shifted, rest, 8 << 10)),
                                    (0, MIB / 4)
                                );
                            }
                        });
                    });
                    scope.spawn(|| {
                        ends(&|| {
                            let (mut random, mut at) = (Random::new(round), 0);
                            while at < PART {
                                let (_beside, mut tickets) = (beside.read(), Vec::new());
                                while at < PART && tickets.len() < 20 {
                                    let len = (1 + random.below(40_000)).min(PART - at);
                                    tickets.push(other.write(odd[at..at + len].to_vec(), (2 * PART + at) as u64));
                                    at += len;
                                }
                                tickets.into_iter().for_each(|ticket| drop(ticket.wait().unwrap()));
                            }
                        });
                    });
                    scope.spawn(|| {
                        ends(&|| {
                            let mut at = 0;
                            while at < PART {
                                let (_beside, len) = (beside.read(), 5000.min(PART - at));
                                other.write_at(&appended[at..at + len], (4 * PART + at) as u64).unwrap();
                                at += len;
                            }
                        });
                    });
                });
                assert!(read.load(Ordering::SeqCst) > 0);
                file.sync_data().wait().unwrap();
                content[PART..2 * PART].copy_from_slice(&overwritten);
                content[2 * PART..3 * PART].copy_from_slice(&odd);
                content.extend(appended);
                assert_holds(&path, &content);
            }
        });
    }
}

/// What a test does to a file, one after the other.
#[derive(Debug, Clone)]
enum Step {
    /// Blocking calls that run through the file, from where the last ones of their direction ended.
    Run {
        write: bool,
        calls: usize,
        len: usize,
    },
    /// Calls of one direction go on from here.
    Seek {
        write: bool,
        to: usize,
    },
    /// By a worker.
    Write {
        at: usize,
        len: usize,
    },
    SetLen(usize),
    Evict,
}

const MOST: usize = 256 << 10;

fn step() -> impl Strategy<Value = Step> {
    let len = prop::sample::select(vec![0, 100, PAGE, 5000, 8192, 20_000]);
    prop_oneof![
        5 => (any::<bool>(), 1usize..12, len).prop_map(|(write, calls, len)| Step::Run { write, calls, len }),
        2 => (any::<bool>(), 0..MOST / 2).prop_map(|(write, to)| Step::Seek { write, to: to / 512 * 512 }),
        1 => (0..MOST, 1usize..40_000).prop_map(|(at, len)| Step::Write { at, len }),
        1 => (0..MOST).prop_map(Step::SetLen),
        1 => Just(Step::Evict),
    ]
}

/// Against a vector.
fn follows_the_model(backend: Backend, steps: &[Step]) {
    let (aio, folder) = (aio::builder().backend(backend).build().unwrap(), Folder::new());
    let mut model = pattern(0, MOST / 4);
    let path = folder.file("t", &model);
    let file = aio.open(&path).unwrap();
    let mut at = [0, 0];
    let put = |model: &mut Vec<u8>, at: usize, bytes: &[u8]| {
        if bytes.is_empty() {
            return;
        }
        model.resize(model.len().max(at + bytes.len()), 0);
        model[at..at + bytes.len()].copy_from_slice(bytes);
    };
    for (number, step) in steps.iter().enumerate() {
        match *step {
            Step::Run { write: true, calls, len } => {
                for call in 0..calls {
                    let bytes = pattern((number * 100 + call) as u64, len);
                    file.write_at(&bytes, at[1] as u64).unwrap();
                    put(&mut model, at[1], &bytes);
                    at[1] += len;
                }
            }
            Step::Run { write: false, calls, len } => {
                for _ in 0..calls {
                    let (mut memory, there) = (vec![0; len], model.len().saturating_sub(at[0]).min(len));
                    match file.read_at(&mut memory, at[0] as u64) {
                        Err(aio::Error::UnexpectedEof { read, .. }) => assert_eq!(read as usize, there),
                        read => assert!(read.is_ok() && there == len, "{read:?}"),
                    }
                    let expected = model.get(at[0]..at[0] + there).unwrap_or_default();
                    assert!(memory[..there] == *expected, "step {number}, at {}", at[0]);
                    at[0] += there;
                }
            }
            Step::Seek { write, to } => at[usize::from(write)] = to,
            Step::Write { at, len } => {
                let bytes = pattern(number as u64, len);
                file.write(bytes.clone(), at as u64).wait().unwrap();
                put(&mut model, at, &bytes);
            }
            Step::SetLen(len) => {
                file.set_len(len as u64).wait().unwrap();
                model.resize(len, 0);
                at = at.map(|at| at.min(len));
            }
            Step::Evict => evict(&path),
        }
        assert_eq!(file.len().unwrap(), model.len() as u64, "step {number}");
    }
    file.sync_data().wait().unwrap();
    assert_holds(&path, &model);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_file_holds_what_was_written(steps in prop::collection::vec(step(), 1..40)) {
        for backend in backends() {
            follows_the_model(backend, &steps);
        }
    }
}

/// Streams are not what a test of residency takes them for.
#[test]
fn what_a_stream_read_is_resident_afterwards() {
    let content = pattern(1, 4 * MIB);
    each_cold(DirectMode::Auto, &content, |aio, file| {
        run_through(file, &content, 0..4 * MIB, PAGE);
        let cached = {
            let file = std::fs::File::open(file.path()).unwrap();
            let (range, mut found) = ([0u64, 1 << 40], [0u64; 5]);
            // SAFETY: two and five 64-bit numbers are the structures of the call.
            let status = unsafe { libc::syscall(451, file.as_raw_fd(), range.as_ptr(), found.as_mut_ptr(), 0) };
            status == 0 && found[0] as usize >= 4 * MIB / PAGE * 31 / 32
        };
        if cached {
            let again = aio.open(file.path()).unwrap();
            let mut page = vec![0; PAGE];
            assert_eq!(moved(aio, || again.read_at(&mut page, 2 * MIB as u64).unwrap()), (0, PAGE));
        }
    });
}
