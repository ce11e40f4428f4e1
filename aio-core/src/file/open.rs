//! Open files as the engine sees them: how they are opened, what the engine asks of them, and what happens at close.

use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use nix::sys::statfs::{HUGETLBFS_MAGIC, fstatfs};

use crate::backend::Direction;
use crate::config::DirectMode;
use crate::error::{IoError, OpKind, Result};
use crate::file::OpenOptions;
use crate::file::descriptors::Descriptors;
use crate::file::growth::ExtendingWrite;
use crate::file::inode::Inode;
use crate::file::residency::{self, Residency};
use crate::file::slots::FileSlot;
use crate::file::streams::{FileStreams, write_out};
use crate::file::sys::statx::{FileFacts, facts};
use crate::file::write_back::Sync;
use crate::foreign::log;
use crate::op::plan::Alignment;
use crate::printable::shown;

/// An open file, without a handle: what an op descriptor names. Cheap to clone; closed with the last clone.
#[derive(Clone)]
pub struct OpenFile(Arc<Inner>);

struct Inner {
    path: PathBuf,
    // Dropped before the descriptors are closed: then the number may be another file's, which has nothing to do with it.
    /// Not of a file that is opened for one read.
    inode: Option<Arc<Inode>>,
    /// There if how it is read depends on whether it lies in the page cache.
    residency: Option<Residency>,
    /// It is open for one read, and lay in the page cache when it was opened.
    resident_at_open: bool,
    /// Not there if blocking calls that run through it must be direct.
    streams: Option<FileStreams>,
    /// The one through the page cache is for the edges of a direct file, and for its reads while it is resident. It
    /// is open from the start, since permissions and limits may change; but if the file is open for one op only, when
    /// that needs it.
    descriptors: Descriptors,
    facts: FileFacts,
    alignment: Alignment,
    /// Its slot in the queues' tables, if a handle gave it one; returned when dropped.
    slot: OnceLock<FileSlot>,
}

impl OpenFile {
    /// Opens `path`, which is a regular file or a block device.
    pub(crate) fn open(path: &Path, options: &OpenOptions, default: DirectMode) -> Result<Self> {
        Self::try_open(path, options, options.direct.unwrap_or(default))
            .map_err(|source| IoError::new(OpKind::Open, path, source).into())
    }

    /// [`open`](Self::open), with the bare reason.
    pub(crate) fn try_open(path: &Path, options: &OpenOptions, mode: DirectMode) -> io::Result<Self> {
        check_path(path)?;
        let descriptors = Descriptors::open(path, options)?;
        let opened = Self::with(path, descriptors, options, mode);
        if opened.is_err() && options.create_new {
            // Made by this call, and of no use.
            let _ = std::fs::remove_file(path);
        }
        opened
    }

