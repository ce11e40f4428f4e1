//! Open files as the engine sees them: descriptors, alignment, and what happens at close.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::{Mode, fchmod, fstat, stat};
use nix::sys::statfs::{HUGETLBFS_MAGIC, fstatfs};

use crate::backend::Direction;
use crate::config::DirectMode;
use crate::error::{IoError, OpKind, Result};
use crate::file::inode::Inode;
use crate::file::residency::{self, Residency};
use crate::file::slots::Registered;
use crate::file::sys::statx::{FileFacts, facts, refusal};
use crate::file::write_back::Sync;
use crate::op::plan::Alignment;
use crate::sync::{Mutex, lock};

/// How to open a file. Nothing is set at first.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) create: bool,
    pub(crate) create_new: bool,
    pub(crate) direct: Option<DirectMode>,
    private: bool,
    one_op: bool,
    one_read: bool,
}

impl OpenOptions {
    /// Nothing set.
    pub fn new() -> Self {
        Self::default()
    }

    /// For reading.
    pub fn read(mut self, read: bool) -> Self {
        self.read = read;
        self
    }

    /// For writing. An existing file is neither cut nor replaced.
    pub fn write(mut self, write: bool) -> Self {
        self.write = write;
        self
    }

    /// Make the file if there is none, also where a symbolic link points to none. Implies `write`.
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Make the file; an existing one, or a symbolic link, is an error. Implies `write`.
    pub fn create_new(mut self, create_new: bool) -> Self {
        self.create_new = create_new;
        self
    }

    /// Whether to bypass the page cache; the default is the handle's.
    pub fn direct(mut self, direct: DirectMode) -> Self {
        self.direct = Some(direct);
        self
    }

    /// Only the owner may use the file that is made.
    pub(crate) fn private(mut self, private: bool) -> Self {
        self.private = private;
        self
    }

    /// The file will be open for one op, which may need no second descriptor.
    pub(crate) fn one_op(mut self, one_op: bool) -> Self {
        self.one_op = one_op;
        self
    }

    /// That op is a read: it goes through the page cache if the file is there when it is opened.
    pub(crate) fn one_read(mut self, one_read: bool) -> Self {
        self.one_read = one_read;
        self
    }

    fn flags(&self) -> OFlag {
        let write = self.write || self.create || self.create_new;
        let mut flags = OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        flags |= match (self.read, write) {
            (true, true) => OFlag::O_RDWR,
            (false, true) => OFlag::O_WRONLY,
            _ => OFlag::O_RDONLY,
        };
        if self.create || self.create_new {
            flags |= OFlag::O_CREAT;
        }
        if self.create_new {
            flags |= OFlag::O_EXCL;
        }
        flags
    }
}

/// An open file, without a handle: what an op descriptor names. Cheap to clone; closed with the last clone.
#[derive(Clone)]
pub struct OpenFile(Arc<Inner>);

