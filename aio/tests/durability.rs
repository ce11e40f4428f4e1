//! What is on the device when the library says so: power failures, crashes, and syncs that fail.

#[path = "support/disk.rs"]
mod disk;
mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};

use aio::{AioFile, AioHandle, DirectMode, Error};
use aio_core::CommitStep;
use aio_core::backend::IoBlock;
use aio_testkit::fault::{Fate, Rules};
use disk::SmallDisk;
use support::{Folder, backends, each, pattern};

const STEPS: [CommitStep; 4] =
    [CommitStep::Synced, CommitStep::Closed, CommitStep::Renamed, CommitStep::FolderSynced];

/// On ext4 on a loop device, on each backend, direct and through the page cache.
fn on_small_disks(test: impl Fn(&AioHandle, &SmallDisk)) {
    for backend in backends() {
        for direct in [DirectMode::Auto, DirectMode::Off] {
            let Some(disk) = SmallDisk::new(64) else { return };
            let aio = aio::builder().backend(backend).direct(direct).block_size(64 << 10).build().unwrap();
            test(&aio, &disk);
        }
    }
}

/// The contents of a file after the power failed now; `None` if it is not there.
fn after_power_failure(disk: &SmallDisk, name: &str) -> Option<Vec<u8>> {
    let survivor = disk.after_power_failure().expect("what could be mounted once can be mounted again");
    std::fs::read(survivor.path().join(name)).ok()
}

#[test]
fn durable_writes_survive_a_power_failure() {
    on_small_disks(|aio, disk| {
        // Into what is there: direct, staged (an odd address), and edges that go through the page cache.
        let path = disk.path().join("t");
        let before = pattern(1, 300_000);
        std::fs::write(&path, &before).unwrap();
        let file = aio.open(&path).unwrap();
        file.sync_all().wait().unwrap();
        let durable = file.durable(true);
        let mut expected = before;
        for (seed, offset, len) in [(2, 8192, 131_072), (3, 5, 10), (4, 100_001, 70_000)] {
            let bytes = pattern(seed, len);
            expected[offset..offset + len].copy_from_slice(&bytes);
            durable.write(bytes, offset as u64).wait().unwrap();
            assert!(after_power_failure(disk, "t").unwrap() == expected, "{len} bytes at {offset}");
        }
        // From memory that the kernel may know, and as small neighbours, which may become one system call.
        let mut buffer = aio.alloc(65_536).unwrap();
        buffer.copy_from_slice(&pattern(8, 65_536));
        expected[65_536..131_072].copy_from_slice(&buffer);
        durable.write(buffer, 65_536).wait().unwrap();
        assert!(after_power_failure(disk, "t").unwrap() == expected, "from the arena");
        let pages: Vec<_> = (0..16).map(|page| (page * 4096, pattern(20 + page, 4096))).collect();
        for (offset, bytes) in &pages {
            expected[*offset as usize..][..4096].copy_from_slice(bytes);
        }
        durable.write_vectored(pages).wait().unwrap();
        assert!(after_power_failure(disk, "t").unwrap() == expected, "small neighbours");
        // On the caller's thread.
        expected[4096..8192].copy_from_slice(&pattern(5, 4096));
        durable.write_at(&pattern(5, 4096), 4096).unwrap();
        assert!(after_power_failure(disk, "t").unwrap() == expected);
        // Past the end, which was allocated before.
        expected.extend(pattern(6, 200_000));
        durable.write(pattern(6, 200_000), 300_000).wait().unwrap();
        assert!(after_power_failure(disk, "t").unwrap() == expected);
        durable.validated(true).write(pattern(7, 4096), 0).wait().unwrap();
        expected[..4096].copy_from_slice(&pattern(7, 4096));
        assert!(after_power_failure(disk, "t").unwrap() == expected);
    });
}

