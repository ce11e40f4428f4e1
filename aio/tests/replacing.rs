//! More that must not go wrong with a file that is replaced: changes of length, forks, permissions.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use aio::{AioHandle, AtomicFile};
use aio_core::testing::Plain;
use support::{Folder, each, each_backend, gated, pattern, small};

fn names(folder: &Folder) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = fs::read_dir(folder.path("")).unwrap().map(name).collect();
    names.sort();
    names
}

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
            let error = new.commit().unwrap_err().to_string();
            assert!(error.contains("a write to its new contents failed"), "{error}");
            assert_eq!((fs::read(&path).unwrap(), names(folder)), (b"old".to_vec(), vec!["t".to_owned()]));
        }
        let new = aio.create_atomic(&path).unwrap();
        new.write(pattern(1, 10_000), 0).wait().unwrap();
        drop(new.set_len(5_000));
        new.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), pattern(1, 10_000)[..5_000]);
        let _what_was_dropped = aio.wait();
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
        new.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), pattern(1, 10_000));
        assert!(!other.is_done());
        gate.open();
        assert_eq!(other.wait().unwrap(), pattern(2, 10_000));
    });
}

#[test]
fn clones_and_tickets_may_outlive_a_commit() {
    let (folder, aio) = (Folder::new(), AioHandle::builder().build().unwrap());
    let path = folder.file("t", b"old");
    let new = aio.create_atomic(&path).unwrap();
    new.write(pattern(1, 10_000), 0).wait().unwrap();
    // Ended, but not looked at; and a clone that stays.
    let (ticket, clone) = (new.write(pattern(1, 10_000), 0), (*new).clone());
    new.commit().unwrap();
    assert_eq!(fs::read(&path).unwrap(), pattern(1, 10_000));
    ticket.wait().unwrap();
    clone.write_at(&[7; 10], 0).unwrap();
    assert_eq!(fs::read(&path).unwrap()[..10], [7; 10]);
}

#[test]
fn a_forked_child_leaves_the_temporary_to_its_parent() {
    let (folder, aio) = (Folder::new(), AioHandle::builder().build().unwrap());
    let path = folder.file("t", b"old");
    let new = aio.create_atomic(&path).unwrap();
    new.write(vec![1; 5000], 0).wait().unwrap();
    let mut new = Some(new);
    // SAFETY: the child drops one value, which is to leave everything to the parent, and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: the alarm ends a child that waits; `_exit` runs nothing of the parent's.
        unsafe {
            libc::alarm(20);
            drop(new.take());
            libc::_exit(0);
        }
    }
    let mut status = 0;
    // SAFETY: waits for the child made above.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
    new.take().unwrap().commit().unwrap();
    assert_eq!((fs::read(&path).unwrap(), names(&folder)), (vec![1; 5000], vec!["t".to_owned()]));
}

#[test]
fn nobody_gets_more_rights_than_before() {
    let (folder, aio) = (Folder::new(), AioHandle::builder().build().unwrap());
    let path = folder.file("t", b"old");
    for bits in [0o600, 0o640, 0o444, 0o4755] {
        fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
        let new = aio.create_atomic(&path).unwrap();
        new.write(vec![1; 10], 0).wait().unwrap();
        new.commit().unwrap();
        let kept = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        // A write may take set-user-ID away; nothing adds to what was there.
        assert_eq!((kept & !bits, kept & 0o777), (0, bits & 0o777));
    }
    // Who may not give files away does not give its own rights away instead.
    if let Err(error) = std::os::unix::fs::chown(&path, Some(65_534), Some(65_534)) {
        eprintln!("SKIPPED: a file of another owner: {error}");
        return;
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).unwrap();
    let replaced = aio_core::conformance::refusing(&[libc::SYS_fchown], libc::EPERM, || {
        let new = aio.create_atomic(&path).unwrap();
        // Nothing is written: a write would take the bits away, too.
        new.commit().unwrap();
    });
    if replaced.is_some() {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o755);
    }
}
