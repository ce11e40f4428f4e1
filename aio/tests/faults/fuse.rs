//! Short, late and failed requests, by a file system that makes them to order; see [`crate::troubled_fs`].

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use aio::error::OpKind;
use aio::op::Direction;
use aio::{AioFile, AioHandle, Error, OpenOptions};

use crate::disk::SmallDisk;
use crate::support::random::Random;
use crate::support::{Folder, evict, pattern, until};
use crate::troubled_fs::{Asked, Fate, How, TroubledFs, name_of};
use crate::workload::Workload;
use crate::{assert_io, handle};

const LEN: usize = 256 << 10;

/// One request after the other, so that short writes are possible.
const ONE_BY_ONE: bool = false;
const AT_ONCE: bool = true;

/// Every backend and file mode, with the page cache of the kernel and without.
fn each(what: &'static str, at_once: bool, test: fn(&AioHandle, &TroubledFs)) {
    for bypass_cache in [false, true] {
        crate::each(what, move |backend, direct| {
            let Some(fs) = TroubledFs::mount(How { bypass_cache, at_once }) else { return };
            let aio = handle(backend, direct);
            test(&aio, &fs);
            drop(aio);
        });
    }
}

#[test]
#[ignore = "needs root: .ci/faults"]
fn short_transfers_are_resumed() {
    each("short transfers", ONE_BY_ONE, |aio, fs| resumes(aio, fs, &fs.path("t"), "t"));
}

/// Nothing says that it is FUSE.
#[test]
#[ignore = "needs root: .ci/faults"]
fn a_server_that_does_not_say_what_it_is() {
    each("short transfers of a server without statfs", ONE_BY_ONE, |aio, fs| {
        fs.refuse_statfs(libc::ENOSYS);
        resumes(aio, fs, &fs.path("t"), "t");
    });
}

/// Nor does an overlay say so of the file that lies below it: the ring transfers its blocks.
#[test]
#[ignore = "needs root: .ci/faults"]
fn an_overlay_over_it() {
    each("short transfers below an overlay", ONE_BY_ONE, |aio, fs| {
        let Some(overlay) = SmallDisk::overlay_on(&fs.path("")) else { return };
        resumes(aio, fs, &overlay.path().join("t"), "upper/t");
        let content = pattern(1, 10_000);
        std::fs::write(fs.path("lower/u"), &content).unwrap();
        let file = aio.open_with(overlay.path().join("u"), &OpenOptions::new().read(true)).unwrap();
        ends(&file, &content);
        file.close().unwrap();
    });
}

/// The file at `path` is the one that the file system knows as `name`.
fn resumes(aio: &AioHandle, fs: &TroubledFs, path: &Path, name: &str) {
    let file = aio.create(path).unwrap();
    fs.plan(|asked| match asked {
        Asked { cached: true, direction: Direction::Read, .. } => Fate::Serve,
        // By bytes that no alignment allows, and by whole sectors.
        Asked { number, len, .. } if number % 3 == 0 => Fate::Short(1 + (number * 977) % len),
        Asked { number, len, .. } if number % 3 == 1 => Fate::Short((len / 2).max(1).next_multiple_of(512)),
        _ => Fate::Serve,
    });
    let content = pattern(1, LEN + 333);
    file.write(content.clone(), 0).wait().unwrap();
    assert!(aio.stats().short_transfers > 0, "nothing came short");
    assert!(fs.content(name) == content);
    evict(path);
    assert!(file.read(vec![0; content.len()], 0).wait().unwrap() == content);
    // On the caller's thread.
    let mut some = vec![0; 12_000];
    for at in [0, 4096, 5001] {
        file.read_at(&mut some, at as u64).unwrap();
        assert!(some == content[at..][..12_000]);
        file.write_at(&pattern(at as u64, 12_000), 100_000 + at as u64).unwrap();
        assert!(fs.content(name)[100_000 + at..][..12_000] == pattern(at as u64, 12_000));
    }
    fs.plan(|_| Fate::Serve);
    file.close().unwrap();
}

