//! Replacing a file so that it is the old one or the new one, whole, whatever happens.
//!
//! What is written goes to a temporary file beside the target. A commit syncs it, gives it the target's name with
//! `rename(2)`, which is atomic, and syncs the folder, without which a power failure could bring the old name back.
//! Until the rename the old file is there, afterwards the new one; both are whole. What a crash leaves behind is at most
//! the temporary, whose name says what it is: `.NAME.XXXXXX.tmp`.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use tempfile::TempPath;
use xattr::FileExt;

use crate::config::DirectMode;
use crate::error::{Error, IoError, OpKind, Result};
use crate::file::write_back::Sync;
use crate::file::{OpenFile, OpenOptions, attributes, check_path, close_fd, refusal};
use crate::printable::shown;
use crate::process::Generation;

/// Bytes of a target's name that its temporary's has: with the rest it stays below the 255 of most file systems.
const NAME: usize = 200;
/// Symbolic links that Linux follows, one after the other.
const MOST_LINKS: usize = 40;

/// What gives a new file the name of another. Dropped, it removes the new file; so it is dropped after the file is
/// closed.
#[derive(Debug)]
pub(crate) struct Replacement {
    /// Of the file's descriptors, to be closed by the commit, which might have none left to make them.
    duplicates: Vec<OwnedFd>,
    temporary: Temporary,
    target: PathBuf,
    /// Open from the start, since after the rename it would be too late to find that it cannot be opened.
    folder: File,
}

/// How far a [commit](crate::AtomicFile::commit) got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitStep {
    /// The new contents are on the device, under the temporary's name.
    Synced,
    /// The new file is closed.
    Closed,
    /// The target's name is the new file's.
    Renamed,
    /// So it is on the device.
    FolderSynced,
}

impl Replacement {
    /// Makes the new file beside the one at `path`.
    pub(crate) fn begin(path: &Path, direct: DirectMode) -> Result<(OpenFile, Self)> {
        let failing = |op, path: &Path| {
            let path = path.to_owned();
            move |source| failed(op, &path, source)
        };
        let opening = |path: &Path| failing(OpKind::Open, path);
        let (target, replaced) = resolve(path).map_err(opening(path))?;
        let folder = File::open(folder_of(&target)).map_err(opening(folder_of(&target)))?;
        check_rename(&target, &folder, replaced.is_some()).map_err(failing(OpKind::Replace, &target))?;
        // In this order, so that the file is closed before it is removed.
        let (temporary, file) = temporary_beside(&target, replaced.is_some(), direct).map_err(opening(path))?;
        let duplicates = file.duplicates().map_err(opening(path))?;
        if let Some(replaced) = replaced {
            // Now that it is open: they may not let this process open it.
            grant(&file, &target, &replaced).map_err(opening(path))?;
        }
        Ok((file, Self { duplicates, temporary, target, folder }))
    }

    /// The path that the file will have, with symbolic links resolved.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Gives the file the target's name, once all writes to it have ended, and with `syncs` makes it durable before and
    /// its name after; calls `after` each step.
    pub(crate) fn commit(self, file: OpenFile, syncs: bool, mut after: impl FnMut(CommitStep)) -> Result<()> {
        let Self { duplicates, temporary, target, folder } = self;
        // Closed before the temporary is removed, where it is: NFS would keep what is removed while it is open, renamed.
        let (file, duplicates) = (file, duplicates);
        let synced = if syncs { file.sync(Sync::All) } else { Ok(()) };
        let synced = synced.map_err(|source| failed(OpKind::Sync, file.path(), source));
        if let Some(failure) = file.inode().and_then(|inode| inode.write_back.failed_write()) {
            return Err(Error::InvalidInput(format!(
                "{} is not replaced: a write to its new contents failed: {failure}",
                shown(&target)
            )));
        }
        synced?;
        after(CommitStep::Synced);
        // Reported also if a clone keeps it open, and without waiting for what else the handle does.
        let closed = duplicates.into_iter().map(close_fd).fold(Ok(()), Result::and);
        closed.map_err(|source| failed(OpKind::Close, file.path(), source))?;
        drop(file);
        after(CommitStep::Closed);
        temporary.persist(&target).map_err(|source| failed(OpKind::Replace, &target, source))?;
        after(CommitStep::Renamed);
        if syncs {
            folder.sync_all().map_err(|source| failed(OpKind::Sync, folder_of(&target), source))?;
        }
        after(CommitStep::FolderSynced);
        Ok(())
    }
}

fn failed(op: OpKind, path: &Path, source: io::Error) -> Error {
    IoError::new(op, path, source).into()
}

/// The path of a temporary file, which is removed with it; but not by a forked child, whose parent goes on with the
/// file.
#[derive(Debug)]
struct Temporary {
    path: Option<TempPath>,
    made_in: Generation,
}

impl Temporary {
    fn new(path: TempPath) -> Self {
        Self { path: Some(path), made_in: Generation::now() }
    }

    /// Gives the file another name.
    fn persist(mut self, target: &Path) -> io::Result<()> {
        let Some(path) = self.path.take() else { return Ok(()) };
        path.persist(target).map_err(|failure| failure.error)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &mut self.path
            && self.made_in.is_forked()
        {
            path.disable_cleanup(true);
        }
    }
}

