//! An open file works on, whatever becomes of its permissions and of the limits of the process.

mod support;

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};

use aio::{AioHandle, DirectMode, Error, OpenOptions, Result, Ticket};
use aio_testkit::conformance::refusing;
use aio_testkit::fault::Plain;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use support::child::alone;
use support::users::{as_nobody, give_to_nobody, nobodys, set_mode};
use support::{Folder, backends, each, each_backend, gated, pattern, small};

/// Whole pages, and an odd length, of which some goes through the page cache.
const LENGTHS: [usize; 2] = [8192, 5000];

fn names(folder: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}

/// Runs it while `more` descriptors can be had.
fn with_descriptors<T>(more: usize, run: impl FnOnce() -> T) -> T {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // The next numbers need not follow each other: what was inherited may lie in between.
    let next: Vec<_> = (0..=more).map(|_| File::open("/dev/null").unwrap()).collect();
    setrlimit(Resource::RLIMIT_NOFILE, next[more].as_raw_fd() as u64, hard).unwrap();
    drop(next);
    let result = run();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    result
}

#[test]
fn what_is_open_needs_no_more_descriptors() {
    alone("what_is_open_needs_no_more_descriptors", || {
        each(|_, aio, folder| {
            let content = pattern(1, 100_000);
            let file = aio.open(folder.file("t", &content)).unwrap();
            let target = folder.file("target", b"old");
            let new = aio.create_atomic(&target).unwrap();
            // Keeps it open, so that the commit cannot just close it.
            let _clone = (*new).clone();
            with_descriptors(0, || {
                let error = aio.open(&target).unwrap_err();
                assert!(error.to_string().contains("ulimit -n"), "{error}");
                assert!(file.read(vec![0; 99_999], 1).wait().unwrap() == content[1..]);
                file.read_at(&mut [0; 100], 7).unwrap();
                file.write(content[1..5000].to_vec(), 1).wait().unwrap();
                file.validated(true).write(content[1..5000].to_vec(), 1).wait().unwrap();
                file.durable(true).write_at(&content[7..100], 7).unwrap();
                file.sync_all().wait().unwrap();
                new.write(pattern(2, 5000), 0).wait().unwrap();
                new.commit().wait().unwrap();
                file.close().unwrap();
            });
            assert!(fs::read(folder.path("t")).unwrap() == content);
            assert!(fs::read(&target).unwrap() == pattern(2, 5000));
        });
    });
}

/// However few descriptors are left: all that is needed is had at first, or nothing, and then nothing is left behind.
#[test]
fn what_is_opened_needs_no_more_descriptors_or_is_not_opened() {
    alone("what_is_opened_needs_no_more_descriptors_or_is_not_opened", || {
        each(|_, aio, folder| {
            let dir = folder.path("");
            let (target, made) = (folder.file("target", &pattern(1, 5000)), folder.path("made"));
            let open = || -> Result<()> {
                let file = aio.open(&target)?;
                file.write(pattern(1, 5000), 0).wait().unwrap();
                file.read_at(&mut [0; 100], 7).unwrap();
                Ok(())
            };
            let create = || -> Result<()> {
                let file = aio.open_with(&made, &OpenOptions::new().read(true).create_new(true))?;
                file.write(pattern(1, 5000), 0).wait().unwrap();
                fs::remove_file(&made).unwrap();
                Ok(())
            };
            let replace = || -> Result<()> {
                let new = aio.create_atomic(&target)?;
                let _clone = (*new).clone();
                new.write(pattern(1, 5000), 0).wait().unwrap();
                new.commit().wait().unwrap();
                Ok(())
            };
            let calls: [&dyn Fn() -> Result<()>; 3] = [&open, &create, &replace];
            for call in calls {
                let mut refused = 0;
                while let Err(error) = with_descriptors(refused, call) {
                    assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
                    assert_eq!(names(&dir), [target.as_path()]);
                    refused += 1;
                    assert!(refused < 20, "it takes no more than a few: {error}");
                }
                assert_ne!(refused, 0);
                assert!(fs::read(&target).unwrap() == pattern(1, 5000));
            }
        });
    });
}