/// A read that the end of the file cuts short is not continued at its beginning.
#[test]
#[ignore = "needs root: .ci/faults"]
fn the_end_of_a_file_is_its_end() {
    for at_once in [ONE_BY_ONE, AT_ONCE] {
        each("the end of a file", at_once, |aio, fs| {
            let content = pattern(1, 10_000);
            let path = fs.path("t");
            aio.write_new(&path, content.clone()).wait().unwrap();
            ends(&aio.open(&path).unwrap(), &content);
        });
    }
}

fn ends(file: &AioFile, content: &[u8]) {
    for (from, len) in [(0, 16_384), (4096, 8192), (0, 40_000), (1, 12_000)] {
        let mut memory = vec![0; len];
        let failures = [
            file.read_at(&mut memory, from as u64).unwrap_err(),
            file.read(vec![0; len], from as u64).wait().unwrap_err().into_error(),
        ];
        for error in failures {
            let Error::UnexpectedEof { read, .. } = error else { panic!("{error}") };
            assert_eq!(read as usize, content.len() - from, "{error}");
        }
        let failed = file.read(vec![0; len], from as u64).wait().unwrap_err();
        assert!(failed.into_buffer().unwrap()[..content.len() - from] == content[from..]);
    }
}

#[test]
#[ignore = "needs root: .ci/faults"]
fn an_error_is_told_where_it_is_and_disturbs_nobody() {
    each("errors of a file system", AT_ONCE, |aio, fs| {
        const PART: usize = 32 << 10;
        for (direction, op, errno) in [
            (Direction::Write, OpKind::Write, libc::ENOSPC),
            (Direction::Write, OpKind::Write, libc::EIO),
            (Direction::Read, OpKind::Read, libc::EIO),
        ] {
            let path = fs.path(&format!("{op}{errno}"));
            let content = pattern(1, LEN);
            let file = aio.create(&path).unwrap();
            file.write(content.clone(), 0).wait().unwrap();
            evict(&path);
            // In the third part, not at its start.
            let bad = 2 * PART as u64 + 20_480;
            fs.plan(move |asked| {
                let hit = (asked.offset..asked.offset + asked.len as u64).contains(&bad);
                if asked.direction == direction && hit { Fate::Fail(errno) } else { Fate::Serve }
            });
            let write = direction == Direction::Write;
            let start = |part: usize| {
                let (memory, at) = (pattern(if write { 2 } else { 3 } + part as u64, PART), (part * PART) as u64);
                if write { file.write(memory, at) } else { file.read(memory, at) }
            };
            let tickets: Vec<_> = (0..LEN / PART).map(start).collect();
            for (part, ticket) in tickets.into_iter().enumerate() {
                match ticket.wait() {
                    Err(failed) => {
                        assert_eq!(part, 2, "{failed}");
                        let range = 2 * PART as u64..3 * PART as u64;
                        assert_io(failed.error(), op, errno, &path, range);
                        let Error::Io(io) = failed.error() else { unreachable!() };
                        assert!(io.range().is_some_and(|failed| failed.contains(&bad)), "{failed}");
                    }
                    Ok(_) if part == 2 => panic!("Ok where the file system failed"),
                    Ok(memory) if write => assert!(fs.content(name_of(&path))[part * PART..][..PART] == memory),
                    Ok(memory) => assert!(memory == content[part * PART..][..PART]),
                }
            }
            assert!(!fs.failures().is_empty());
            fs.plan(|_| Fate::Serve);
            file.write(content.clone(), 0).wait().unwrap();
            assert!(file.read(vec![0; LEN], 0).wait().unwrap() == content);
        }
    });
}

#[test]
#[ignore = "needs root: .ci/faults"]
fn what_means_again_is_tried_again() {
    each("EINTR and EAGAIN", AT_ONCE, |aio, fs| {
        let path = fs.path("t");
        let file = aio.create(&path).unwrap();
        fs.plan(|asked| match Random::new(asked.number as u64 + 1).below(6) {
            0 => Fate::Fail(libc::EINTR),
            1 => Fate::Fail(libc::EAGAIN),
            _ => Fate::Serve,
        });
        let content = pattern(1, LEN + 77);
        file.write(content.clone(), 0).wait().unwrap();
        evict(&path);
        assert!(file.read(vec![0; content.len()], 0).wait().unwrap() == content);
        file.write_at(&pattern(2, 5000), 8192).unwrap();
        evict(&path);
        let mut back = vec![0; 5000];
        file.read_at(&mut back, 8192).unwrap();
        assert!(back == pattern(2, 5000) && fs.content("t")[8192..13_192] == back);
        assert!(aio.stats().retries > 0 && !fs.failures().is_empty());
    });
}

