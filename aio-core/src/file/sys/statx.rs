//! What `statx(2)` says of a file. Neither `std` nor nix has `STATX_DIOALIGN`.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::memory::page_size;
use crate::op::plan::Alignment;

/// The facts of an open file that the engine needs.
#[derive(Debug, Clone)]
pub(crate) struct FileFacts {
    pub(crate) regular: bool,
    file_type: u32,
    pub(crate) len: u64,
    /// When the contents were last changed.
    pub(crate) modified: SystemTime,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// The device that a device node stands for.
    represents: u64,
    block_size: u32,
    /// Memory and offset alignment of direct I/O; `None` where the kernel or file system does not say.
    dio: Option<(u32, u32)>,
}

/// Asks the kernel about an open file.
pub(crate) fn facts(fd: BorrowedFd<'_>) -> io::Result<FileFacts> {
    let statx = statx(fd.as_raw_fd(), c"", libc::AT_EMPTY_PATH)?;
    let file_type = u32::from(statx.stx_mode) & libc::S_IFMT;
    Ok(FileFacts {
        regular: file_type == libc::S_IFREG,
        file_type,
        len: statx.stx_size,
        modified: time(&statx.stx_mtime),
        device: libc::makedev(statx.stx_dev_major, statx.stx_dev_minor),
        inode: statx.stx_ino,
        represents: libc::makedev(statx.stx_rdev_major, statx.stx_rdev_minor),
        block_size: statx.stx_blksize,
        dio: (statx.stx_mask & libc::STATX_DIOALIGN != 0)
            .then_some((statx.stx_dio_mem_align, statx.stx_dio_offset_align)),
    })
}

/// The epoch for what no [`SystemTime`] can be.
fn time(stamp: &libc::statx_timestamp) -> SystemTime {
    let (epoch, seconds) = (SystemTime::UNIX_EPOCH, Duration::from_secs(stamp.tv_sec.unsigned_abs()));
    let second = if stamp.tv_sec < 0 { epoch.checked_sub(seconds) } else { epoch.checked_add(seconds) };
    second.and_then(|second| second.checked_add(Duration::from_nanos(stamp.tv_nsec.into()))).unwrap_or(epoch)
}

/// What a path names itself, as opposed to what a symbolic link points to: `STATX_ATTR_*`.
pub(crate) fn attributes(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    Ok(statx(libc::AT_FDCWD, &path, libc::AT_SYMLINK_NOFOLLOW)?.stx_attributes)
}

fn statx(fd: RawFd, path: &CStr, flags: i32) -> io::Result<libc::statx> {
    let mut statx = MaybeUninit::<libc::statx>::zeroed();
    let mask = libc::STATX_BASIC_STATS | libc::STATX_DIOALIGN;
    // SAFETY: the path ends with a NUL, a descriptor that is not open is an error, and the result buffer is large enough
    // by its type.
    let status = unsafe { libc::statx(fd, path.as_ptr(), flags, mask, statx.as_mut_ptr()) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed is a valid statx, and the kernel filled it in on top.
    Ok(unsafe { statx.assume_init() })
}

/// Why ops on a file of this type (`st_mode`) make no sense, if they do not.
pub(crate) fn refusal(mode: u32) -> Option<io::Error> {
    let what = match mode & libc::S_IFMT {
        libc::S_IFREG | libc::S_IFBLK => return None,
        libc::S_IFDIR => return Some(io::Error::from_raw_os_error(libc::EISDIR)),
        libc::S_IFIFO => "a FIFO",
        libc::S_IFSOCK => "a socket",
        libc::S_IFCHR => "a character device",
        _ => "of no known type",
    };
    let why = format!("it is {what}, and only regular files and block devices can be used");
    Some(io::Error::new(io::ErrorKind::InvalidInput, why))
}

impl FileFacts {
    /// Device and inode number; a block device is the same by whichever node it was opened.
    pub(crate) fn identity(&self) -> (u64, u64) {
        if self.regular { (self.device, self.inode) } else { (u64::MAX, self.represents) }
    }

    /// Whether the file system says what direct I/O asks for. Network file systems do not.
    pub(crate) fn tells_alignment(&self) -> bool {
        self.dio.is_some()
    }

    /// Why ops on it make no sense, if they do not.
    pub(crate) fn refusal(&self) -> Option<io::Error> {
        refusal(self.file_type)
    }

    /// The units of direct I/O; `None` if the file system says that it has none.
    ///
    /// Where it says nothing (kernels before 6.1, some file systems), whole pages are assumed, and a block that is
    /// refused all the same goes through the page cache.
    pub(crate) fn direct_alignment(&self) -> Option<Alignment> {
        let page = page_size() as u32;
        let (memory, offset) = self.dio.unwrap_or((page, page));
        if memory == 0 || offset == 0 {
            return None;
        }
        // st_blksize of a regular file is its file system's block size; a block device's is its own affair.
        let block = if self.regular && self.block_size.is_power_of_two() { self.block_size } else { page };
        // Some network file systems give their transfer size as st_blksize; that is no reason to cut by it.
        let block = if block <= 64 << 10 { block } else { page };
        let offset = offset.max(page).max(block);
        (memory.is_power_of_two() && offset.is_power_of_two()).then_some(Alignment { offset, memory })
    }
}
