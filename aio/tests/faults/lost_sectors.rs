//! A device that has lost some of its sectors: EIO.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use aio::error::OpKind;
use aio::{AioHandle, DirectMode};

use crate::assert_io;
use crate::disk::SmallDisk;
use crate::support::{evict, pattern};

const PART: usize = 64 << 10;
const PARTS: usize = 48 << 20 >> 16;

/// A file, half of whose parts are on sectors that the device has lost: which ones, a plain direct pread tells.
struct HalfLost {
    disk: SmallDisk,
    lost: Vec<bool>,
}

impl HalfLost {
    fn new() -> Option<Self> {
        let disk = SmallDisk::on_device(64)?;
        let path = disk.path().join("t");
        std::fs::write(&path, pattern(1, PARTS * PART)).unwrap();
        evict(&path);
        disk.device().shrink(32);
        let lost = are_lost(&path);
        let half = Self { disk, lost };
        let counts = [half.lost.contains(&true), (0..PARTS).any(|part| !half.is_near(part))];
        assert_eq!(counts, [true, true], "some parts are lost, others far from what is lost: {:?}", half.lost);
        Some(half)
    }

    fn path(&self) -> std::path::PathBuf {
        self.disk.path().join("t")
    }

    /// Each with where it begins, whether it is lost, and whether I/O of it may fail.
    fn parts(&self, direct: DirectMode) -> impl Iterator<Item = (u64, bool, bool)> + '_ {
        self.lost.iter().enumerate().map(move |(part, lost)| {
            ((part * PART) as u64, *lost, *lost || direct == DirectMode::Off && self.is_near(part))
        })
    }

    /// The page cache reads by folios, of up to 2 MiB: one that begins before the lost sectors and ends in them is not
    /// there as a whole.
    fn is_near(&self, part: usize) -> bool {
        let folio = (2 << 20) / PART;
        let neighbours = part / folio * folio..(part / folio + 1) * folio;
        self.lost[neighbours].contains(&true)
    }
}

fn are_lost(path: &Path) -> Vec<bool> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
    let mut memory = vec![0u8; PART + 4096];
    let start = memory.as_mut_ptr().wrapping_add(memory.as_ptr().align_offset(4096));
    let is_lost = |part: usize| {
        // SAFETY: `PART` bytes from `start` are in `memory`.
        let read = unsafe { libc::pread(file.as_raw_fd(), start.cast(), PART, (part * PART) as i64) };
        match read {
            -1 => assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EIO)),
            // It may come short, up to the first sector that is lost.
            read => return read < PART as isize,
        }
        true
    };
    (0..PARTS).map(is_lost).collect()
}

fn each(what: &'static str, test: fn(&AioHandle, DirectMode, &HalfLost)) {
    crate::each(what, move |backend, direct| {
        let Some(file) = HalfLost::new() else { return };
        test(&crate::handle(backend, direct), direct, &file);
    });
}

#[test]
#[ignore = "needs root: .ci/faults"]
fn reads_fail_where_they_are_lost_and_nowhere_else() {
    each("reads of lost sectors", |aio, direct, half| {
        let (path, content) = (half.path(), pattern(1, PARTS * PART));
        let file = aio.open(&path).unwrap();
        // Whole parts, odd ones, and on the caller's thread.
        for (from, len) in [(0, PART), (1, PART - 2)] {
            let read = |at: u64| file.read(vec![0; len], at + from);
            let tickets: Vec<_> = half.parts(direct).map(|part| (part, read(part.0))).collect();
            for ((at, lost, may_fail), ticket) in tickets {
                match ticket.wait() {
                    Ok(bytes) if !lost => assert!(bytes == content[(at + from) as usize..][..len]),
                    Ok(_) => panic!("Ok at {at}, where it is lost"),
                    Err(failed) => {
                        assert!(may_fail, "{failed}");
                        assert_io(failed.error(), OpKind::Read, libc::EIO, &path, at..at + PART as u64);
                        assert!(failed.to_string().contains("kernel log"), "{failed}");
                    }
                }
            }
        }
        let mut small = vec![0; 8192];
        for (at, _, may_fail) in half.parts(direct) {
            // The end of a part that is lost may be all of it that is.
            let at = at + (PART - small.len()) as u64;
            match file.read_at(&mut small, at) {
                Ok(()) => assert!(small == content[at as usize..][..small.len()]),
                Err(error) => {
                    assert!(may_fail, "{error}");
                    assert_io(&error, OpKind::Read, libc::EIO, &path, at..at + small.len() as u64);
                }
            }
        }
    });
}