/// Workers that open many files at once: a file that another op has open is waited for, and a half-opened one given up.
#[test]
fn ops_by_path_wait_for_the_descriptors_of_each_other() {
    alone("ops_by_path_wait_for_the_descriptors_of_each_other", || {
        for backend in backends() {
            let aio = aio::builder().backend(backend).threads(8).build().unwrap();
            let folder = Folder::new();
            let path = |index: usize| folder.path(&index.to_string());
            let odd = folder.file("odd", &pattern(1, 10_001));
            // One for whole pages; odd lengths need two at a time.
            let (pages, odd_len) = (270_336, 270_001);
            for (more, len) in [(1, pages), (1, odd_len), (2, odd_len), (5, odd_len), (9, pages)] {
                let enough = more > 1 || len != odd_len;
                with_descriptors(more, || {
                    let new = |index: usize| aio.write_new(path(index), pattern(1, len));
                    let whole = |index: usize| aio.write_path(path(index), pattern(1, len));
                    let writes: [&dyn Fn(usize) -> Ticket<Vec<u8>>; 2] = [&new, &whole];
                    for write in writes {
                        let tickets: Vec<_> = (0..40).map(write).collect();
                        for ticket in tickets {
                            let errno = ticket.wait().err().map(|failed| failed.error().raw_os_error());
                            assert_eq!(errno, if enough { None } else { Some(Some(libc::EMFILE)) });
                        }
                    }
                    // The end of the file lies inside a page.
                    let tickets: Vec<_> = (0..40).map(|_| aio.read_path(&odd, vec![0; 12_288])).collect();
                    for ticket in tickets {
                        let error = ticket.wait().unwrap_err().into_error();
                        let met = matches!(error, Error::UnexpectedEof { read: 10_001, .. });
                        assert!(met || more == 1, "{error}");
                    }
                });
                for index in 0..40 {
                    assert!(!enough || fs::read(path(index)).unwrap() == pattern(1, len));
                    let _may_be_there = fs::remove_file(path(index));
                }
            }
        }
    });
}

/// Each grows a file that ends inside a page, so that it is opened by one thread, and goes on by another, with a
/// permit.
#[test]
fn many_ops_that_hold_files_while_they_wait_leave_descriptors_to_others() {
    alone("many_ops_that_hold_files_while_they_wait_leave_descriptors_to_others", || {
        for backend in backends() {
            let (aio, folder) = (aio::builder().backend(backend).build().unwrap(), Folder::new());
            let paths: Vec<_> = (0..500).map(|index| folder.path(&index.to_string())).collect();
            paths.iter().for_each(|path| fs::write(path, pattern(1, 5001)).unwrap());
            for more in [4, 200] {
                with_descriptors(more, || {
                    let tickets: Vec<_> = paths.iter().map(|path| aio.write_path(path, pattern(2, 9000))).collect();
                    tickets.into_iter().for_each(|ticket| drop(ticket.wait().unwrap()));
                });
                for path in &paths {
                    assert!(fs::read(path).unwrap() == pattern(2, 9000));
                    fs::write(path, pattern(1, 5001)).unwrap();
                }
            }
        }
    });
}

#[test]
fn an_op_by_path_does_not_wait_for_files_that_stay_open() {
    alone("an_op_by_path_does_not_wait_for_files_that_stay_open", || {
        each_backend("an op by path beside one in flight", |backend, direct| {
            let (aio, gate) = gated(backend, &Arc::new(Plain), small(2, 8, direct));
            let folder = Folder::new();
            let path = folder.file("t", &pattern(1, 8192));
            let file = aio.open(&path).unwrap();
            gate.close();
            let read = file.read(vec![0; 8192], 0);
            gate.wait_for(1);
            let failed = with_descriptors(0, || aio.read_path(&path, vec![0; 8192]).wait().unwrap_err());
            assert_eq!(failed.error().raw_os_error(), Some(libc::EMFILE));
            gate.open();
            read.wait().unwrap();
        });
    });
}

#[test]
fn a_commit_needs_no_thread() {
    let (folder, aio) = (Folder::new(), aio::builder().build().unwrap());
    let path = folder.file("t", b"old");
    let new = aio.create_atomic(&path).unwrap();
    new.write(pattern(1, 5000), 0).wait().unwrap();
    refusing(&[libc::SYS_clone, libc::SYS_clone3], libc::EAGAIN, || {
        new.commit().wait().unwrap();
        assert_eq!(fs::read(&path).unwrap(), pattern(1, 5000));
    });
}

