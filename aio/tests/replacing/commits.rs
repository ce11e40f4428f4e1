//! A commit waits for its own writes and fails if one of them did.

use std::fs;
use std::sync::{Arc, mpsc};

use aio::op::Direction;
use aio::{AioFile, AtomicFile, Error};
use aio_testkit::conformance::refusing;
use aio_testkit::fault::Plain;

use crate::names;
use crate::support::fini::OnFini;
use crate::support::staged::{Panics, Staged};
use crate::support::{Folder, each, each_backend, gated, pattern, small};

#[test]
fn a_change_of_length_is_waited_for_and_must_not_fail() {
    each(|_, aio, folder| {
        let path = folder.file("t", b"old");
        let spoils: [fn(&AtomicFile); 2] =
            [|new| drop(new.set_len(u64::MAX)), |new| drop(new.durable(true).allocate(0, u64::MAX).wait())];
        for spoil in spoils {
            let new = aio.create_atomic(&path).unwrap();
            new.write(vec![1; 100], 0).wait().unwrap();
            spoil(&new);
            let error = new.commit().wait().unwrap_err().to_string();
            assert!(error.contains("a write to its new contents failed"), "{error}");
            assert_eq!((fs::read(&path).unwrap(), names(folder)), (b"old".to_vec(), vec!["t".to_owned()]));
        }
        let new = aio.create_atomic(&path).unwrap();
        new.write(pattern(1, 10_000), 0).wait().unwrap();
        drop(new.set_len(5_000));
        new.commit().wait().unwrap();
        assert_eq!(fs::read(&path).unwrap(), pattern(1, 10_000)[..5_000]);
        let _what_was_dropped = aio.wait();
    });
}

#[test]
fn space_that_cannot_be_had_is_no_failure() {
    let folder = Folder::new();
    for errno in [libc::EOPNOTSUPP, libc::ENOSYS, libc::EINVAL, libc::EPERM, libc::EACCES] {
        let path = folder.file("t", b"old");
        refusing(&[libc::SYS_fallocate], errno, || {
            let aio = aio::builder().build().unwrap();
            let new = aio.create_atomic(&path).unwrap();
            new.allocate(0, 1 << 20).wait().unwrap_err();
            new.punch_hole(0, 4096).wait().unwrap_err();
            new.write(vec![1; 10], 0).wait().unwrap();
            new.commit().wait().unwrap();
            assert_eq!(fs::read(&path).unwrap(), [1; 10]);
        });
    }
}

#[test]
fn a_write_whose_end_panics_is_not_committed() {
    let (folder, aio) = (Folder::new(), aio::builder().build().unwrap());
    let path = folder.file("t", b"old");
    let new = aio.create_atomic(&path).unwrap();
    let staged =
        Staged::new(Direction::Write, AioFile::target(&new), vec![(0..4096, vec![1; 4096])], Panics::Fini, false).0;
    assert!(aio.submit(staged).wait().is_err());
    let error = new.commit().wait().unwrap_err().to_string();
    assert!(error.contains("a write to its new contents failed"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

/// It grows the file, which a worker would have to wait for.
#[test]
fn a_write_that_was_refused_on_a_worker_is_not_committed() {
    each(|_, aio, folder| {
        let path = folder.file("t", b"old");
        let new = aio.create_atomic(&path).unwrap();
        let (file, (said, says)) = (AioFile::clone(&new), mpsc::channel());
        let other = aio.create(folder.path("other")).unwrap();
        let write = move || said.send(file.write_at(&[1; 10], 0)).unwrap();
        aio.submit(OnFini::empty(&other, write)).wait().unwrap();
        assert!(matches!(says.recv().unwrap(), Err(Error::WaitOnWorker)));
        new.write(vec![1; 10], 0).wait().unwrap();
        let error = new.commit().wait().unwrap_err().to_string();
        assert!(error.contains("a write to its new contents failed"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
    });
}

#[test]
fn a_commit_does_not_wait_for_other_files() {
    each_backend("a commit beside another op", |backend, direct| {
        let folder = Folder::new();
        let (aio, gate) = gated(backend, &Arc::new(Plain), small(1, 8, direct));
        let path = folder.file("t", b"old");
        let new = aio.create_atomic(&path).unwrap();
        new.set_len(10_000).wait().unwrap();
        gate.close();
        let other = aio.read_path(folder.file("other", &pattern(2, 10_000)), vec![0; 10_000]);
        gate.wait_for(1);
        // On this thread, past the gate.
        new.write_at(&pattern(1, 10_000), 0).unwrap();
        new.commit().wait().unwrap();
        assert_eq!(fs::read(&path).unwrap(), pattern(1, 10_000));
        assert!(!other.is_done());
        gate.open();
        assert_eq!(other.wait().unwrap(), pattern(2, 10_000));
    });
}

#[test]
fn clones_and_tickets_may_outlive_a_commit() {
    let (folder, aio) = (Folder::new(), aio::builder().build().unwrap());
    let path = folder.file("t", b"old");
    let new = aio.create_atomic(&path).unwrap();
    new.write(pattern(1, 10_000), 0).wait().unwrap();
    // Ended, but not looked at; and a clone that stays.
    let (ticket, clone) = (new.write(pattern(1, 10_000), 0), (*new).clone());
    new.commit().wait().unwrap();
    assert_eq!(fs::read(&path).unwrap(), pattern(1, 10_000));
    ticket.wait().unwrap();
    clone.write_at(&[7; 10], 0).unwrap();
    assert_eq!(fs::read(&path).unwrap()[..10], [7; 10]);
}