    fn with(path: &Path, mut descriptors: Descriptors, options: &OpenOptions, mode: DirectMode) -> io::Result<Self> {
        let fd = descriptors.primary();
        let facts = facts(fd)?;
        if let Some(refusal) = facts.refusal() {
            return Err(refusal);
        }
        let mut alignment = facts.direct_alignment().filter(|_| mode != DirectMode::Off);
        let chooses = mode == DirectMode::Auto
            && alignment.is_some()
            && facts.regular
            && facts.tells_alignment()
            && options.read;
        let reads = facts.regular && options.read;
        let resident_at_open = options.one_read
            && (chooses || reads && alignment.is_none())
            && residency::is_resident_now(fd, facts.len, facts.identity());
        if resident_at_open && chooses {
            alignment = None;
        }
        if alignment.is_some() && descriptors.set_direct(true).is_err() {
            alignment = None;
        }
        if alignment.is_none() {
            let refused = |why| Err(io::Error::new(io::ErrorKind::Unsupported, why));
            if mode == DirectMode::On {
                return refused("direct I/O was asked for, but this file system does not offer it");
            }
            if descriptors.allow(Direction::Write) && is_on_hugetlbfs(descriptors.primary()) {
                return refused("files on hugetlbfs can be mapped and read, but not written");
            }
            descriptors.set_direct(false)?;
        }
        let len = if facts.regular { facts.len } else { u64::MAX };
        let streams = facts.regular && mode != DirectMode::On && (alignment.is_none() || facts.tells_alignment());
        let file = Self(Arc::new(Inner {
            path: path.to_owned(),
            // A failed sync is not forgotten while the inode is open anywhere, so readers share in it, too.
            inode: (!options.one_read).then(|| Inode::of(facts.identity(), len)),
            residency: (!options.one_read && (chooses || reads && alignment.is_none())).then(Residency::default),
            resident_at_open,
            streams: streams.then(FileStreams::default),
            descriptors,
            facts,
            alignment: alignment.unwrap_or(Alignment::NONE),
            slot: OnceLock::new(),
        }));
        if !options.one_op {
            file.buffered()?;
        }
        Ok(file)
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Whether aligned parts of ops bypass the page cache.
    pub fn is_direct(&self) -> bool {
        self.0.descriptors.is_direct()
    }

    /// What direct I/O on this file asks for; [`Alignment::offset`] is 0 where there is none.
    pub fn alignment(&self) -> Alignment {
        self.0.alignment
    }

    /// Length in bytes, now. Of a block device: its size.
    pub(crate) fn len(&self) -> io::Result<u64> {
        if self.0.facts.regular {
            return Ok(facts(self.fd())?.len);
        }
        let end = nix::unistd::lseek64(self.fd(), 0, nix::unistd::Whence::SeekEnd)?;
        Ok(u64::try_from(end).unwrap_or(0))
    }

    /// When its contents were last changed.
    pub(crate) fn modified(&self) -> io::Result<SystemTime> {
        Ok(facts(self.fd())?.modified)
    }

    /// Whether it is open for this direction.
    pub(crate) fn allows(&self, direction: Direction) -> bool {
        self.0.descriptors.allow(direction)
    }

    /// Length when it was opened.
    pub(crate) fn len_at_open(&self) -> u64 {
        self.0.facts.len
    }

    /// Whether how it is read depends on where it lies.
    pub(crate) fn may_be_resident(&self) -> bool {
        self.0.residency.is_some() || self.0.resident_at_open
    }

    /// Whether a read now should go through the page cache as a whole, because the file lies there. The descriptor for
    /// that is open then.
    #[inline]
    pub(crate) fn is_resident(&self) -> bool {
        self.0.residency.as_ref().map_or(self.0.resident_at_open, |residency| residency.is_resident(self))
    }

    /// Counts `reads` reads of together `bytes` bytes, the last of which ends at `end`: every so often it is looked
    /// up where the file lies.
    #[inline]
    pub(crate) fn count_reads(&self, reads: u64, bytes: u64, end: u64) {
        if let Some(residency) = &self.0.residency {
            residency.count(self, reads, bytes, end);
        }
    }

    /// The descriptor for a blocking read, of a file that is not resident, that goes on with a stream of others; it goes
    /// through the page cache. The cautions are those of [`residency`].
    pub(crate) fn goes_on_reading(&self, offset: u64, len: usize) -> Option<BorrowedFd<'_>> {
        let Inner { inode: Some(inode), residency: Some(_), streams: Some(streams), descriptors, .. } = &*self.0
        else {
            return None;
        };
        let goes_on = self.is_direct() && streams.goes_on_reading(inode, offset, len);
        if goes_on { descriptors.streaming(self.identity()) } else { None }
    }

    /// Whether a blocking write goes on with a stream of others, and so is to go through the page cache.
    pub(crate) fn goes_on_writing(&self, offset: u64, len: usize) -> bool {
        self.0.streams.as_ref().is_some_and(|streams| streams.goes_on_writing(offset, len))
    }

    /// A stream has written `offset..end`. With [`DirectMode::Off`], when to write it out is the kernel's business.
    pub(crate) fn write_out(&self, offset: u64, end: u64) {
        if let (Some(fd), Some(inode)) = (self.buffered_if_open(), self.inode())
            && self.is_direct()
        {
            write_out(inode, fd, offset, end);
        }
    }