#[test]
fn durable_writes_by_path_survive_a_power_failure() {
    on_small_disks(|aio, disk| {
        let aio = aio.durable(true);
        let path = disk.path().join("t");
        std::fs::write(&path, pattern(1, 200_000)).unwrap();
        aio.open(&path).unwrap().sync_all().wait().unwrap();
        // Shorter than it was, so that it is cut.
        aio.write_path(&path, pattern(2, 100_000)).wait().unwrap();
        assert!(after_power_failure(disk, "t").unwrap() == pattern(2, 100_000));
    });
}

#[test]
fn a_sync_makes_what_was_written_before_durable() {
    on_small_disks(|aio, disk| {
        for sync in [AioFile::sync_data, AioFile::sync_all] {
            let path = disk.path().join("t");
            let file = aio.create(&path).unwrap();
            file.set_len(0).wait().unwrap();
            let writes: Vec<_> = (0..10).map(|at| file.write(pattern(at + 1, 30_001), at * 30_001)).collect();
            let synced = sync(&file);
            writes.into_iter().for_each(|write| drop(write.wait().unwrap()));
            synced.wait().unwrap();
            // The name of a new file takes a sync of its folder.
            std::fs::File::open(disk.path()).unwrap().sync_all().unwrap();
            let expected: Vec<u8> = (0..10).flat_map(|at| pattern(at + 1, 30_001)).collect();
            assert!(after_power_failure(disk, "t").unwrap() == expected);
        }
    });
}

#[test]
fn a_replaced_file_survives_a_power_failure_at_every_step() {
    on_small_disks(|aio, disk| {
        let mut old = None;
        for new in [pattern(1, 250_000), pattern(2, 200_000)] {
            let file = aio.create_atomic(disk.path().join("t")).unwrap();
            file.write(new.clone(), 0).wait().unwrap();
            assert!(after_power_failure(disk, "t") == old, "before the commit");
            // The commit stops after each step until that was looked at.
            let (reached, steps) = mpsc::channel();
            let (go_on, looked_at) = mpsc::channel();
            let commit = file.commit_in_steps(move |step| {
                reached.send(step).unwrap();
                looked_at.recv().unwrap();
            });
            let mut seen = Vec::new();
            for step in steps {
                let found = after_power_failure(disk, "t");
                let is_new = found.as_ref() == Some(&new);
                assert!(is_new || step != CommitStep::FolderSynced && found == old, "after {step:?}");
                seen.push(step);
                go_on.send(()).unwrap();
            }
            commit.wait().unwrap();
            assert_eq!(seen, STEPS);
            old = Some(new);
        }
    });
}

/// The variable that tells a copy of this test at which step it dies, and where.
const DIES: &str = "DURABILITY_DIES_AT";

#[test]
fn a_process_that_dies_leaves_the_old_file_or_the_new_one() {
    let old = pattern(1, 100_000);
    for step in 0..=STEPS.len() {
        let folder = Folder::new();
        let target = folder.file("t", &old);
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "dies_while_it_replaces_a_file", "--nocapture"])
            .env(DIES, format!("{step} {}", target.display()))
            .output()
            .unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.status), Some(libc::SIGKILL), "{child:?}");
        let renamed = step > 2;
        assert!(std::fs::read(&target).unwrap() == if renamed { pattern(2, 150_000) } else { old.clone() }, "{step}");
        let names: Vec<_> =
            std::fs::read_dir(folder.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        let leftovers = names.iter().filter(|name| *name != "t").map(|name| name.to_str().unwrap());
        let leftovers: Vec<_> = leftovers.collect();
        assert_eq!(leftovers.len(), usize::from(!renamed), "{leftovers:?}");
        assert!(leftovers.iter().all(|name| name.starts_with(".t.") && name.ends_with(".tmp")), "{leftovers:?}");
    }
}

