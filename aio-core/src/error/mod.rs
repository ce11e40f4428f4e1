//! What can go wrong, as sentences a user can act on.

mod failures;
mod io_error;
mod op_error;

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::backend::Unavailable;
use crate::printable::shown;

pub use self::failures::Failures;
pub use self::io_error::{IoError, OpKind};
pub use self::op_error::OpError;

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

    /// Waiting for I/O on the thread that does the I/O (in `fini`, a waker, or a drop on a worker). Closing a handle
    /// or a file waits for threads, and so is an error on the workers of other handles, too.
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

impl From<IoError> for Error {
    fn from(error: IoError) -> Self {
        Self::Io(Box::new(error))
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(error.kind(), error)
    }
}
