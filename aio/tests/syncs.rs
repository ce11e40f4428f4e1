//! A failed sync is never retried into success, and closing says what it knows.

mod support;

use std::sync::Arc;

use aio::{AioFile, AioHandle, DirectMode, Error, OpenOptions};
use aio_core::conformance::{dirty_bytes, refusing};
use aio_core::{Completion, Direction, IoBlock};

use aio_core::testing::{Fate, Plain, Rules};
use support::{Folder, backends, each_backend, finishes, gated, pattern, small};

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
        let aio = AioHandle::builder().backend(backend).build().unwrap();
        let other = aio.open(&path).unwrap();
        let reader = aio.open_with(&path, &OpenOptions::new().read(true)).unwrap();
        let failed = refusing(&SYNCS, libc::EIO, || {
            let aio = AioHandle::builder().backend(backend).build().unwrap();
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
        let aio = AioHandle::builder().backend(backend).build().unwrap();
        aio.open(&path).unwrap().sync_all().wait().unwrap();
    }
}

#[test]
fn the_sync_of_a_validating_write_counts_too() {
    for backend in backends() {
        let folder = Folder::new();
        let path = folder.file("t", &pattern(1, 10_000));
        let aio = AioHandle::builder().backend(backend).build().unwrap();
        let other = aio.open(&path).unwrap();
        let failed = refusing(&SYNCS, libc::EIO, || {
            let aio = AioHandle::builder().backend(backend).direct(DirectMode::Off).build().unwrap();
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

/// Durable blocks fail with this.
#[derive(Debug)]
struct Durable(i32);

impl Rules for Durable {
    fn block(&self, _: usize, block: &IoBlock) -> Fate {
        if block.durable && block.direction == Direction::Write {
            return Fate::End(Err(std::io::Error::from_raw_os_error(self.0)));
        }
        Fate::Transfer
    }
}

#[test]
fn a_durable_write_that_fails_is_a_failed_sync_unless_it_was_refused() {
    each_backend("a failed durable write", |backend, direct| {
        for (errno, counts) in [(libc::EIO, true), (libc::EOPNOTSUPP, false)] {
            let folder = Folder::new();
            let (aio, _gate) = gated(backend, &Arc::new(Durable(errno)), small(1, 8, direct));
            let file = aio.open(folder.file("t", &pattern(1, 100_000))).unwrap();
            let failed = text(file.durable(true).write(vec![1; 50_000], 100).wait());
            assert_eq!(failed.contains("durable writes (RWF_DSYNC) are not possible here"), !counts, "{failed}");
            file.write(vec![1; 50_000], 100).wait().unwrap();
            assert_eq!(file.sync_data().wait().is_err(), counts, "{errno}");
            assert_eq!(aio.open(folder.path("t")).unwrap().sync_all().wait().is_err(), counts, "{errno}");
        }
    });
}

#[test]
fn a_durable_write_on_the_callers_thread_that_fails_is_a_failed_sync() {
    for backend in backends() {
        let folder = Folder::new();
        let path = folder.file("t", &pattern(1, 10_000));
        let aio = AioHandle::builder().backend(backend).direct(DirectMode::Off).build().unwrap();
        let file: AioFile = aio.open(&path).unwrap();
        let durable = file.durable(true);
        durable.write_at(&[1; 100], 7).unwrap();
        file.sync_data().wait().unwrap();
        // It was durable indeed: this is the system call that it is made by.
        let failed = refusing(&[libc::SYS_pwritev2], libc::EIO, || {
            file.write_at(&[2; 100], 7).unwrap();
            text(durable.write_at(&[3; 100], 7))
        });
        let Some(failed) = failed else { return };
        assert!(failed.contains("Input/output error"), "{failed}");
        assert!(text(file.sync_data().wait()).contains("an earlier sync"));
    }
}

/// Blocks are transferred, and are told of a loss.
#[derive(Debug)]
struct Lossy;

impl Rules for Lossy {
    fn reaped(&self, _: usize, done: &mut Vec<Completion>) {
        for completion in done {
            completion.result = Err(std::io::Error::from_raw_os_error(libc::EIO));
        }
    }
}

/// The kernel tells of lost pages once: if it tells a durable write, the sync beside it hears nothing.
#[test]
fn a_sync_hears_what_a_durable_write_beside_it_was_told() {
    for backend in backends() {
        finishes("a sync beside a durable write", move || {
            let folder = Folder::new();
            let path = folder.file("t", &pattern(1, 100_000));
            let config = || small(1, 8, DirectMode::Off);
            let (plain, plain_gate) = gated(backend, &Arc::new(Plain), config());
            let (durable, durable_gate) = gated(backend, &Arc::new(Lossy), config());
            let file = plain.open(&path).unwrap();
            plain_gate.close();
            durable_gate.close();
            let before = file.write(vec![1; 10_000], 0);
            plain_gate.wait_for(1);
            // Waits for the write before it; the durable one comes after, and is in flight while it runs.
            let sync = file.sync_data();
            let beside = durable.open(&path).unwrap().durable(true).write(vec![2; 10_000], 50_000);
            durable_gate.wait_for(1);
            plain_gate.open();
            before.wait().unwrap();
            let bytes = std::fs::File::open(&path).unwrap();
            while matches!(dirty_bytes(&bytes, 10_000), Ok(1..)) {
                std::thread::yield_now();
            }
            durable_gate.open();
            assert!(text(beside.wait()).contains("Input/output error"));
            assert!(text(sync.wait()).contains("an earlier sync"));
        });
    }
}

#[test]
fn what_is_cut_off_a_durable_path_is_synced() {
    for backend in backends() {
        let folder = Folder::new();
        let path = folder.file("t", &pattern(1, 10_000));
        let failed = refusing(&[libc::SYS_fdatasync], libc::EIO, || {
            let aio = AioHandle::builder().backend(backend).build().unwrap().durable(true);
            aio.write_path(&path, pattern(2, 10_000)).wait().unwrap();
            text(aio.write_path(&path, pattern(3, 5_000)).wait())
        });
        let Some(failed) = failed else { return };
        assert!(failed.contains("cannot sync"), "{failed}");
    }
}

#[test]
fn what_close_says_is_said() {
    for backend in backends() {
        let folder = Folder::new();
        // Keeps some descriptors open for good.
        let refused = refusing(&[libc::SYS_close], libc::EIO, || {
            let aio = AioHandle::builder().backend(backend).build().unwrap();
            for (at, durable) in [(0, false), (1, true)] {
                let aio = aio.durable(durable);
                let new = text(aio.write_new(folder.path(&format!("new{at}")), vec![1; 5000]).wait());
                assert!(new.contains("cannot close") && new.contains("Input/output error"), "{new}");
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
            let failed = text(new.commit());
            assert!(failed.contains("cannot close"), "{failed}");
            assert_eq!(std::fs::read(&target).unwrap(), b"old");
        });
        if refused.is_none() {
            return;
        }
    }
}
