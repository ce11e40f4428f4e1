//! Disk space: whether files will fit, checked before the first byte is written, and allocating it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aio::AioFile;
use aio_core::shown;
use nix::sys::statfs::{self, FsType, statfs};
use nix::sys::statvfs::{Statvfs, statvfs};

use crate::failure::Failure;
use crate::size;

/// The name of the file system of `path`, or its number if it is not a usual one.
pub fn file_system(path: &Path) -> nix::Result<String> {
    const NAMES: [(FsType, &str); 10] = [
        (statfs::EXT4_SUPER_MAGIC, "ext4"),
        (statfs::XFS_SUPER_MAGIC, "xfs"),
        (statfs::BTRFS_SUPER_MAGIC, "btrfs"),
        (statfs::F2FS_SUPER_MAGIC, "f2fs"),
        (statfs::TMPFS_MAGIC, "tmpfs"),
        (RAMFS_MAGIC, "ramfs"),
        (statfs::OVERLAYFS_SUPER_MAGIC, "overlayfs"),
        (statfs::NFS_SUPER_MAGIC, "nfs"),
        (statfs::FUSE_SUPER_MAGIC, "fuse"),
        (ZFS_SUPER_MAGIC, "zfs"),
    ];
    let found = statfs(path)?.filesystem_type();
    let name = NAMES.iter().find(|(magic, _)| *magic == found);
    Ok(name.map_or_else(|| format!("{:#x}", found.0), |(_, name)| (*name).to_owned()))
}

/// Whether a file system of this name keeps its files in memory, without a device.
pub(crate) fn lies_in_memory(file_system: &str) -> bool {
    matches!(file_system, "tmpfs" | "ramfs")
}

/// Defined in `linux/magic.h`, but not in nix.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

/// Not in the kernel's headers: ZFS is built outside the kernel.
const ZFS_SUPER_MAGIC: FsType = FsType(0x2fc1_2fc1);

/// Bytes that an unprivileged user can still write at `path`; `None` if the file system does not report them.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    statvfs(path).ok().and_then(|fs| free(&fs))
}

/// Some file systems (ramfs, some of FUSE) report no size at all.
fn free(fs: &Statvfs) -> Option<u64> {
    (fs.blocks() != 0).then(|| fs.blocks_available().saturating_mul(fs.fragment_size()))
}

/// The absolute path of `dir`; fails with the reason if that is not a folder.
pub fn require_folder(dir: &Path) -> Result<PathBuf, Failure> {
    match fs::metadata(dir).and_then(|metadata| Ok((metadata, dir.canonicalize()?))) {
        Ok((metadata, absolute)) if metadata.is_dir() => Ok(absolute),
        Ok(_) => Err(Failure::Failed(format!("{} is not a folder", shown(dir)))),
        Err(error) => Err(Failure::Failed(format!("cannot use the folder {}: {error}", shown(dir)))),
    }
}

/// Allocates disk space for the first `bytes` of a file.
pub fn allocate(file: &AioFile, bytes: u64) -> Result<(), Failure> {
    match file.allocate(0, bytes).wait() {
        // Where a file system has no fallocate(2), the writes allocate.
        Err(failed) if failed.error().kind() == io::ErrorKind::Unsupported => Ok(()),
        allocated => Ok(allocated?),
    }
}

/// The parent folder of a path.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Whether two paths name one file, which need not exist.
pub fn is_same_place(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| Some((folder_of(path).canonicalize().ok()?, path.file_name()?.to_owned()));
    a == b || place(a).is_some_and(|a| place(b) == Some(a))
}

/// Fails if `dir` has no room for files of these sizes, each rounded up to blocks, and for their metadata.
pub fn require_room(dir: &Path, files: impl Iterator<Item = u64>) -> Result<(), Failure> {
    let fs = statvfs(dir)
        .map_err(|errno| Failure::Failed(format!("cannot ask for free space in {}: {}", shown(dir), errno.desc())))?;
    let need = Need::of(files, fs.fragment_size().max(1));
    if let Some(free) = free(&fs).filter(|free| need.bytes > *free) {
        return Err(Failure::Failed(format!(
            "{} has {} free, and {} are needed: name a folder with more room, or ask for less",
            shown(dir),
            size::show(free),
            size::show(need.bytes),
        )));
    }
    // File systems that make inodes on demand (btrfs) report no count.
    if fs.files() != 0 && need.inodes > fs.files_available() {
        return Err(Failure::Failed(format!(
            "{} has room for {} more files, and {} are needed: make fewer, larger ones",
            shown(dir),
            fs.files_available(),
            need.inodes,
        )));
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Need {
    bytes: u64,
    inodes: u64,
}

impl Need {
    fn of(files: impl Iterator<Item = u64>, block: u64) -> Self {
        /// Journal, bitmaps, the folder itself.
        const SLACK: u64 = 1 << 20;
        files.fold(Self { bytes: SLACK, inodes: 1 }, |need, bytes| {
            // One block more per file, for its extents and name.
            let blocks = bytes.div_ceil(block).saturating_add(1);
            Self { bytes: need.bytes.saturating_add(blocks.saturating_mul(block)), inodes: need.inodes + 1 }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_need_whole_blocks_and_an_inode_each() {
        let need = Need::of([1, 4096, 4097].into_iter(), 4096);
        assert_eq!(need, Need { bytes: (1 << 20) + 4096 * (2 + 2 + 3), inodes: 4 });
        assert_eq!(Need::of([u64::MAX, u64::MAX].into_iter(), 4096).bytes, u64::MAX);
    }

    #[test]
    fn a_set_that_cannot_fit_is_refused_with_both_figures() {
        let dir = tempfile::tempdir().unwrap();
        let error = require_room(dir.path(), [1 << 60].into_iter()).unwrap_err().to_string();
        assert!(error.contains("1.0 EiB are needed") && error.contains("free"), "{error}");
        require_room(dir.path(), [1, 2, 3].into_iter()).unwrap();
    }

    #[test]
    fn what_is_no_folder_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = require_folder(file.path()).unwrap_err().to_string();
        assert!(error.contains(&*file.path().to_string_lossy()) && error.contains("not a folder"), "{error}");
        let error = require_folder(Path::new("/no such folder")).unwrap_err().to_string();
        assert!(error.contains("/no such folder") && error.contains("No such file"), "{error}");
    }
}
