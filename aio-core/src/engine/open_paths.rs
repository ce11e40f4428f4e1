//! How many ops by path hold a descriptor. An op that finds none left waits for these to give theirs back, and for
//! nothing else: other files may stay open for ever.

use crate::sync::{AtomicUsize, Ordering};

/// The ops by path that have a file open, or try to open one.
#[derive(Debug, Default)]
pub(crate) struct OpenPaths {
    count: AtomicUsize,
    /// How often one closed its file, or gave the try up.
    closed: AtomicUsize,
}

/// One of these ops, until this is dropped.
pub(crate) struct OpenPath<'a>(&'a OpenPaths);

impl OpenPaths {
    /// An op tries to open its path.
    pub(crate) fn begin(&self) -> OpenPath<'_> {
        self.count.fetch_add(1, Ordering::SeqCst);
        OpenPath(self)
    }

    /// An op that [kept](OpenPath::keep) its file open, and closes it now.
    pub(crate) fn resume(&self) -> OpenPath<'_> {
        OpenPath(self)
    }

    /// How many have a file open, or try to open one.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Counts the files that were closed, and the tries that failed.
    pub(crate) fn closed(&self) -> usize {
        self.closed.load(Ordering::SeqCst)
    }

    /// Whether the caller's try, which failed and before which so many [were closed](Self::closed), may have found what
    /// another op held.
    pub(crate) fn is_worth_another_try(&self, closed: usize) -> bool {
        self.count.load(Ordering::SeqCst) > 0 || self.closed() != closed.wrapping_add(1)
    }
}

impl OpenPath<'_> {
    /// The file stays open until the end of the op, which [resumes](OpenPaths::resume) this.
    pub(crate) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for OpenPath<'_> {
    fn drop(&mut self) {
        self.0.closed.fetch_add(1, Ordering::SeqCst);
        self.0.count.fetch_sub(1, Ordering::SeqCst);
    }
}