#[test]
fn an_open_file_does_not_need_the_rights_that_it_was_opened_with() {
    let folder = Folder::new();
    let path = folder.file("t", &pattern(1, 100_000));
    if !give_to_nobody(&path) {
        return;
    }
    let (root, aio) = (aio::builder().build().unwrap(), &aio::builder().build().unwrap());
    set_mode(&path, 0o600);
    set_mode(&folder.path(""), 0o755);
    let works = |file: &aio::AioFile| {
        for len in LENGTHS {
            file.write_at(&pattern(2, len), 0).unwrap();
            file.write(pattern(2, len), 0).wait().unwrap();
            file.read_at(&mut vec![0; len], 0).unwrap();
        }
    };
    // The rights of the process: root may, on this thread, and the other thread may not.
    let secret = folder.file("secret", &pattern(1, 100_000));
    set_mode(&secret, 0o600);
    let file = root.open(&secret).unwrap();
    as_nobody(|| {
        assert!(aio.open(&secret).is_err());
        works(&file);
        // Those of the file.
        let aio = aio::builder().build().unwrap();
        let file = aio.open(&path).unwrap();
        set_mode(&path, 0o000);
        assert!(aio.open(&path).is_err());
        works(&file);
        works(&file.background());
    });
}

/// A umask, or an access list of the folder, that lets not even the owner write.
#[test]
fn a_file_that_its_owner_may_not_open_again_takes_any_length() {
    alone("a_file_that_its_owner_may_not_open_again_takes_any_length", || {
        let folder = Folder::new();
        let Some((dir, old)) = nobodys(&folder) else { return };
        for bits in [0o222, 0o777] {
            umask(Mode::from_bits_truncate(bits));
            for backend in backends() {
                for direct in [DirectMode::Auto, DirectMode::Off] {
                    as_nobody(|| {
                        let builder = aio::builder().backend(backend).direct(direct);
                        any_length(&builder.build().unwrap(), &dir, 0o666 & !bits);
                    });
                }
            }
        }
        assert_eq!(fs::read(old).unwrap(), b"old");
    });
}

fn any_length(aio: &AioHandle, dir: &Path, mode: u32) {
    for len in LENGTHS {
        let bytes = || pattern(1, len);
        let path = dir.join("new");
        let calls: [&dyn Fn() -> Result<()>; 6] = [
            &|| aio.create(&path)?.write_at(&bytes(), 0),
            &|| aio.open_with(&path, &OpenOptions::new().create_new(true))?.write_at(&bytes(), 0),
            &|| Ok(aio.write_new(&path, bytes()).wait().map(drop)?),
            &|| Ok(aio.write_path(&path, bytes()).wait().map(drop)?),
            &|| Ok(aio.validated(true).write_path(&path, bytes()).wait().map(drop)?),
            &|| {
                let new = aio.create_atomic(&path)?;
                new.write_at(&bytes(), 0)?;
                Ok(new.commit().wait()?)
            },
        ];
        for (number, call) in calls.into_iter().enumerate() {
            call().unwrap_or_else(|error| panic!("{number}: {error}"));
            let found = fs::metadata(&path).unwrap();
            assert_eq!((found.len(), found.permissions().mode() & 0o7777), (len as u64, mode), "{number}");
            // What exists is not this process's to change.
            if mode & 0o222 == 0 {
                assert!(aio.create(&path).is_err() && aio.write_path(&path, bytes()).wait().is_err());
                assert_eq!(fs::metadata(&path).unwrap().ctime_nsec(), found.ctime_nsec());
            }
            set_mode(&path, 0o600);
            assert!(fs::read(&path).unwrap() == bytes());
            fs::remove_file(&path).unwrap();
        }
    }
}

