//! The descriptors of an open file: one that goes past the page cache where the file can do that, and one through it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, PosixFadviseAdvice, fcntl, open, posix_fadvise};
use nix::sys::stat::{Mode, fchmod, fstat, stat};

use crate::backend::Direction;
use crate::file::OpenOptions;
use crate::file::sys::statx::{facts, refusal};
use crate::sync::{Mutex, lock};

/// The descriptors of an open file.
#[derive(Debug)]
pub(super) struct Descriptors {
    /// Open from the start; bypasses the page cache if `direct`. Errors of write-back are reported to it.
    primary: OwnedFd,
    direct: bool,
    /// Of a direct file: through the page cache.
    buffered: OnceLock<OwnedFd>,
    /// Of a direct file: through the page cache, for reads that run through it. `None` if it could not be opened.
    streaming: OnceLock<Option<OwnedFd>>,
    opening: Mutex<()>,
    flags: OFlag,
    /// There was no such file before.
    made: bool,
}

impl Descriptors {
    /// Opens `path`. Until [`set_direct`](Self::set_direct) decides, the descriptor does not block.
    pub(super) fn open(path: &Path, options: &OpenOptions) -> io::Result<Self> {
        let (primary, made) = open_first(path, options).map_err(|error| explained(path, error))?;
        Ok(Self {
            primary,
            direct: false,
            buffered: OnceLock::new(),
            streaming: OnceLock::new(),
            opening: Mutex::new(()),
            // Later opens of the same file must neither make it nor insist on making it.
            flags: options.flags().difference(OFlag::O_CREAT | OFlag::O_EXCL),
            made,
        })
    }

    /// Makes the first descriptor go past the page cache, or through it. Not asked for when the file is opened: an
    /// open with `O_DIRECT` that the file system refuses may have made the file already.
    pub(super) fn set_direct(&mut self, direct: bool) -> io::Result<()> {
        set_flags(&self.primary, if direct { OFlag::O_DIRECT } else { OFlag::empty() })?;
        self.direct = direct;
        Ok(())
    }

    /// Whether the first descriptor goes past the page cache.
    pub(super) fn is_direct(&self) -> bool {
        self.direct
    }

    /// Whether they are open for this direction.
    pub(super) fn allow(&self, direction: Direction) -> bool {
        match direction {
            Direction::Read => !self.flags.contains(OFlag::O_WRONLY),
            Direction::Write => self.flags.intersects(OFlag::O_WRONLY | OFlag::O_RDWR),
        }
    }

    /// The descriptor that has been open longest.
    pub(super) fn primary(&self) -> BorrowedFd<'_> {
        self.primary.as_fd()
    }

    /// The descriptor through the page cache, if it is open already.
    pub(super) fn buffered_if_open(&self) -> Option<BorrowedFd<'_>> {
        if self.direct { self.buffered.get().map(AsFd::as_fd) } else { Some(self.primary()) }
    }

    /// The descriptor through the page cache of the file with this device and inode number. It is opened by `path`
    /// only where /proc is not mounted.
    pub(super) fn buffered(&self, path: &Path, identity: (u64, u64)) -> io::Result<BorrowedFd<'_>> {
        if let Some(fd) = self.buffered_if_open() {
            return Ok(fd);
        }
        let _one_at_a_time = lock(&self.opening);
        if self.buffered.get().is_none() {
            let fd = self.reopen(path, identity)?;
            if self.allow(Direction::Read) {
                expect_random_reads(fd.as_fd());
            }
            let _ = self.buffered.set(fd);
        }
        self.buffered_if_open().ok_or_else(|| io::Error::from(Errno::EBADF))
    }

    /// A descriptor through the page cache for reads that run through the file with this device and inode number: the
    /// kernel reads ahead of them. It is opened when it is first needed, which may be long after the file was: through
    /// /proc alone, and where that is refused, the reads do without.
    pub(super) fn streaming(&self, identity: (u64, u64)) -> Option<BorrowedFd<'_>> {
        let open = || {
            let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
            let fd = open_same(&self.through_proc(), flags, identity).ok()?;
            advise(fd.as_fd(), PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL);
            Some(fd)
        };
        self.streaming.get_or_init(open).as_ref().map(AsFd::as_fd)
    }

    /// Opens the same inode once more.
    fn reopen(&self, path: &Path, identity: (u64, u64)) -> io::Result<OwnedFd> {
        match self.open_again(path, identity) {
            Err(error) if self.made && error.raw_os_error() == Some(libc::EACCES) => {
                self.with_rights_of_owner(|| self.open_again(path, identity))
            }
            opened => opened,
        }
    }

    /// Through /proc, also after a rename or unlink; where that is not mounted, by the path.
    fn open_again(&self, path: &Path, identity: (u64, u64)) -> io::Result<OwnedFd> {
        open_same(&self.through_proc(), self.flags, identity).or_else(|refused| {
            match open_same(path, self.flags, identity) {
                Err(_) if refused.kind() != io::ErrorKind::NotFound => Err(refused),
                opened => opened,
            }
        })
    }

    /// Threads may have descriptors of their own (`unshare(2)`).
    fn through_proc(&self) -> PathBuf {
        format!("/proc/thread-self/fd/{}", self.primary().as_raw_fd()).into()
    }

    /// Lets the owner, who made the file just now under a umask or access list that denies it, read and write it
    /// during `run`.
    fn with_rights_of_owner<T>(&self, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let mode = Mode::from_bits_truncate(fstat(self.primary())?.st_mode);
        fchmod(self.primary(), mode | Mode::S_IRUSR | Mode::S_IWUSR)?;
        let result = run();
        fchmod(self.primary(), mode)?;
        result
    }

    /// Duplicates of all that are open.
    pub(super) fn duplicates(&self) -> io::Result<Vec<OwnedFd>> {
        let fds = std::iter::once(self.primary()).chain(self.buffered.get().map(AsFd::as_fd));
        fds.map(|fd| fd.try_clone_to_owned()).collect()
    }

    /// Closes them, and says what `close(2)` said.
    pub(super) fn close(self) -> io::Result<()> {
        let buffered = self.buffered.into_inner().map_or(Ok(()), close_fd);
        close_fd(self.primary).and(buffered)
    }
}