#[test]
#[ignore = "needs root: .ci/faults"]
fn answers_come_in_any_order() {
    /// Over all backends and modes: some have only one request with the file system at a time.
    static OVERTAKEN: AtomicUsize = AtomicUsize::new(0);
    each("late answers", AT_ONCE, |aio, fs| {
        let path = fs.path("t");
        let file = aio.create(&path).unwrap();
        let content = pattern(1, LEN);
        file.write(vec![0; LEN], 0).wait().unwrap();
        fs.plan(|asked| if asked.number % 5 < 3 { Fate::Late } else { Fate::Serve });
        let parts = content.chunks(10_000).enumerate();
        let writes: Vec<_> = parts.map(|(i, part)| file.write(part.to_vec(), i as u64 * 10_000)).collect();
        writes.into_iter().for_each(|ticket| drop(ticket.wait().unwrap()));
        assert!(fs.content("t") == content);
        evict(&path);
        let reads: Vec<_> = (0..LEN / 8192).map(|i| file.read(vec![0; 8192], i as u64 * 8192)).collect();
        for (i, ticket) in reads.into_iter().enumerate() {
            assert!(ticket.wait().unwrap() == content[i * 8192..][..8192]);
        }
        OVERTAKEN.fetch_add(fs.overtaken(), Ordering::SeqCst);
    });
    // Where there is no FUSE, that was said.
    if TroubledFs::mount(How { bypass_cache: true, at_once: AT_ONCE }).is_some() {
        assert!(OVERTAKEN.load(Ordering::SeqCst) > 0, "no answer was overtaken");
    }
}

#[test]
#[ignore = "needs root: .ci/faults"]
fn a_sync_that_fails_says_so() {
    each("a failed sync", AT_ONCE, |aio, fs| {
        let path = fs.path("t");
        for errno in [libc::EIO, libc::ENOSPC, libc::EDQUOT] {
            let file = aio.create(&path).unwrap();
            file.write(vec![1; 10_000], 0).wait().unwrap();
            fs.fail_sync(errno);
            let failed = file.sync_data().wait().unwrap_err();
            assert_io(failed.error(), OpKind::Sync, errno, &path, 0..1);
            // The kernel has told it, and says Ok from now on.
            let again = file.sync_all().wait().unwrap_err().to_string();
            assert!(again.contains("an earlier sync of this file failed"), "{again}");
            file.close().unwrap();
        }
        aio.open(&path).unwrap().sync_all().wait().unwrap();
    });
}

/// The kernel makes no request of `RWF_DSYNC`.
#[test]
#[ignore = "needs root: .ci/faults"]
fn a_durable_write_asks_for_a_sync_and_fails_with_it() {
    type Write = fn(&aio::AioFile) -> Result<(), Error>;
    const WAYS: [Write; 3] = [
        |file| file.write(pattern(2, 8192), 4096).wait().map(drop).map_err(Error::from),
        |file| file.write(pattern(2, 1000), 5).wait().map(drop).map_err(Error::from),
        |file| file.write_at(&pattern(2, 4096), 4096),
    ];
    each("a durable write", AT_ONCE, |aio, fs| {
        // Also what elsewhere means "again", or "refused".
        for errno in [libc::EIO, libc::EFBIG, libc::EINVAL, libc::EBADF, libc::EAGAIN, libc::EINTR] {
            for way in WAYS {
                let file = aio.create(fs.path("t")).unwrap();
                file.write(pattern(1, 65_536), 0).wait().unwrap();
                file.sync_data().wait().unwrap();
                way(&file.durable(true)).unwrap();
                file.write(pattern(3, 65_536), 0).wait().unwrap();
                fs.fail_sync(errno);
                assert_io(&way(&file.durable(true)).unwrap_err(), OpKind::Sync, errno, &fs.path("t"), 0..1);
                let later = file.sync_data().wait().unwrap_err().to_string();
                assert!(later.contains("an earlier sync"), "{later}");
            }
        }
    });
}

