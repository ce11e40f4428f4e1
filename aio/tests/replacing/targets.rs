//! Where a path leads, and what is known to keep a target from being replaced before anything is written.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use aio::{AioHandle, OpenOptions, Result};

use crate::support::users::{NOBODY, as_nobody, nobodys, set_mode};
use crate::support::{Folder, each};
use crate::{assert_not_replaced, names};

type Call = fn(&AioHandle, &Path) -> Result<()>;

/// The calls that make a file or replace it.
const REPLACING: [Call; 3] = [
    |aio, path| aio.create(path)?.write_at(b"new", 0),
    |aio, path| Ok(aio.write_path(path, b"new".to_vec()).wait().map(drop)?),
    |aio, path| {
        let new = aio.create_atomic(path)?;
        new.write_at(b"new", 0)?;
        Ok(new.commit().wait()?)
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
    new.commit().wait().unwrap();
    drop(mounted);
    assert_eq!((fs::read(&path).unwrap(), fs::read(&host).unwrap()), (b"old".to_vec(), b"new".to_vec()));
    // What comes later is found later.
    let new = aio.create_atomic(&path).unwrap();
    new.write_at(b"new", 0).unwrap();
    let Some(mounted) = mounted_over(&path, &host) else { return };
    assert_not_replaced(new.commit().wait().unwrap_err().error(), libc::EBUSY, "mounted");
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
    new.commit().wait().unwrap();
}

#[test]
fn a_file_of_another_user_in_a_sticky_folder_is_not_replaced() {
    let (folder, aio) = (Folder::new(), aio::builder().build().unwrap());
    let Some((dir, own)) = nobodys(&folder) else { return };
    let anothers = dir.join("another's");
    fs::write(&anothers, b"old").unwrap();
    // The threads of a handle have the user of the thread that starts them.
    let replace = |path: &Path| {
        let new = aio::builder().backend(aio::Backend::Pthread).build()?.create_atomic(path)?;
        new.write_at(b"new", 0)?;
        Ok(new.commit().wait()?)
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