    /// The end of a write that made it longer: if it did not write its bytes, the length is given back.
    pub(crate) fn end_extending(&self, write: ExtendingWrite, wrote: bool) {
        if let Some(inode) = self.inode()
            && let Err(error) = inode.growth.end(self.fd(), write, wrote)
        {
            let path = shown(self.path());
            log(|| tracing::warn!(%path, %error, "could not give back the length of a failed write"));
        }
    }

    /// There if it is open for writing.
    pub(crate) fn inode(&self) -> Option<&Arc<Inode>> {
        self.shared_inode().filter(|_| self.allows(Direction::Write))
    }

    /// What all open files of its inode share; not there if it was opened for one read.
    pub(crate) fn shared_inode(&self) -> Option<&Arc<Inode>> {
        self.0.inode.as_ref()
    }

    /// Makes its bytes durable, whichever way they went, unless a sync of the inode failed before.
    pub(crate) fn sync(&self, what: Sync) -> io::Result<()> {
        match self.shared_inode() {
            // The kernel reports to the descriptor that has been open longest all that was lost since.
            Some(inode) => inode.write_back.sync(self.fd(), what),
            None => Err(io::Error::other("it was opened for one read")),
        }
    }

    /// The descriptor that has been open longest.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.descriptors.primary()
    }

    /// The descriptor through the page cache, if it is open already.
    pub(crate) fn buffered_if_open(&self) -> Option<BorrowedFd<'_>> {
        self.0.descriptors.buffered_if_open()
    }

    /// The descriptor through the page cache.
    pub(crate) fn buffered(&self) -> io::Result<BorrowedFd<'_>> {
        self.0.descriptors.buffered(&self.0.path, self.identity())
    }

    /// Whether `path` still names this file.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        self.0.facts.regular && is_named(path, self.identity())
    }

    /// Device and inode number.
    pub(crate) fn identity(&self) -> (u64, u64) {
        self.0.facts.identity()
    }

    /// The same for all clones, and for nothing else while one of them is there.
    pub(crate) fn key(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// The slot it has in the queues' file tables.
    pub(crate) fn slot(&self) -> Option<&FileSlot> {
        self.0.slot.get()
    }

    pub(crate) fn set_slot(&self, slot: FileSlot) {
        let _ = self.0.slot.set(slot);
    }

    /// Whether there are other clones.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Duplicates of its descriptors: closing them says what closing it would say of its writes. Network file systems
    /// report lost writes so.
    pub(crate) fn duplicates(&self) -> io::Result<Vec<OwnedFd>> {
        self.0.descriptors.duplicates()
    }

    /// Closes it if this is the last clone, and says what `close(2)` said.
    pub(crate) fn close(self) -> io::Result<()> {
        let Some(Inner { inode, residency, descriptors, .. }) = Arc::into_inner(self.0) else { return Ok(()) };
        drop((inode, residency));
        descriptors.close()
    }
}

/// An error for what no system call would take as a path.
pub(crate) fn check_path(path: &Path) -> io::Result<()> {
    let why = match path.as_os_str().as_bytes() {
        [] => "the path is empty",
        path if path.contains(&0) => "no path has a NUL byte in it",
        _ => return Ok(()),
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, why))
}

/// Whether `path` names the regular file with this device and inode number.
pub(crate) fn is_named(path: &Path, identity: (u64, u64)) -> bool {
    nix::sys::stat::lstat(path).is_ok_and(|found| (found.st_dev, found.st_ino) == identity)
}

impl fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenFile")
            .field("path", &self.0.path)
            .field("direct", &self.is_direct())
            .field("alignment", &self.0.alignment)
            .finish_non_exhaustive()
    }
}

/// Its `write(2)` answers EINVAL.
fn is_on_hugetlbfs(fd: BorrowedFd<'_>) -> bool {
    fstatfs(fd).is_ok_and(|found| found.filesystem_type() == HUGETLBFS_MAGIC)
}
