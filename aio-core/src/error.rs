//! What can go wrong, as sentences a user can act on.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::backend::Unavailable;
use crate::printable::shown;

/// The result of everything in this library that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an op, or a call, failed.
///
/// Its `Debug` is the same sentence as its `Display`: that is what `main` and `unwrap` print.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused or failed part of an op.
    #[error(transparent)]
    Io(#[from] Box<IoError>),

    /// The file ended inside a read. What was read up to there is in the buffer.
    #[error("cannot read {length} bytes at offset {offset} of {}: the file ends after {read} of them", shown(path))]
    UnexpectedEof {
        /// The file.
        path: PathBuf,
        /// First byte of the op in the file.
        offset: u64,
        /// Bytes that the op asked for, over all its extents.
        length: u64,
        /// Bytes that did arrive before the end of the file, counted from the start of the op.
        read: u64,
    },

    /// With `validate`: reading back gave other bytes than were transferred.
    #[error("{} does not hold what was {verb} at offset {offset}: the bytes that came back differ", shown(path), verb = if *.written { "written" } else { "read" })]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// The first byte in the file that differs.
        offset: u64,
        /// Whether the op was a write.
        written: bool,
    },

    /// The op was cancelled before it was complete. The contents of its range (of its memory, for a read) are
    /// unspecified.
    #[error("cancelled after {bytes} bytes: {op} of {}", shown(path))]
    Cancelled {
        /// What was cancelled.
        op: OpKind,
        /// The file.
        path: PathBuf,
        /// How many bytes had moved, not necessarily the first ones.
        bytes: u64,
    },

    /// A configuration value that is outside its range, or text that is not a configuration.
    #[error("{key} = {value} is not valid: {accepted}")]
    Config {
        /// The key, as users write it.
        key: String,
        /// What was given.
        value: String,
        /// What would be accepted, as a sentence.
        accepted: String,
    },

    /// No backend, or not the one that was asked for, works on this machine.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),

    /// An argument that cannot mean anything, such as a range past the largest file offset.
    #[error("{0}")]
    InvalidInput(String),

    /// Only from the `try_` forms: the op queue has no room now.
    #[error("the op queue is full ({limit} ops are waiting): wait for one to complete, or raise max_pending_ops")]
    QueueFull {
        /// The limit that was reached.
        limit: usize,
    },

    /// The arena cannot give this much memory: never, or (only from the `try_` forms) not now.
    #[error("cannot allocate {requested} bytes: {in_use} of the arena's limit of {limit} bytes are in use")]
    OutOfMemory {
        /// Bytes asked for.
        requested: u64,
        /// Bytes in use.
        in_use: u64,
        /// The limit, in bytes.
        limit: u64,
    },

    /// The system has no memory for a buffer.
    #[error("cannot map {requested} bytes of memory: {source}")]
    MapFailed {
        /// Bytes asked for.
        requested: u64,
        /// What the system said.
        source: io::Error,
    },

    /// The handle was closed.
    #[error("the aio handle is closed and takes no more ops")]
    Closed,

    /// The process was forked: workers, rings and buffers stayed with the parent.
    #[error("the aio handle belongs to the parent process: open a new one after fork")]
    Forked,

    /// Waiting for I/O on the thread that does the I/O (in `fini`, a waker, or a drop on a worker). Closing a handle or a
    /// file waits for threads, and so is an error on the workers of other handles, too.
    #[error("cannot wait on an aio worker thread: what it would wait for may wait for this thread")]
    WaitOnWorker,

    /// The worker that had the op stopped. The op's memory may have been leaked on purpose.
    #[error("the aio worker that had the op stopped: {reason}")]
    WorkerDied {
        /// What stopped it.
        reason: String,
    },

    /// A callback of the op (`fini`, `gather`, `scatter`) panicked.
    #[error("a callback of the op panicked in {callback}: {message}")]
    Panicked {
        /// Which one.
        callback: &'static str,
        /// The panic's message.
        message: String,
    },

    /// The result was taken before, by an earlier poll of the same ticket.
    #[error("the result of this ticket was taken already")]
    ResultTaken,

    /// Ops failed whose errors go to one call: those of a scope, or those whose tickets were dropped.
    #[error(transparent)]
    Failures(#[from] Failures),
}

/// An operating-system error, and what was being done.
#[derive(Debug)]
#[non_exhaustive]
pub struct IoError {
    /// What was being done.
    pub op: OpKind,
    /// The file.
    pub path: PathBuf,
    /// Where in the file the failed part begins, in bytes. 0 where the operation has no offset.
    pub offset: u64,
    /// Bytes of the failed part. 0 where the operation has no length.
    pub length: u64,
    /// The backend's name.
    pub backend: &'static str,
    /// What the operating system said.
    pub source: io::Error,
}

