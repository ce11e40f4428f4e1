//! A failed sync is never retried into success, and closing says what it knows.

mod support;

use std::sync::Arc;
use std::time::Duration;

use aio::{DirectMode, Error, OpenOptions};
use aio_testkit::conformance::refusing;
use aio_testkit::fault::Plain;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use support::child::alone;
use support::{Folder, backends, finishes, gated, pattern, small};

/// Syncs of a handle that is built, used and dropped under this fail.
const SYNCS: [libc::c_long; 2] = [libc::SYS_fsync, libc::SYS_fdatasync];

fn text<T>(result: Result<T, impl Into<Error>>) -> String {
    result.err().map(Into::into).expect("it was to fail").to_string()
}

#[test]
fn a_failed_sync_stays_failed_for_every_open_file_of_the_inode() {
    for backend in backends() {
        let folder = Folder::new();
        let path = folder.file("t", &pattern(1, 10_000));
        let aio = aio::builder().backend(backend).build().unwrap();
        let other = aio.open(&path).unwrap();
        let reader = aio.open_with(&path, &OpenOptions::new().read(true)).unwrap();
        let failed = refusing(&SYNCS, libc::EIO, || {
            let aio = aio::builder().backend(backend).build().unwrap();
            let file = aio.open(&path).unwrap();
            file.write_at(&[1; 100], 0).unwrap();
            let first = text(file.sync_data().wait());
            assert!(first.contains("cannot sync") && first.contains("Input/output error"), "{first}");
            let second = text(file.sync_all().wait());
            assert!(second.contains("an earlier sync"), "{second}");
            drop(file);
            aio.close().unwrap();
        });
        if failed.is_none() {
            return;
        }
        // The system call would work here, and say Ok.
        let late = aio.open_with(&path, &OpenOptions::new().read(true)).unwrap();
        for file in [&other, &reader, &late] {
            for ticket in [file.sync_data(), file.sync_all()] {
                let again = text(ticket.wait());
                assert!(again.contains("an earlier sync") && again.contains("I/O error"), "{again}");
            }
        }
        // Writing goes on, and its own result is its own.
        other.write(pattern(2, 10_000), 0).wait().unwrap();
        // One open file is enough to remember, also one that never asked; without any, what is opened next is what the
        // device has.
        let silent = aio.open_with(&path, &OpenOptions::new().read(true)).unwrap();
        drop((other, reader, late));
        assert!(aio.wait().is_ok());
        assert!(text(silent.sync_data().wait()).contains("an earlier sync"));
        drop(silent);
        aio.close().unwrap();
        let aio = aio::builder().backend(backend).build().unwrap();
        aio.open(&path).unwrap().sync_all().wait().unwrap();
    }
}

#[test]
fn a_reader_that_was_there_first_hears_of_a_failed_sync() {
    for backend in backends() {
        let folder = Folder::new();
        let path = folder.file("t", &pattern(1, 10_000));
        let aio = aio::builder().backend(backend).build().unwrap();
        let reader = aio.open_with(&path, &OpenOptions::new().read(true)).unwrap();
        let failed = refusing(&SYNCS, libc::EIO, || {
            let aio = aio::builder().backend(backend).build().unwrap();
            let file = aio.open(&path).unwrap();
            file.write_at(&[1; 100], 0).unwrap();
            file.sync_data().wait().unwrap_err();
            drop(file);
            aio.close().unwrap();
        });
        if failed.is_some() {
            assert!(text(reader.sync_data().wait()).contains("an earlier sync"));
        }
    }
}

#[test]
fn the_sync_of_a_validating_write_counts_too() {
    for backend in backends() {
        let folder = Folder::new();
        let path = folder.file("t", &pattern(1, 10_000));
        let aio = aio::builder().backend(backend).build().unwrap();
        let other = aio.open(&path).unwrap();
        let failed = refusing(&SYNCS, libc::EIO, || {
            let aio = aio::builder().backend(backend).direct(DirectMode::Off).build().unwrap();
            let file = aio.open(&path).unwrap();
            assert!(text(file.validated(true).write(vec![1; 5000], 0).wait()).contains("cannot sync"));
            drop(file);
            aio.close().unwrap();
        });
        if failed.is_some() {
            assert!(text(other.sync_data().wait()).contains("an earlier sync"));
        }
    }
}

#[test]
fn a_durable_write_that_cannot_be_made_durable_fails() {
    for backend in backends() {
        let folder = Folder::new();
        for (direct, name) in [(DirectMode::Off, "buffered"), (DirectMode::Auto, "direct")] {
            let path = folder.file(&format!("old {name}"), &pattern(1, 10_000));
            let aio = aio::builder().backend(backend).build().unwrap();
            let other = aio.open(&path).unwrap();
            let failed = refusing(&[libc::SYS_fdatasync], libc::EIO, || {
                let aio = aio::builder().backend(backend).direct(direct).build().unwrap();
                let durable = aio.open(&path).unwrap().durable(true);
                // One block that bypasses the page cache, if the file is direct; an edge; and one by way of a worker.
                let whole_block = text(durable.write_at(&[3; 4096], 4096));
                let on_this_thread = text(durable.write_at(&[3; 100], 7));
                let on_a_worker = text(durable.write(vec![3; 100], 7).wait());
                drop(durable);
                let by_path = text(aio.durable(true).write_new(folder.path(name), vec![3; 100]).wait());
                aio.close().unwrap();
                [whole_block, on_this_thread, on_a_worker, by_path]
            });
            let Some([first, second, third, by_path]) = failed else { return };
            assert!(first.contains("cannot sync") && first.contains("Input/output error"), "{first}");
            assert!(second.contains("an earlier sync") && third.contains("an earlier sync"), "{second} {third}");
            assert!(by_path.contains("cannot sync"), "{by_path}");
            assert!(!folder.path(name).exists(), "a new file of a failed write is left");
            assert!(text(other.sync_data().wait()).contains("an earlier sync"));
        }
    }
}