struct Inner {
    path: PathBuf,
    // Dropped before the descriptors are closed: then the number may be another file's, which has nothing to do with it.
    /// Not of a file that is opened for one read.
    inode: Option<Arc<Inode>>,
    /// There if its reads may go through the page cache while all of it is there.
    residency: Option<Residency>,
    /// Open from the start; bypasses the page cache if `direct`. Errors of write-back are reported to it.
    primary: OwnedFd,
    direct: bool,
    /// For the edges of a direct file and while it is resident: the same file through the page cache. Open from the
    /// start, since permissions and limits may change; but if it is open for one op only, when that needs it.
    edges: OnceLock<OwnedFd>,
    opening: Mutex<()>,
    flags: OFlag,
    /// There was no such file before.
    made: bool,
    facts: FileFacts,
    alignment: Alignment,
    /// Its slot in the queues' tables, if a handle gave it one; returned when dropped.
    registered: OnceLock<Registered>,
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
        let (primary, made) = open_first(path, options).map_err(|error| explained(path, error))?;
        let opened = Self::from_fd(path, primary, made, options, mode);
        if opened.is_err() && options.create_new {
            // Made by this call, and of no use to anybody.
            let _ = std::fs::remove_file(path);
        }
        opened
    }

    fn from_fd(
        path: &Path,
        primary: OwnedFd,
        made: bool,
        options: &OpenOptions,
        mode: DirectMode,
    ) -> io::Result<Self> {
        let flags = options.flags();
        let facts = facts(primary.as_fd())?;
        if let Some(refusal) = facts.refusal() {
            return Err(refusal);
        }
        let mut alignment = facts.direct_alignment().filter(|_| mode != DirectMode::Off);
        let chooses = mode == DirectMode::Auto
            && alignment.is_some()
            && facts.regular
            && facts.tells_alignment()
            && options.read;
        if chooses && options.one_read && residency::is_resident_now(primary.as_fd(), facts.len, facts.identity()) {
            expect_random_reads(&primary);
            alignment = None;
        }
        // Switched on afterwards: an open with O_DIRECT that the file system refuses may have made the file already.
        if alignment.is_some() && set_flags(&primary, OFlag::O_DIRECT).is_err() {
            alignment = None;
        }
        if alignment.is_none() {
            if mode == DirectMode::On {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "direct I/O was asked for, but this file system does not offer it",
                ));
            }
            if flags.intersects(OFlag::O_WRONLY | OFlag::O_RDWR) && is_on_hugetlbfs(&primary) {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "files on hugetlbfs can be mapped and read, but not written",
                ));
            }
            set_flags(&primary, OFlag::empty())?;
        }
        let len = if facts.regular { facts.len } else { u64::MAX };
        let file = Self(Arc::new(Inner {
            path: path.to_owned(),
            // A failed sync is not forgotten while anybody has the file open, so readers share in it, too.
            inode: (!options.one_read).then(|| Inode::of(facts.identity(), len)),
            residency: (chooses && alignment.is_some() && !options.one_read).then(Residency::default),
            primary,
            direct: alignment.is_some(),
            edges: OnceLock::new(),
            opening: Mutex::new(()),
            // Later opens of the same file must neither make it nor insist on making it.
            flags: flags.difference(OFlag::O_CREAT | OFlag::O_EXCL),
            made,
            facts,
            alignment: alignment.unwrap_or(Alignment::NONE),
            registered: OnceLock::new(),
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
        self.0.direct
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

    /// Whether it is open for this direction.
    pub(crate) fn allows(&self, direction: Direction) -> bool {
        match direction {
            Direction::Read => !self.0.flags.contains(OFlag::O_WRONLY),
            Direction::Write => self.0.flags.intersects(OFlag::O_WRONLY | OFlag::O_RDWR),
        }
    }

    /// Length when it was opened.
    pub(crate) fn len_at_open(&self) -> u64 {
        self.0.facts.len
    }

    /// Whether reads may go through the page cache as a whole, depending on where the file lies.
    pub(crate) fn may_be_resident(&self) -> bool {
        self.0.residency.is_some()
    }

    /// Whether a read now should go through the page cache as a whole, because the file lies there. The descriptor for
    /// that is open then.
    #[inline]
    pub(crate) fn is_resident(&self) -> bool {
        self.0.residency.as_ref().is_some_and(|residency| residency.is_resident(self))
    }

    /// Counts `reads` reads of together `bytes` bytes, the last of which ends at `end`: every so often it is looked
    /// up where the file lies.
    #[inline]
    pub(crate) fn count_reads(&self, reads: u64, bytes: u64, end: u64) {
        if let Some(residency) = &self.0.residency {
            residency.count(self, reads, bytes, end);
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
            // The descriptor that has been open longest hears of whatever was lost since.
            Some(inode) => inode.write_back.sync(self.fd(), what),
            None => Err(io::Error::other("it was opened for one read")),
        }
    }

    /// The descriptor that has been open longest.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.primary.as_fd()
    }

    /// The descriptor through the page cache, if it is open already.
    pub(crate) fn buffered_if_open(&self) -> Option<BorrowedFd<'_>> {
        if self.0.direct { self.0.edges.get().map(AsFd::as_fd) } else { Some(self.fd()) }
    }

    /// The descriptor through the page cache.
    pub(crate) fn buffered(&self) -> io::Result<BorrowedFd<'_>> {
        if let Some(fd) = self.buffered_if_open() {
            return Ok(fd);
        }
        let _one_at_a_time = lock(&self.0.opening);
        if self.0.edges.get().is_none() {
            let fd = self.reopen()?;
            if self.allows(Direction::Read) {
                expect_random_reads(&fd);
            }
            let _ = self.0.edges.set(fd);
        }
        self.buffered_if_open().ok_or_else(|| io::Error::from(Errno::EBADF))
    }

    /// Opens the same inode once more.
    fn reopen(&self) -> io::Result<OwnedFd> {
        match self.open_again() {
            Err(error) if self.0.made && error.raw_os_error() == Some(libc::EACCES) => {
                self.with_rights_of_owner(|| self.open_again())
            }
            opened => opened,
        }
    }

    /// Through /proc, also after a rename or unlink; where that is not mounted, by the path.
    fn open_again(&self) -> io::Result<OwnedFd> {
        // Threads may have descriptors of their own (`unshare(2)`).
        let through_proc = format!("/proc/thread-self/fd/{}", self.fd().as_raw_fd());
        self.open_same(through_proc.as_ref()).or_else(|refused| match self.open_same(&self.0.path) {
            Err(_) if refused.kind() != io::ErrorKind::NotFound => Err(refused),
            opened => opened,
        })
    }

    fn open_same(&self, path: &Path) -> io::Result<OwnedFd> {
        // What the path names by now may be a pipe.
        let fd = open(path, self.0.flags | OFlag::O_NONBLOCK, Mode::empty())?;
        if facts(fd.as_fd())?.identity() != self.0.facts.identity() {
            return Err(io::Error::other("the path names another file by now"));
        }
        set_flags(&fd, OFlag::empty())?;
        Ok(fd)
    }

    /// Lets the owner, who made the file just now under a umask or access list that denies it, read and write it
    /// during `run`.
    fn with_rights_of_owner<T>(&self, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let mode = Mode::from_bits_truncate(fstat(self.fd())?.st_mode);
        fchmod(self.fd(), mode | Mode::S_IRUSR | Mode::S_IWUSR)?;
        let result = run();
        fchmod(self.fd(), mode)?;
        result
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
    pub(crate) fn registered(&self) -> Option<&Registered> {
        self.0.registered.get()
    }

    pub(crate) fn set_registered(&self, registered: Registered) {
        let _ = self.0.registered.set(registered);
    }

    /// Whether there are other clones.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Duplicates of its descriptors: closing them says what closing it would say of its writes. Network file systems
    /// report lost writes so.
    pub(crate) fn duplicates(&self) -> io::Result<Vec<OwnedFd>> {
        let fds = std::iter::once(self.fd()).chain(self.0.edges.get().map(AsFd::as_fd));
        fds.map(|fd| fd.try_clone_to_owned()).collect()
    }

    /// Closes it if this is the last clone, and says what `close(2)` said.
    pub(crate) fn close(self) -> io::Result<()> {
        let Some(Inner { inode, residency, primary, edges, .. }) = Arc::into_inner(self.0) else { return Ok(()) };
        drop((inode, residency));
        let edges = edges.into_inner().map_or(Ok(()), close_fd);
        close_fd(primary).and(edges)
    }
}