/// Where `path` leads, and what is there.
fn resolve(path: &Path) -> io::Result<(PathBuf, Option<Metadata>)> {
    check_path(path)?;
    file_name(path)?;
    match fs::metadata(path) {
        Ok(found) if found.is_file() => Ok((path.canonicalize()?, Some(found))),
        Ok(found) => Err(refusal(found.mode()).unwrap_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is a block device, and only regular files can be replaced",
            )
        })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((where_to_make(path)?, None)),
        Err(error) => Err(error),
    }
}

/// Where open(2) with O_CREAT would make the file: at the end of symbolic links that point to nothing.
fn where_to_make(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let target = folder_of(&path).canonicalize()?.join(file_name(&path)?);
        match fs::read_link(&target) {
            Ok(link) => path = folder_of(&target).join(link),
            Err(_) => return Ok(target),
        }
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

/// The last part of a path, unless only a folder can have it. [`Path`] takes no notice of slashes and dots at the end.
fn file_name(path: &Path) -> io::Result<&OsStr> {
    match path.as_os_str().as_bytes().rsplit(|byte| *byte == b'/').next() {
        None | Some(b"" | b"." | b"..") => Err(io::Error::from_raw_os_error(libc::EISDIR)),
        Some(name) => Ok(OsStr::from_bytes(name)),
    }
}

/// What is known to keep `rename(2)` from giving a new file the target's name, found before anything is written.
fn check_rename(target: &Path, folder: &File, replaces: bool) -> io::Result<()> {
    let has = |path, bits| attributes(path).is_ok_and(|found| found & bits as u64 != 0);
    let fixed = libc::STATX_ATTR_IMMUTABLE | libc::STATX_ATTR_APPEND;
    let refused = |errno| Err(io::Error::from_raw_os_error(errno));
    if replaces && has(target, libc::STATX_ATTR_MOUNT_ROOT) {
        return refused(libc::EBUSY);
    }
    if has(folder_of(target), fixed) || replaces && (has(target, fixed) || is_kept(target, folder)) {
        return refused(libc::EPERM);
    }
    Ok(())
}

/// Whether the folder is sticky and neither it nor the target is this process's.
fn is_kept(target: &Path, folder: &File) -> bool {
    // The kernel asks the same of those who want this flag: that they are the owner, or may act for the owner.
    let is_anothers = |path| {
        let flags = libc::O_NOATIME | libc::O_NONBLOCK;
        let opened = File::options().read(true).custom_flags(flags).open(path);
        opened.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM))
    };
    let is_sticky = folder.metadata().is_ok_and(|found| found.mode() & libc::S_ISVTX != 0);
    is_sticky && is_anothers(target) && is_anothers(folder_of(target))
}

/// A new file in the target's folder, which a rename can reach.
fn temporary_beside(target: &Path, replaces: bool, direct: DirectMode) -> io::Result<(Temporary, OpenFile)> {
    let name = target.file_name().unwrap_or_default().as_bytes();
    let mut prefix = b".".to_vec();
    prefix.extend(&name[..name.len().min(NAME)]);
    prefix.push(b'.');
    let prefix = OsString::from_vec(prefix);
    // Users who may not read the old file shall not get hold of the new one before it has the old permissions.
    let options = OpenOptions::new().read(true).create_new(true).private(replaces);
    let made = tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(".tmp")
        .make_in(folder_of(target), |path| OpenFile::try_open(path, &options, direct))?;
    let (file, path) = made.into_parts();
    Ok((Temporary::new(path), file))
}

/// Lets those have the new file who may have the one that it replaces; nobody else, where not all of that can be given.
fn grant(new: &OpenFile, target: &Path, replaced: &Metadata) -> io::Result<()> {
    const ACCESS_LIST: &str = "system.posix_acl_access";
    let new = &File::from(new.fd().try_clone_to_owned()?);
    let own = new.metadata()?;
    let (uid, gid) = (replaced.uid(), replaced.gid());
    let mut mode = replaced.permissions().mode();
    let mut all_given = true;
    // Only root may give files away; everybody else gets a file of their own, as with `cp`.
    if (own.uid(), own.gid()) != (uid, gid) && fchown(new, Some(uid), Some(gid)).is_err() {
        // With another owner, set-user-ID and set-group-ID would grant other rights than they did.
        mode &= !0o6000;
        all_given = own.gid() == gid || fchown(new, None, Some(gid)).is_ok();
    }
    let has_none = |error: &io::Error| matches!(error.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP));
    // The folder may have given it one.
    new.remove_xattr(ACCESS_LIST).or_else(|error| if has_none(&error) { Ok(()) } else { Err(error) })?;
    match xattr::get(target, ACCESS_LIST) {
        Ok(None) => {}
        Ok(Some(list)) => all_given = all_given && new.set_xattr(ACCESS_LIST, &list).is_ok(),
        Err(error) => all_given = all_given && has_none(&error),
    }
    if !all_given {
        // Whoever was in the old group, or in its list, may be anybody now: all others have what group and others had.
        let common = mode & (mode >> 3) & 0o007;
        mode = mode & !0o077 | common << 3 | common;
    }
    new.set_permissions(Permissions::from_mode(mode))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