impl std::error::Error for IoError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { op, path, offset, length, backend, source } = self;
        let path = shown(path);
        match op {
            OpKind::Read => write!(f, "cannot read {length} bytes at offset {offset} of {path} ({backend})")?,
            OpKind::Write => write!(f, "cannot write {length} bytes at offset {offset} of {path} ({backend})")?,
            OpKind::Allocate => write!(f, "cannot allocate {length} bytes at offset {offset} of {path}")?,
            OpKind::PunchHole => write!(f, "cannot punch a hole of {length} bytes at offset {offset} of {path}")?,
            OpKind::SetLen => write!(f, "cannot set the length of {path} to {length} bytes")?,
            OpKind::Open => write!(f, "cannot open {path}")?,
            OpKind::Sync => write!(f, "cannot sync {path}")?,
            OpKind::Close => write!(f, "cannot close {path}")?,
            OpKind::Stat => write!(f, "cannot tell the length of {path}")?,
            OpKind::Replace => write!(f, "cannot replace {path}, which is as it was")?,
        }
        write!(f, ": {source}")?;
        match advice(*op, source) {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

/// What to do about an error number whose own message does not tell.
fn advice(op: OpKind, source: &io::Error) -> Option<&'static str> {
    Some(match source.raw_os_error()? {
        libc::EFBIG => "the process's file-size limit (ulimit -f) or the file system's largest file size was reached",
        libc::EMFILE => "raise the limit of open files (ulimit -n), or keep fewer open",
        libc::EDQUOT => "the user's quota on this file system is used up",
        libc::EBUSY if op == OpKind::Replace => {
            "if something is mounted there (see findmnt), replace the file that is mounted, or write it in place"
        }
        libc::EPERM if op == OpKind::Replace => {
            "the file or its folder is immutable or append-only (see lsattr), or the folder is sticky and the file another \
             user's"
        }
        libc::EIO => "the device reported an error: see the kernel log",
        _ => return None,
    })
}

/// What an op does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OpKind {
    /// Opening a file.
    Open,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Making written data durable.
    Sync,
    /// Changing the length.
    SetLen,
    /// Allocating disk space.
    Allocate,
    /// Giving disk space back.
    PunchHole,
    /// Closing.
    Close,
    /// Asking for the length.
    Stat,
    /// Giving a new file the name of the one it replaces.
    Replace,
}

impl fmt::Display for OpKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::SetLen => "set_len",
            Self::Allocate => "allocate",
            Self::PunchHole => "punch_hole",
            Self::Close => "close",
            Self::Stat => "stat",
            Self::Replace => "replace",
        })
    }
}

impl Error {
    /// The operating system's error number, if that is what failed.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::Io(error) => error.source.raw_os_error(),
            Self::Unavailable(unavailable) => unavailable.errno,
            _ => None,
        }
    }

    /// The nearest [`io::ErrorKind`].
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Io(error) => error.source.kind(),
            Self::UnexpectedEof { .. } => io::ErrorKind::UnexpectedEof,
            Self::Mismatch { .. } => io::ErrorKind::InvalidData,
            Self::Cancelled { .. } => io::ErrorKind::Interrupted,
            Self::Config { .. } | Self::InvalidInput(_) => io::ErrorKind::InvalidInput,
            Self::Unavailable(_) => io::ErrorKind::Unsupported,
            Self::QueueFull { .. } => io::ErrorKind::WouldBlock,
            Self::OutOfMemory { .. } | Self::MapFailed { .. } => io::ErrorKind::OutOfMemory,
            _ => io::ErrorKind::Other,
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(error.kind(), error)
    }
}

/// The failures of several ops, in the order in which the ops ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Failures {
    /// How many ops ended well in the same stretch.
    pub completed: usize,
    /// The first failures, at most 1024; never empty.
    pub errors: Vec<Error>,
    /// How many ops failed after these; their errors are not kept, so that failures do not use up the memory.
    pub more: usize,
}

impl Failures {
    /// Most errors that are kept.
    pub(crate) const KEPT: usize = 1024;

    /// Before any op has ended.
    pub(crate) const fn none() -> Self {
        Self { completed: 0, errors: Vec::new(), more: 0 }
    }

    /// One more op failed.
    pub(crate) fn add(&mut self, error: Error) {
        if self.errors.len() < Self::KEPT {
            self.errors.push(error);
        } else {
            self.more += 1;
        }
    }

    /// What has gathered since the last time: how many ops ended well, if none failed.
    pub(crate) fn take(&mut self) -> Result<usize, Self> {
        let taken = std::mem::replace(self, Self::none());
        if taken.errors.is_empty() { Ok(taken.completed) } else { Err(taken) }
    }
}

impl std::error::Error for Failures {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.errors.first().map(|error| error as _)
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        let failed = self.errors.len() + self.more;
        if let ([only], 0) = (self.errors.as_slice(), self.more) {
            return write!(f, "1 op failed ({} completed): {only}", self.completed);
        }
        write!(f, "{failed} ops failed ({} completed):", self.completed)?;
        for error in self.errors.iter().take(SHOWN) {
            write!(f, "\n  {error}")?;
        }
        match failed.saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

/// The failure of an op that owned a buffer.
///
/// Converts into [`Error`] with `?`, which drops the buffer.
pub struct OpError<B> {
    error: Error,
    buffer: Option<B>,
}

impl<B> OpError<B> {
    pub(crate) fn new(error: Error, buffer: Option<B>) -> Self {
        Self { error, buffer }
    }

    /// What failed.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// What failed, by value.
    pub fn into_error(self) -> Error {
        self.error
    }

    /// The op's buffer. `None` if it had to be leaked because the kernel may still be using it (after
    /// [`Error::WorkerDied`]), or if the result had been taken.
    pub fn into_buffer(self) -> Option<B> {
        self.buffer
    }

    /// Both.
    pub fn into_parts(self) -> (Error, Option<B>) {
        (self.error, self.buffer)
    }
}

impl<B> fmt::Debug for OpError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl<B> fmt::Display for OpError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<B> std::error::Error for OpError<B> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl<B> From<OpError<B>> for Error {
    fn from(failed: OpError<B>) -> Self {
        failed.error
    }
}

impl<B> From<OpError<B>> for io::Error {
    fn from(failed: OpError<B>) -> Self {
        failed.error.into()
    }
}