/// The first descriptor, and whether it made the file.
fn open_first(path: &Path, options: &OpenOptions) -> nix::Result<(OwnedFd, bool)> {
    let mode = Mode::from_bits_truncate(if options.private { 0o600 } else { 0o666 });
    // Not to hang on a pipe that nobody writes to; cleared later.
    let flags = options.flags() | OFlag::O_NONBLOCK;
    if options.create && !options.create_new {
        // Otherwise it would not be known who made the file.
        match open(path, flags | OFlag::O_EXCL, mode) {
            Err(Errno::EEXIST) => {}
            made => return Ok((made?, true)),
        }
    }
    Ok((open(path, flags, mode)?, options.create_new))
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

/// The kernel calls sockets, FIFOs that are opened for writing only, and devices without a driver missing devices.
fn explained(path: &Path, error: Errno) -> io::Error {
    let found = if matches!(error, Errno::ENXIO | Errno::ENODEV) { stat(path).ok() } else { None };
    found.and_then(|found| refusal(found.st_mode)).unwrap_or_else(|| error.into())
}

/// Its `write(2)` answers EINVAL.
fn is_on_hugetlbfs(fd: &OwnedFd) -> bool {
    fstatfs(fd).is_ok_and(|found| found.filesystem_type() == HUGETLBFS_MAGIC)
}

/// Whether `path` names the regular file with this device and inode number.
pub(crate) fn is_named(path: &Path, identity: (u64, u64)) -> bool {
    nix::sys::stat::lstat(path).is_ok_and(|found| (found.st_dev, found.st_ino) == identity)
}

impl fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenFile")
            .field("path", &self.0.path)
            .field("direct", &self.0.direct)
            .field("alignment", &self.0.alignment)
            .finish_non_exhaustive()
    }
}

/// Sets the status flags of an open file, and spares reads the update of the access time where this process may: only
/// the file's owner can.
fn set_flags(fd: &OwnedFd, flags: OFlag) -> nix::Result<()> {
    match fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NOATIME)) {
        Err(Errno::EPERM) => fcntl(fd, FcntlArg::F_SETFL(flags)).map(drop),
        set => set.map(drop),
    }
}

/// Switches read-ahead off. Edges are read page by page between direct writes: it would fill the cache with pages that
/// those writes have to throw out again. What is cached needs none.
fn expect_random_reads(fd: &OwnedFd) {
    let _ = nix::fcntl::posix_fadvise(fd, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_RANDOM);
}

/// `close(2)`. On Linux the descriptor is gone also when it reports an error, so EINTR is not retried.
pub(crate) fn close_fd(fd: OwnedFd) -> io::Result<()> {
    match nix::unistd::close(fd) {
        Ok(()) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