/// What reads of a stream go by is opened late, when no mode may be changed for it.
#[test]
fn a_file_that_its_owner_may_not_open_again_is_read_to_its_end() {
    alone("a_file_that_its_owner_may_not_open_again_is_read_to_its_end", || {
        let folder = Folder::new();
        let Some((dir, _)) = nobodys(&folder) else { return };
        umask(Mode::from_bits_truncate(0o777));
        for backend in backends() {
            as_nobody(|| {
                let aio = aio::builder().backend(backend).build().unwrap();
                let (path, content) = (dir.join("new"), pattern(1, 1 << 20));
                let file = aio.open_with(&path, &OpenOptions::new().read(true).create_new(true)).unwrap();
                file.write(content.clone(), 0).wait().unwrap();
                file.sync_all().wait().unwrap();
                let made = fs::metadata(&path).unwrap();
                assert_eq!(made.permissions().mode() & 0o7777, 0);
                let before = aio.stats().bytes_buffered;
                let mut memory = vec![0; 4096];
                for at in (0..content.len()).step_by(4096) {
                    file.read_at(&mut memory, at as u64).unwrap();
                    assert!(memory == content[at..at + 4096], "at {at}");
                }
                let read = fs::metadata(&path).unwrap();
                assert_eq!(
                    (read.mode(), read.ctime(), read.ctime_nsec()),
                    (made.mode(), made.ctime(), made.ctime_nsec())
                );
                if file.is_direct() {
                    assert_eq!(aio.stats().bytes_buffered, before, "it was opened once more");
                } else {
                    eprintln!("SKIPPED {backend}: no direct I/O in {}, so no descriptor is opened", path.display());
                }
                fs::remove_file(&path).unwrap();
            });
        }
    });
}

#[test]
fn a_read_only_file_can_be_replaced_by_any_length() {
    let folder = Folder::new();
    let Some((_, path)) = nobodys(&folder) else { return };
    for backend in backends() {
        for len in LENGTHS {
            set_mode(&path, 0o444);
            as_nobody(|| {
                let aio = aio::builder().backend(backend).build().unwrap();
                let new = aio.create_atomic(&path).unwrap();
                new.write(pattern(1, len), 0).wait().unwrap();
                new.commit().wait().unwrap();
            });
            assert!(fs::read(&path).unwrap() == pattern(1, len));
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o444);
        }
    }
}

/// In a `chroot(2)`, for one.
#[test]
fn files_are_opened_where_proc_is_not_mounted() {
    let (folder, aio) = (Folder::new(), aio::builder().build().unwrap());
    folder.file("t", &pattern(1, 100_000));
    let root = CString::new(folder.path("").as_os_str().as_bytes()).unwrap();
    std::thread::scope(|scope| {
        let there = scope.spawn(|| {
            // SAFETY: the calls take a path that ends with a NUL, and concern this thread alone after the first.
            let moved = unsafe { libc::unshare(libc::CLONE_FS) == 0 && libc::chroot(root.as_ptr()) == 0 };
            if !moved {
                eprintln!("SKIPPED: no chroot: {}", std::io::Error::last_os_error());
                return;
            }
            assert!(!Path::new("/proc").exists());
            let file = aio.open("/t").unwrap();
            file.write_at(&pattern(2, 5000), 0).unwrap();
            let new = aio.create_atomic("/new").unwrap();
            new.write(pattern(2, 5000), 0).wait().unwrap();
            new.commit().wait().unwrap();
        });
        there.join().unwrap();
    });
    assert!(fs::read(folder.path("t")).unwrap()[..5000] == pattern(2, 5000));
    assert!(fs::read(folder.path("new")).unwrap_or_else(|_| pattern(2, 5000)) == pattern(2, 5000));
}

/// After `unshare(2)`: the same number is another file for the rest of the process.
#[test]
fn a_thread_with_descriptors_of_its_own_opens_its_own_files() {
    let (folder, aio) = (Folder::new(), aio::builder().build().unwrap());
    let (path, decoy) = (folder.file("t", &pattern(1, 100_000)), folder.file("decoy", &pattern(3, 100_000)));
    let (alone, mut decoys) = (Barrier::new(2), Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: it takes no pointers, and concerns this thread alone.
            let unshared = unsafe { libc::unshare(libc::CLONE_FILES) };
            assert_eq!(unshared, 0, "{}", std::io::Error::last_os_error());
            alone.wait();
            alone.wait();
            let file = aio.open(&path).unwrap();
            file.write_at(&pattern(2, 5000), 0).unwrap();
        });
        alone.wait();
        decoys.extend((0..100).map(|_| File::options().read(true).write(true).open(&decoy).unwrap()));
        alone.wait();
    });
    assert!(fs::read(&path).unwrap()[..5000] == pattern(2, 5000));
    assert!(fs::read(&decoy).unwrap() == pattern(3, 100_000));
}
