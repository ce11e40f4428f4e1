//! The failure of an op together with its buffer.

use std::fmt;
use std::io;

use super::Error;

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