#[test]
#[ignore = "needs root: .ci/faults"]
fn a_lost_write_is_told_by_the_write_or_by_the_sync() {
    each("writes to lost sectors", |aio, direct, half| {
        let path = half.path();
        let file = aio.open(&path).unwrap();
        // Odd ranges have edges in the page cache, which cannot be filled where the page is lost.
        for (from, len) in [(0, PART), (5, PART - 10)] {
            let fill = |at: u64| (at / PART as u64) as u8 ^ from as u8;
            let write = |at: u64| file.write(vec![fill(at); len], at + from);
            let writes: Vec<_> = half.parts(direct).map(|part| (part, write(part.0))).collect();
            let (mut untold, mut written) = (0, Vec::new());
            for ((at, lost, may_fail), ticket) in writes {
                match ticket.wait() {
                    Ok(_) if lost => untold += 1,
                    Ok(_) => written.push((at, may_fail)),
                    Err(failed) => {
                        assert!(may_fail, "{failed}");
                        assert_io(failed.error(), OpKind::Write, libc::EIO, &path, at..at + PART as u64);
                    }
                }
            }
            assert!(untold == 0 || direct == DirectMode::Off, "{untold} direct writes were lost and are Ok");
            assert!(untold > 0 || direct != DirectMode::Off || from != 0, "the page cache takes whole pages");
            let synced = file.sync_all().wait();
            let is_synced = synced.is_ok();
            match synced {
                Ok(()) => assert_eq!(untold, 0, "writes into the page cache that were lost, and the sync is Ok"),
                Err(failed) if from == 0 => assert_io(failed.error(), OpKind::Sync, libc::EIO, &path, 0..1),
                // Either it is the first that fails, or it remembers.
                Err(failed) => {
                    let sentence = failed.to_string();
                    assert!(failed.error().raw_os_error() == Some(libc::EIO) || sentence.contains("earlier sync"));
                }
            }
            // What was not lost is on the device; what was on its way with a lost sector may be there or not.
            evict_quietly(&path);
            for (at, _) in written.into_iter().filter(|(_, near)| is_synced && !near) {
                let back = file.read(vec![0; len], at + from).wait().unwrap();
                assert!(back.iter().all(|byte| *byte == fill(at)), "at {at}");
            }
        }
    });
}

/// Of durable writes at the same time, the kernel would tell one of what all of them lost.
#[test]
#[ignore = "needs root: .ci/faults"]
fn durable_writes_at_once_are_all_told() {
    const AT_ONCE: usize = 8;
    each("durable writes to lost sectors", |aio, direct, half| {
        // The first may begin with sectors that are there.
        let lost: Vec<u64> = half.parts(direct).filter(|(_, lost, _)| *lost).map(|(at, ..)| at).skip(1).collect();
        // A whole part, and one that lies within a page.
        for (from, len) in [(0, PART), (5, 100)] {
            for (round, parts) in lost.chunks_exact(AT_ONCE).take(24).enumerate() {
                // A new file each time, as a failure is remembered.
                let file = aio.open(half.path()).unwrap().durable(true);
                let parts = parts.iter().map(|at| at + from);
                let ok = if round % 2 == 0 {
                    let tickets: Vec<_> = parts.map(|at| file.write(vec![round as u8; len], at)).collect();
                    tickets.into_iter().filter_map(|ticket| ticket.wait().ok()).count()
                } else {
                    let len = len.min(8192);
                    std::thread::scope(|scope| {
                        let write = |at| {
                            scope.spawn({
                                let file = &file;
                                move || file.write_at(&vec![round as u8; len], at)
                            })
                        };
                        let writes: Vec<_> = parts.map(write).collect();
                        writes.into_iter().map(|write| write.join().unwrap()).filter(Result::is_ok).count()
                    })
                };
                assert_eq!(ok, 0, "in round {round}: durable writes to lost sectors are Ok");
            }
        }
    });
}

/// `validate` looks at what the device has, so it finds what was lost on its way out of the page cache by itself.
#[test]
#[ignore = "needs root: .ci/faults"]
fn validate_finds_a_lost_write_without_a_sync() {
    each("validated writes to lost sectors", |aio, direct, half| {
        let path = half.path();
        let file = aio.open(&path).unwrap().validated(true);
        for (at, ..) in half.parts(direct).filter(|(_, lost, _)| *lost).take(8) {
            let failed = file.write(vec![3; PART - 1], at + 1).wait().unwrap_err();
            assert_eq!(failed.error().raw_os_error(), Some(libc::EIO), "{failed}");
        }
        // One at a time: an error of the whole file's write-back is everybody's.
        drop(file);
        let file = aio.open(&path).unwrap().validated(true);
        let (at, ..) = half.parts(direct).find(|(.., may_fail)| !may_fail).unwrap();
        file.write(vec![4; PART - 1], at + 1).wait().unwrap();
    });
}

/// Drops what can be dropped; the error that a sync reports has been told.
fn evict_quietly(path: &Path) {
    let file = std::fs::File::open(path).unwrap();
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) }, 0);
}
