//! More that must not go wrong with a file that is replaced: changes of length, forks, permissions.

mod support;

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use aio::error::OpKind;
use aio::op::Direction;
use aio::{AioFile, AioHandle, AtomicFile, Error, OpenOptions, Result};
use aio_testkit::conformance::refusing;
use aio_testkit::fault::Plain;
use support::staged::{Panics, Staged};
use support::users::{NOBODY, as_nobody, give_to_nobody, nobodys, set_mode};
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
fn space_that_cannot_be_had_is_no_failure() {
    let folder = Folder::new();
    for errno in [libc::EOPNOTSUPP, libc::ENOSYS, libc::EPERM, libc::EACCES] {
        let path = folder.file("t", b"old");
        refusing(&[libc::SYS_fallocate], errno, || {
            let aio = aio::builder().build().unwrap();
            let new = aio.create_atomic(&path).unwrap();
            new.allocate(0, 1 << 20).wait().unwrap_err();
            new.punch_hole(0, 4096).wait().unwrap_err();
            new.write(vec![1; 10], 0).wait().unwrap();
            new.commit().unwrap();
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
    let error = new.commit().unwrap_err().to_string();
    assert!(error.contains("a write to its new contents failed"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

type Call = fn(&AioHandle, &Path) -> Result<()>;

/// The calls that make a file or replace it.
const REPLACING: [Call; 3] = [
    |aio, path| aio.create(path)?.write_at(b"new", 0),
    |aio, path| Ok(aio.write_path(path, b"new".to_vec()).wait().map(drop)?),
    |aio, path| {
        let new = aio.create_atomic(path)?;
        new.write_at(b"new", 0)?;
        new.commit()
    },
];

/// The calls that only make one.
const MAKING: [Call; 2] = [
    |aio, path| aio.open_with(path, &OpenOptions::new().create_new(true))?.write_at(b"new", 0),
    |aio, path| Ok(aio.write_new(path, b"new".to_vec()).wait().map(drop)?),
];

#[test]
fn a_file_is_made_where_symbolic_links_point_to() {
    each(|_, aio, folder| {
        let link = |to: &str, at: &str| {
            symlink(to, folder.path(at)).unwrap();
            folder.path(at)
        };
        fs::create_dir(folder.path("d")).unwrap();
        let first = link("d/second", "first");
        let _second = link("third", "d/second");
        let absolute = link(first.to_str().unwrap(), "absolute");
        let nowhere = link("missing/t", "nowhere");
        let slash = link("d/third/", "slash");
        let circle = link("circle", "circle");
        let before = names(folder);
        for call in REPLACING {
            for path in [&first, &absolute] {
                call(aio, path).unwrap();
                assert_eq!(fs::read(folder.path("d/third")).unwrap(), b"new");
                fs::remove_file(folder.path("d/third")).unwrap();
            }
            assert_eq!(call(aio, &nowhere).unwrap_err().kind(), io::ErrorKind::NotFound);
            assert_eq!(call(aio, &slash).unwrap_err().kind(), io::ErrorKind::IsADirectory);
            assert_eq!(call(aio, &circle).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        }
        // A link is a file that exists, wherever it points.
        for call in MAKING {
            for path in [&first, &absolute, &nowhere, &slash, &circle] {
                assert_eq!(call(aio, path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            }
        }
        assert_eq!((names(folder), fs::read_dir(folder.path("d")).unwrap().count()), (before, 1));
    });
}

#[test]
fn no_file_is_made_under_the_name_of_a_folder() {
    each(|_, aio, folder| {
        fs::create_dir(folder.path("d")).unwrap();
        for call in REPLACING.into_iter().chain(MAKING) {
            for name in ["d/new/", "new/", "new//", "d", "d/", "d/.", "d/.."] {
                let error = call(aio, &folder.path(name)).unwrap_err();
                assert!(matches!(error.raw_os_error(), Some(libc::EISDIR | libc::EEXIST)), "{name}: {error}");
            }
            for name in ["new/.", "new/..", ""] {
                let path = if name.is_empty() { name.into() } else { folder.path(name) };
                call(aio, &path).unwrap_err();
            }
        }
        assert_eq!((names(folder), fs::read_dir(folder.path("d")).unwrap().count()), (vec!["d".to_owned()], 0));
    });
}

/// What a command did, until this is dropped.
struct Undo(Command);

impl Undo {
    /// `None`, with a line on standard error, where the command cannot do it.
    fn after(done: &mut Command, undo: Command) -> Option<Self> {
        let output = done.output().unwrap();
        if !output.status.success() {
            eprintln!("SKIPPED: {done:?}: {}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        Some(Self(undo))
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        let undone = self.0.status();
        assert!(std::thread::panicking() || undone.unwrap().success(), "{:?}", self.0);
    }
}

fn command(program: &str, arguments: &[&str], paths: &[&Path]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).args(paths);
    command
}

fn mounted_over(path: &Path, with: &Path) -> Option<Undo> {
    Undo::after(&mut command("mount", &["--bind"], &[with, path]), command("umount", &[], &[path]))
}

fn assert_not_replaced(error: &Error, errno: i32, advice: &str) {
    assert!(matches!(error, Error::Io(error) if error.op == OpKind::Replace), "{error}");
    assert_eq!(error.raw_os_error(), Some(errno), "{error}");
    assert!(error.to_string().contains(advice), "{error}");
}

/// As a container has files of its host.
#[test]
fn a_mount_point_is_found_before_anything_is_written() {
    let (folder, aio) = (Folder::new(), aio::builder().build().unwrap());
    let (path, host) = (folder.file("t", b"old"), folder.file("host", b"of the host"));
    symlink("t", folder.path("link")).unwrap();
    let Some(mounted) = mounted_over(&path, &host) else { return };
    let before = names(&folder);
    for path in [&path, &folder.path("link")] {
        assert_not_replaced(&aio.create_atomic(path).unwrap_err(), libc::EBUSY, "mounted");
        assert_eq!(names(&folder), before);
    }
    // What is mounted can be replaced, and written in place.
    aio.write_path(&path, b"in place".to_vec()).wait().unwrap();
    let new = aio.create_atomic(&host).unwrap();
    new.write_at(b"new", 0).unwrap();
    new.commit().unwrap();
    drop(mounted);
    assert_eq!((fs::read(&path).unwrap(), fs::read(&host).unwrap()), (b"old".to_vec(), b"new".to_vec()));
    // What comes later is found later.
    let new = aio.create_atomic(&path).unwrap();
    new.write_at(b"new", 0).unwrap();
    let Some(mounted) = mounted_over(&path, &host) else { return };
    assert_not_replaced(&new.commit().unwrap_err(), libc::EBUSY, "mounted");
    drop(mounted);
    assert_eq!((fs::read(&path).unwrap(), names(&folder)), (b"old".to_vec(), before));
}

#[test]
fn what_may_not_be_replaced_is_found_before_anything_is_written() {
    let (folder, aio) = (Folder::new(), aio::builder().build().unwrap());
    let dir = folder.path("d");
    fs::create_dir(&dir).unwrap();
    let path = dir.join("t");
    fs::write(&path, b"old").unwrap();
    let entries = || fs::read_dir(&dir).unwrap().count();
    for (flag, of) in [("i", &path), ("a", &path), ("i", &dir), ("a", &dir)] {
        let chattr = |sign: &str| command("chattr", &[&format!("{sign}{flag}")], &[of]);
        let Some(_undo) = Undo::after(&mut chattr("+"), chattr("-")) else { return };
        assert_not_replaced(&aio.create_atomic(&path).unwrap_err(), libc::EPERM, "immutable or append-only");
        if of == &dir {
            assert_not_replaced(&aio.create_atomic(dir.join("new")).unwrap_err(), libc::EPERM, "lsattr");
        }
        assert_eq!(entries(), 1);
    }
    let new = aio.create_atomic(&path).unwrap();
    new.commit().unwrap();
}

#[test]
fn a_file_of_another_user_in_a_sticky_folder_is_not_replaced() {
    let (folder, aio) = (Folder::new(), aio::builder().build().unwrap());
    let Some((dir, own)) = nobodys(&folder) else { return };
    let anothers = dir.join("another's");
    fs::write(&anothers, b"old").unwrap();
    let replace = |path: &Path| {
        let new = aio.create_atomic(path)?;
        new.write_at(b"new", 0)?;
        new.commit()
    };
    // In a folder of one's own, everything.
    set_mode(&dir, 0o1777);
    as_nobody(|| replace(&anothers).unwrap());
    assert_eq!(fs::metadata(&anothers).unwrap().uid(), NOBODY);
    for path in [&dir, &anothers] {
        chown(path, Some(0), Some(0)).unwrap();
    }
    fs::write(&anothers, b"old").unwrap();
    as_nobody(|| {
        assert_not_replaced(&aio.create_atomic(&anothers).unwrap_err(), libc::EPERM, "sticky");
        replace(&own).unwrap();
        replace(&dir.join("new")).unwrap();
    });
    // Root may.
    assert_eq!(fs::read(&anothers).unwrap(), b"old");
    replace(&anothers).unwrap();
    // Of one that cannot be opened it is not known.
    set_mode(&anothers, 0o600);
    as_nobody(|| assert_not_replaced(&replace(&anothers).unwrap_err(), libc::EPERM, "sticky"));
    assert_eq!((fs::read(&anothers).unwrap(), fs::read_dir(&dir).unwrap().count()), (b"new".to_vec(), 3));
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
    let (folder, aio) = (Folder::new(), aio::builder().build().unwrap());
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
    let (folder, aio) = (Folder::new(), aio::builder().build().unwrap());
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
    let (folder, aio) = (Folder::new(), aio::builder().build().unwrap());
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
    if !give_to_nobody(&path) {
        return;
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).unwrap();
    let replaced = refusing(&[libc::SYS_fchown], libc::EPERM, || {
        let new = aio.create_atomic(&path).unwrap();
        // Nothing is written: a write would take the bits away, too.
        new.commit().unwrap();
    });
    if replaced.is_some() {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o755);
    }
}

#[test]
fn a_file_that_its_owner_may_not_write_can_be_replaced() {
    let (folder, aio) = (Folder::new(), aio::builder().build().unwrap());
    let Some((_, path)) = nobodys(&folder) else { return };
    set_mode(&path, 0o444);
    as_nobody(|| {
        let new = aio.create_atomic(&path).unwrap();
        new.write(vec![1; 10], 0).wait().unwrap();
        new.commit().unwrap();
    });
    let found = fs::metadata(&path).unwrap();
    assert_eq!((found.permissions().mode() & 0o7777, fs::read(&path).unwrap()), (0o444, vec![1; 10]));
}

/// Its folder could not be synced, and it would be replaced all the same.
#[test]
fn nothing_is_replaced_in_a_folder_that_cannot_be_opened() {
    let (folder, aio) = (Folder::new(), aio::builder().build().unwrap());
    let Some((dir, path)) = nobodys(&folder) else { return };
    set_mode(&dir, 0o333);
    as_nobody(|| {
        let error = aio.create_atomic(&path).unwrap_err().to_string();
        assert!(error.contains("Permission denied") && error.contains(dir.to_str().unwrap()), "{error}");
    });
    set_mode(&dir, 0o755);
    let names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!((fs::read(&path).unwrap(), names), (b"old".to_vec(), vec!["t".into()]));
}

const ACCESS_LIST: &str = "system.posix_acl_access";

/// `user::rw-`, `user:1234:rw-`, `group::---`, `mask::rw-`, `other::---`.
fn access_list() -> Vec<u8> {
    let entries =
        [(0x01_u16, 6_u16, u32::MAX), (0x02, 6, 1234), (0x04, 0, u32::MAX), (0x10, 6, u32::MAX), (0x20, 0, u32::MAX)];
    let entry = |(tag, rights, id): (u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    [2_u32.to_le_bytes().to_vec(), entries.map(entry).concat()].concat()
}

#[test]
fn access_lists_are_kept_and_not_inherited() {
    let (folder, aio) = (Folder::new(), aio::builder().build().unwrap());
    let replace = |path: &Path| {
        let new = aio.create_atomic(path).unwrap();
        new.write(vec![1; 10], 0).wait().unwrap();
        new.commit().unwrap();
        let mode = fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        (xattr::get(path, ACCESS_LIST).unwrap(), mode)
    };
    let path = folder.file("t", b"old");
    if let Err(error) = xattr::set(&path, ACCESS_LIST, &access_list()) {
        eprintln!("SKIPPED: access lists: {error}");
        return;
    }
    assert_eq!(replace(&path), (Some(access_list()), 0o660));
    // A group of the mask's rights is not what it was, if the list cannot be given.
    let bare = refusing(&[libc::SYS_fsetxattr], libc::EPERM, || replace(&path));
    assert!(bare.is_none() || bare == Some((None, 0o600)), "{bare:?}");

    let plain = folder.file("plain", b"old");
    set_mode(&plain, 0o660);
    xattr::set(folder.path(""), "system.posix_acl_default", &access_list()).unwrap();
    assert_eq!(replace(&plain), (None, 0o660));
}

#[test]
fn a_group_that_cannot_be_given_gives_nobody_rights() {
    let (folder, aio) = (Folder::new(), aio::builder().build().unwrap());
    let path = folder.file("t", b"old");
    // The second one denies the group what everybody else has.
    for (old, new) in [(0o664, 0o644), (0o604, 0o600)] {
        set_mode(&path, old);
        if chown(&path, None, Some(NOBODY)).is_err() {
            eprintln!("SKIPPED: a file of another group");
            return;
        }
        let replace = || aio.create_atomic(&path).unwrap().commit().unwrap();
        if refusing(&[libc::SYS_fchown], libc::EPERM, replace).is_some() {
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, new);
        }
    }
}