/// It cannot be known before its path was opened.
#[test]
fn a_sync_waits_for_a_write_by_path_that_has_begun() {
    for backend in backends() {
        finishes("a sync beside a write by path", move || {
            let folder = Folder::new();
            let path = folder.file("t", &pattern(1, 8192));
            let (writer, gate) = gated(backend, &Arc::new(Plain), small(1, 8, DirectMode::Off));
            let file = aio::builder().backend(backend).build().unwrap().open(&path).unwrap();
            gate.close();
            let by_path = writer.write_path(&path, vec![2; 8192]);
            gate.wait_for(1);
            let sync = file.sync_data();
            // Long enough to find one that does not wait; one that does cannot end, however slow the machine.
            assert!(!sync.wait_timeout(Duration::from_millis(200)).unwrap());
            gate.open();
            by_path.wait().unwrap();
            sync.wait().unwrap();
        });
    }
}

#[test]
fn a_sync_does_not_wait_for_later_writes_because_there_were_durable_ones() {
    for backend in backends() {
        finishes("a sync beside a later write", move || {
            let folder = Folder::new();
            let path = folder.file("t", &pattern(1, 100_000));
            let (aio, gate) = gated(backend, &Arc::new(Plain), small(1, 8, DirectMode::Auto));
            let (other, held) = gated(backend, &Arc::new(Plain), small(1, 8, DirectMode::Auto));
            let (file, other) = (aio.open(&path).unwrap(), other.open(&path).unwrap());
            file.durable(true).write(vec![1; 8192], 4096).wait().unwrap();
            gate.close();
            held.close();
            let before = file.write(vec![1; 8192], 4096);
            gate.wait_for(1);
            let sync = file.sync_data();
            let later = other.write(vec![2; 4096], 49_152);
            held.wait_for(1);
            gate.open();
            before.wait().unwrap();
            sync.wait().unwrap();
            held.open();
            later.wait().unwrap();
        });
    }
}

#[test]
fn what_close_says_is_said() {
    for backend in backends() {
        let folder = Folder::new();
        // Keeps some descriptors open for good.
        let refused = refusing(&[libc::SYS_close], libc::EIO, || {
            let aio = aio::builder().backend(backend).build().unwrap();
            for (at, durable) in [(0, false), (1, true)] {
                let aio = aio.durable(durable);
                let path = folder.path(&format!("new{at}"));
                let new = text(aio.write_new(&path, vec![1; 5000]).wait());
                assert!(new.contains("cannot close") && new.contains("Input/output error"), "{new}");
                assert!(!path.exists(), "a new file of a failed write is left");
                let whole = text(aio.write_path(folder.path(&format!("whole{at}")), vec![1; 8192]).wait());
                assert!(whole.contains("cannot close"), "{whole}");
                let read = text(aio.read_path(folder.file(&format!("old{at}"), &[1; 5000]), vec![0; 5000]).wait());
                assert!(read.contains("cannot close"), "{read}");
            }
            let file = aio.create(folder.path("file")).unwrap();
            assert!(text(file.close()).contains("cannot close"));
            let target = folder.file("target", b"old");
            let new = aio.create_atomic(&target).unwrap();
            new.write(vec![2; 5000], 0).wait().unwrap();
            // One that keeps it open.
            let _clone = (*new).clone();
            let failed = text(new.commit().wait());
            assert!(failed.contains("cannot close"), "{failed}");
            assert_eq!(std::fs::read(&target).unwrap(), b"old");
        });
        if refused.is_none() {
            return;
        }
    }
}

/// Few files may be open, and many are to be written: each is synced by one of a few threads before it is closed.
#[test]
fn files_that_wait_for_their_sync_do_not_use_up_the_descriptors() {
    alone("files_that_wait_for_their_sync_do_not_use_up_the_descriptors", || {
        for backend in backends() {
            let folder = Folder::new();
            let aio = aio::builder().backend(backend).build().unwrap().durable(true);
            let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
            let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
            setrlimit(Resource::RLIMIT_NOFILE, open + 20, hard).unwrap();
            let path = |index: usize| folder.path(&format!("t{index}"));
            let tickets: Vec<_> = (0..400).map(|index| aio.write_new(path(index), vec![1; 4096])).collect();
            for ticket in tickets {
                ticket.wait().unwrap();
            }
            setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        }
    });
}

/// One sync serves all that wait for a thread by then.
#[test]
fn many_durable_writes_of_one_file_all_end() {
    for backend in backends() {
        let folder = Folder::new();
        let aio = aio::builder().backend(backend).direct(DirectMode::Off).build().unwrap();
        let file = aio.open(folder.file("t", &pattern(1, 400 * 4096))).unwrap();
        let durable = file.durable(true);
        let tickets: Vec<_> = (0..400_usize).map(|page| durable.write(vec![2; 4096], page as u64 * 4096)).collect();
        for ticket in tickets {
            ticket.wait().unwrap();
        }
        assert!(std::fs::read(file.path()).unwrap() == vec![2; 400 * 4096]);
    }
}
