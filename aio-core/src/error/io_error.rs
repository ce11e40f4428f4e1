//! An error of the operating system, and what was being done.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::printable::shown;

/// An error of the operating system, and what was being done.
#[derive(Debug)]
#[non_exhaustive]
pub struct IoError {
    /// What was being done.
    pub op: OpKind,
    /// The file.
    pub path: PathBuf,
    /// Where in the file the failed part begins, in bytes. `None` if the operation has no offset.
    pub offset: Option<u64>,
    /// Bytes of the failed part, or the length that was to be set. `None` if the operation has no length.
    pub length: Option<u64>,
    /// The backend's name. `None` if no backend took part.
    pub backend: Option<&'static str>,
    /// What the operating system said.
    pub source: io::Error,
}

impl IoError {
    /// An error in an operation on a whole file.
    pub(crate) fn new(op: OpKind, path: &Path, source: io::Error) -> Self {
        Self { op, path: path.to_owned(), offset: None, length: None, backend: None, source }
    }

    /// Says which part of the file failed, in bytes.
    pub(crate) fn at(self, offset: u64, length: u64) -> Self {
        Self { offset: Some(offset), length: Some(length), ..self }
    }

    /// Says which length was to be set, in bytes.
    pub(crate) fn with_length(self, length: u64) -> Self {
        Self { length: Some(length), ..self }
    }

    /// Says which backend reported it.
    pub(crate) fn by(self, backend: &'static str) -> Self {
        Self { backend: Some(backend), ..self }
    }

    /// The bytes of the file that failed. `None` if the operation has no offset or no length.
    pub fn range(&self) -> Option<Range<u64>> {
        let (offset, length) = (self.offset?, self.length?);
        Some(offset..offset.saturating_add(length))
    }
}

impl std::error::Error for IoError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, bytes) = (shown(&self.path), Bytes(self));
        match self.op {
            OpKind::Read => write!(f, "cannot read {bytes} of {path}")?,
            OpKind::Write => write!(f, "cannot write {bytes} of {path}")?,
            OpKind::Allocate => write!(f, "cannot allocate {bytes} of {path}")?,
            OpKind::PunchHole => write!(f, "cannot punch a hole of {bytes} of {path}")?,
            OpKind::SetLen => write!(f, "cannot set the length of {path} to {bytes}")?,
            OpKind::Open => write!(f, "cannot open {path}")?,
            OpKind::Sync => write!(f, "cannot sync {path}")?,
            OpKind::Close => write!(f, "cannot close {path}")?,
            OpKind::Stat => write!(f, "cannot tell the length of {path}")?,
            OpKind::Replace => write!(f, "cannot replace {path}, which is as it was")?,
        }
        if let Some(backend) = self.backend {
            write!(f, " ({backend})")?;
        }
        write!(f, ": {}", self.source)?;
        match advice(self.op, &self.source) {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

/// The bytes that an error names, as far as they are known.
struct Bytes<'a>(&'a IoError);

impl fmt::Display for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(length) = self.0.length {
            write!(f, "{length} ")?;
        }
        f.write_str("bytes")?;
        match self.0.offset {
            Some(offset) => write!(f, " at offset {offset}"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_says_what_is_known() {
        let error = |op| IoError::new(op, Path::new("/f"), io::Error::other("why"));
        let read = error(OpKind::Read).at(4096, 512).by("uring");
        assert_eq!(read.to_string(), "cannot read 512 bytes at offset 4096 of /f (uring): why");
        assert_eq!(read.range(), Some(4096..4608));
        let set = error(OpKind::SetLen).with_length(7);
        assert_eq!((set.to_string().as_str(), set.range()), ("cannot set the length of /f to 7 bytes: why", None));
        let hole = error(OpKind::PunchHole).at(1, 2);
        assert_eq!(hole.to_string(), "cannot punch a hole of 2 bytes at offset 1 of /f: why");
        assert_eq!(error(OpKind::Sync).to_string(), "cannot sync /f: why");
    }
}