/// The first descriptor, and whether it made the file.
fn open_first(path: &Path, options: &OpenOptions) -> nix::Result<(OwnedFd, bool)> {
    let mode = Mode::from_bits_truncate(if options.private { 0o600 } else { 0o666 });
    // Not to hang on a pipe without a writer; cleared later.
    let flags = options.flags() | OFlag::O_NONBLOCK;
    if options.create && !options.create_new {
        // Otherwise it would not be known whether this call made the file.
        match open_whole(path, flags | OFlag::O_EXCL, mode) {
            Err(Errno::EEXIST) => {}
            made => return Ok((made?, true)),
        }
    }
    Ok((open_whole(path, flags, mode)?, options.create_new))
}

/// As `open(2)`, which a signal may interrupt on FUSE and on network file systems.
fn open_whole(path: &Path, flags: OFlag, mode: Mode) -> nix::Result<OwnedFd> {
    loop {
        match open(path, flags, mode) {
            Err(Errno::EINTR) => {}
            opened => return opened,
        }
    }
}

/// Opens what `path` names if it is the file with this device and inode number.
fn open_same(path: &Path, flags: OFlag, identity: (u64, u64)) -> io::Result<OwnedFd> {
    // What the path names by now may be a pipe.
    let fd = open_whole(path, flags | OFlag::O_NONBLOCK, Mode::empty())?;
    if facts(fd.as_fd())?.identity() != identity {
        return Err(io::Error::other("the path names another file by now"));
    }
    set_flags(&fd, OFlag::empty())?;
    Ok(fd)
}

/// The kernel calls sockets, FIFOs that are opened for writing only, and devices without a driver missing devices.
fn explained(path: &Path, error: Errno) -> io::Error {
    let found = if matches!(error, Errno::ENXIO | Errno::ENODEV) { stat(path).ok() } else { None };
    found.and_then(|found| refusal(found.st_mode)).unwrap_or_else(|| error.into())
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
fn expect_random_reads(fd: BorrowedFd<'_>) {
    advise(fd, PosixFadviseAdvice::POSIX_FADV_RANDOM);
}

fn advise(fd: BorrowedFd<'_>, advice: PosixFadviseAdvice) {
    let _ = posix_fadvise(fd, 0, 0, advice);
}

/// `close(2)`. On Linux the descriptor is gone also when it reports an error, so EINTR is not retried.
pub(crate) fn close_fd(fd: OwnedFd) -> io::Result<()> {
    match nix::unistd::close(fd) {
        Ok(()) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