/// Not a test by itself.
#[test]
fn dies_while_it_replaces_a_file() {
    let Ok(role) = std::env::var(DIES) else { return };
    let (dies_at, target) = role.split_once(' ').unwrap();
    let dies_at: usize = dies_at.parse().unwrap();
    let die = || {
        // SAFETY: ends the process, and nothing else.
        unsafe { libc::raise(libc::SIGKILL) };
    };
    let aio = aio::builder().build().unwrap();
    let file = aio.create_atomic(target).unwrap();
    file.write(pattern(2, 150_000), 0).wait().unwrap();
    if dies_at == 0 {
        die();
    }
    let commit = file.commit_in_steps(move |step| {
        if STEPS[dies_at - 1] == step {
            die();
        }
    });
    commit.wait().unwrap();
    panic!("it should be dead");
}

fn only(folder: &Folder, name: &str) {
    let names: Vec<PathBuf> =
        std::fs::read_dir(folder.path("")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(names, [folder.path(name)]);
}

#[test]
fn a_file_is_replaced_as_a_whole() {
    each(|_, aio, folder| {
        let target = folder.path("t");
        let file = aio.create_atomic(&target).unwrap();
        assert_eq!(file.target(), target.canonicalize().unwrap_or(target.clone()));
        // Their tickets are dropped: the commit waits for them all the same.
        drop(file.write(pattern(1, 50_000), 0));
        drop(file.write(pattern(2, 50_000), 50_000));
        assert!(!target.exists());
        file.commit().wait().unwrap();
        assert!(std::fs::read(&target).unwrap() == [pattern(1, 50_000), pattern(2, 50_000)].concat());
        only(folder, "t");

        std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o640)).unwrap();
        let file = aio.create_atomic(&target).unwrap();
        file.write_at(b"new", 0).unwrap();
        assert_eq!(std::fs::metadata(&target).unwrap().len(), 100_000);
        file.commit().wait().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
        assert_eq!(std::fs::metadata(&target).unwrap().permissions().mode() & 0o7777, 0o640);
        only(folder, "t");

        // A new file is one like any other.
        std::fs::remove_file(&target).unwrap();
        let plain = folder.path("plain");
        std::fs::write(&plain, b"").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode();
        aio.create_atomic(&target).unwrap().commit().wait().unwrap();
        assert_eq!(mode(&target), mode(&plain));
        std::fs::remove_file(plain).unwrap();

        // Dropped, it never was.
        drop(aio.create_atomic(&target).unwrap().write(vec![1; 100], 0));
        only(folder, "t");
        assert_eq!(std::fs::read(&target).unwrap(), b"");
        std::fs::remove_file(&target).unwrap();
    });
}

#[test]
fn a_symbolic_link_stays_one() {
    each(|_, aio, folder| {
        let (target, link) = (folder.file("t", b"old"), folder.path("link"));
        std::os::unix::fs::symlink("t", &link).unwrap();
        let file = aio.create_atomic(&link).unwrap();
        file.write_at(b"new", 0).unwrap();
        file.commit().wait().unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
        std::fs::remove_file(&link).unwrap();
    });
}

#[test]
fn what_cannot_be_replaced_is_a_sentence() {
    each(|_, aio, folder| {
        let refused = |path: PathBuf, why: &str| {
            let error = aio.create_atomic(&path).unwrap_err().to_string();
            assert!(error.contains(why) && error.starts_with("cannot open "), "{error}");
        };
        refused(folder.path(""), "Is a directory");
        refused("/dev/null".into(), "it is a character device");
        refused(folder.path("missing/t"), "No such file");
        refused("..".into(), "Is a directory");
        refused(folder.path("missing/.."), "Is a directory");
        refused(folder.path(&"x".repeat(300)), "File name too long");
        // As long as a name can be.
        let long = folder.path(&"x".repeat(255));
        aio.create_atomic(&long).unwrap().commit().wait().unwrap();
        std::fs::remove_file(long).unwrap();
        assert_eq!(folder.count(), 0);
    });
}

