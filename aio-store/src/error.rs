//! What can go wrong with tensors, as sentences.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use aio_core::{Printable, shown};

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why tensors were not read, or not saved.
///
/// Its `Debug` is the same sentence as its `Display`: that is what `main` and `unwrap` print.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The engine, or the system below it, failed.
    #[error(transparent)]
    Io(#[from] aio_core::Error),

    /// The system refused an operation on a folder or a name.
    #[error("cannot {action} {}: {source}", shown(path))]
    System {
        /// What was being done: a verb.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// It is no safetensors file, or a damaged one.
    #[error("{} is not a usable safetensors file: {reason}", shown(path))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// What was to be opened does not make up a set of tensors: no file, an index that does not fit its files, a name
    /// in two files.
    #[error("cannot open the tensors of {}: {reason}", shown(path))]
    Incomplete {
        /// The folder, index or file.
        path: PathBuf,
        /// What is missing, or there twice.
        reason: String,
    },

    /// There is no tensor of that name.
    #[error("there is no tensor {} in {}, which has {count}", Quoted(name), shown(path))]
    NoTensor {
        /// The name.
        name: String,
        /// Where it was looked for.
        path: PathBuf,
        /// How many tensors are there.
        count: usize,
    },

    /// The bytes of a tensor are not those whose checksum was saved with it.
    #[error(
        "tensor {} of {} has the checksum {found:016x}, and {expected:016x} was saved with it: its bytes are damaged, or \
         another program changed them and copied the metadata",
        Quoted(name),
        shown(path)
    )]
    Mismatch {
        /// The tensor.
        name: String,
        /// Its file.
        path: PathBuf,
        /// The XXH3-64 in the file's metadata.
        expected: u64,
        /// That of the bytes that were read.
        found: u64,
    },

    /// The file was written to while it was open.
    #[error("{} was changed after it had been opened: what was read is a mixture of old and new", shown(path))]
    Changed {
        /// The file.
        path: PathBuf,
    },

    /// A save failed; what was there before is as it was.
    #[error("{} is not saved, and what was there is as it was: {source}", shown(path))]
    NotSaved {
        /// What was to be saved.
        path: PathBuf,
        /// Why.
        source: Box<Error>,
    },

    /// A save is in place, but its folder could not be synced: after a power failure the old files may be there again.
    #[error("{} is saved, but after a power failure what was there before may be there again: {source}", shown(path))]
    NotDurable {
        /// What was saved.
        path: PathBuf,
        /// Why.
        source: aio_core::Error,
    },

    /// An argument that cannot mean anything, such as memory of another size than the tensor's.
    #[error("{0}")]
    InvalidInput(String),
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<B> From<aio_core::error::OpError<B>> for Error {
    fn from(error: aio_core::error::OpError<B>) -> Self {
        Self::Io(error.into_error())
    }
}

impl Error {
    pub(crate) fn malformed(path: &Path, reason: impl fmt::Display) -> Self {
        Self::Malformed { path: path.to_owned(), reason: one_line(reason) }
    }

    pub(crate) fn incomplete(path: &Path, reason: impl fmt::Display) -> Self {
        Self::Incomplete { path: path.to_owned(), reason: one_line(reason) }
    }

    pub(crate) fn system(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::System { action, path, source }
    }
}

/// A name from a file, as Rust writes strings, and not longer than a sentence can hold.
#[derive(Debug)]
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CHARS: usize = 100;
        match self.0.char_indices().nth(CHARS) {
            Some((end, _)) => write!(f, "{:?}...", &self.0[..end]),
            None => write!(f, "{:?}", self.0),
        }
    }
}

/// A reason, which may quote a file: without control characters, and of bounded length.
fn one_line(reason: impl fmt::Display) -> String {
    const CHARS: usize = 1200;
    let mut line = Printable(format!("{:.CHARS$}", reason.to_string())).to_string();
    if let Some((end, _)) = line.char_indices().nth(CHARS) {
        line.truncate(end);
        line.push_str("...");
    }
    line
}
