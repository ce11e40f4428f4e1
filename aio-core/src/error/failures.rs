//! The failures of several ops in one error.

use std::fmt;

use super::{Error, Result};

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