#[test]
fn a_failed_write_is_not_committed() {
    each(|_, aio, folder| {
        let target = folder.file("t", b"old");
        type Spoil = fn(&AioFile);
        let spoils: [Spoil; 3] = [
            // A failure that was not looked at,
            |file| drop(file.write(vec![0; 10_000], i64::MAX as u64 - 20_000)),
            // one that was looked at,
            |file| drop(file.write(vec![0; 100], u64::MAX - 10).wait().unwrap_err()),
            |file| drop(file.write_at(&[0; 100], u64::MAX - 10).unwrap_err()),
        ];
        for spoil in spoils {
            let file = aio.create_atomic(&target).unwrap();
            file.write(vec![1; 100], 0).wait().unwrap();
            spoil(&file);
            let error = file.commit().wait().unwrap_err().into_error();
            assert!(matches!(error, Error::InvalidInput(_)), "{error}");
            assert!(error.to_string().contains("is not replaced: a write to its new contents failed"), "{error}");
            assert_eq!(std::fs::read(&target).unwrap(), b"old");
            only(folder, "t");
        }
        // And what failed in one file is not held against the next.
        let file = aio.create_atomic(&target).unwrap();
        file.write_at(b"new", 0).unwrap();
        file.commit().wait().unwrap();
        let _ = aio.wait();
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
    });
}

#[test]
fn a_full_disk_leaves_the_old_file() {
    on_small_disks(|aio, disk| {
        let target = disk.path().join("t");
        std::fs::write(&target, b"old").unwrap();
        let free = disk.free();
        let file = aio.create_atomic(&target).unwrap();
        let failed = file.write(vec![1; 80 << 20], 0).wait().unwrap_err();
        assert_eq!(failed.error().raw_os_error(), Some(libc::ENOSPC), "{failed}");
        assert!(file.commit().wait().is_err());
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
        assert_eq!((std::fs::read_dir(disk.path()).unwrap().count(), disk.free()), (2, free), "with lost+found");
    });
}

/// Fails what is written on the thread of a caller.
#[derive(Debug)]
struct NoTransfer;

impl Rules for NoTransfer {
    fn transfer(&self, _block: &IoBlock) -> Fate {
        Fate::End(Err(std::io::Error::from_raw_os_error(libc::EIO)))
    }
}

#[test]
fn a_failed_blocking_write_is_not_committed() {
    for backend in backends() {
        let (aio, _) = support::gated(backend, &Arc::new(NoTransfer), support::small(1, 4, DirectMode::Auto));
        let folder = Folder::new();
        let target = folder.file("t", b"old");
        let file = aio.create_atomic(&target).unwrap();
        file.write(pattern(1, 8192), 0).wait().unwrap();
        let failed = file.durable(true).write_at(&[1; 4096], 0).unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(libc::EIO), "{failed}");
        assert!(matches!(file.commit().wait().unwrap_err().error(), Error::InvalidInput(_)));
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
        only(&folder, "t");
    }
}

/// Linux tells of a lost write once, and a second fsync succeeds. Not so here.
#[test]
fn a_failed_sync_stays_failed() {
    for backend in backends() {
        let Some(disk) = SmallDisk::on_device(64) else { return };
        let aio = aio::builder().backend(backend).direct(DirectMode::Off).build().unwrap();
        let path = disk.path().join("t");
        let file = aio.create(&path).unwrap();
        file.write(pattern(1, 1 << 20), 0).wait().unwrap();
        file.sync_all().wait().unwrap();
        let other = aio.open(&path).unwrap();
        file.write(pattern(2, 1 << 20), 0).wait().unwrap();
        disk.device().shrink(4);
        let first = file.sync_data().wait().unwrap_err();
        assert_eq!(first.error().raw_os_error(), Some(libc::EIO), "{first}");
        for file in [&file, &other] {
            for sync in [file.sync_data(), file.sync_all()] {
                let again = sync.wait().unwrap_err().to_string();
                assert!(again.contains("an earlier sync of this file failed (I/O error)"), "{again}");
            }
        }
        // Reads and writes are not refused.
        file.write_at(&[3; 100], 0).unwrap();
        let mut byte = [0];
        other.read_at(&mut byte, 50).unwrap();
        assert_eq!(byte, [3]);
    }
}