/// Its plan is random, and repeated by the seed. An op fails if and only if a request in its range did, with that error.
#[test]
#[ignore = "needs root: .ci/faults"]
fn random_trouble() {
    each("random trouble", ONE_BY_ONE, |aio, fs| {
        for seed in 1..4 {
            let name = format!("t{seed}");
            fs.plan(|_| Fate::Serve);
            let mut workload = Workload::new(aio, &fs.path(&name), seed);
            fs.plan(move |asked| {
                let mut random = Random::new(seed * 1_000_003 + asked.number as u64);
                let may_be_short = !(asked.cached && asked.direction == Direction::Read);
                match random.below(60) {
                    0..10 => Fate::Late,
                    10..20 if may_be_short => Fate::Short(1 + random.below(asked.len)),
                    20..24 => Fate::Fail(random.of(&[libc::EINTR, libc::EAGAIN])),
                    24 => Fate::Fail(if asked.direction == Direction::Read { libc::EIO } else { libc::ENOSPC }),
                    _ => Fate::Serve,
                }
            });
            let all = std::cell::RefCell::new(Vec::new());
            workload.truth = Box::new(|| fs.content(&name));
            workload.excuse = Box::new(move |op, error| {
                all.borrow_mut().extend(fs.failures());
                let Error::Io(io) = error else { return false };
                let Some(failed) = io.range() else { return false };
                // The page cache reads and writes by pages, and reads ahead by many.
                let failed = failed.start..failed.end.max(failed.start + 1);
                let direction = |asked: &Asked| (asked.direction == Direction::Write) == op.write;
                (op.range.start as u64..op.range.end as u64).contains(&failed.start)
                    && all.borrow().iter().any(|(asked, errno)| {
                        let pages =
                            asked.offset / 4096 * 4096..(asked.offset + asked.len as u64).next_multiple_of(4096);
                        let meets = pages.start < failed.end && failed.start < pages.end;
                        meets
                            && io.source.raw_os_error() == Some(*errno)
                            && ![libc::EINTR, libc::EAGAIN].contains(errno)
                            // A write into part of a page has to read it first.
                            && (direction(asked) || op.write && asked.cached)
                    })
            });
            for batch in 0..8 {
                workload.batch(batch);
            }
            assert!(workload.failed > 0, "nothing failed");
            fs.plan(|_| Fate::Serve);
            workload.run(1);
        }
    });
}

#[test]
#[ignore = "needs root: .ci/faults"]
fn a_device_that_is_pulled_fails_what_is_in_flight() {
    each("a file system that goes away", AT_ONCE, |aio, fs| {
        let path = fs.path("t");
        let file = aio.create(&path).unwrap();
        file.write(vec![1; LEN], 0).wait().unwrap();
        evict(&path);
        fs.plan(|_| Fate::Hang);
        let reads: Vec<_> = (0..4).map(|i| file.read(vec![0; 16 << 10], i * (16 << 10))).collect();
        let writes: Vec<_> = (8..12).map(|i| file.write(vec![2; 16 << 10], i * (16 << 10))).collect();
        // Other files are none the worse for it.
        let folder = Folder::new();
        let other = aio.create(folder.path("other")).unwrap();
        until(|| fs.hung() > 0);
        fs.abort();
        for ticket in reads.into_iter().chain(writes) {
            let failed = ticket.wait().unwrap_err();
            let gone = [libc::ECONNABORTED, libc::ENOTCONN, libc::EIO, libc::ENOENT];
            assert!(failed.error().raw_os_error().is_some_and(|errno| gone.contains(&errno)), "{failed}");
            assert!(failed.to_string().contains(&*path.to_string_lossy()), "{failed}");
        }
        assert!(file.sync_all().wait().is_err());
        other.write(pattern(1, LEN), 0).wait().unwrap();
        assert!(other.read(vec![0; LEN], 0).wait().unwrap() == pattern(1, LEN));
    });
}
