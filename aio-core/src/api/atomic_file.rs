//! Files that replace others, as users hold them; how that is done: `file/replace.rs`.

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use crate::api::file::AioFile;
use crate::api::ticket::Ticket;
use crate::engine::running::Engine;
use crate::engine::transfer::OpOptions;
use crate::error::{OpKind, Result};
use crate::file::OpenFile;
use crate::file::replace::{CommitStep, Replacement};

/// A file that is to take the place of another, or of none. Writes go through the [`AioFile`] that it derefs to.
///
/// ```no_run
/// # fn main() -> aio_core::Result<()> {
/// # let aio: aio_core::AioHandle = unimplemented!();
/// let checkpoint = aio.create_atomic("checkpoint.bin")?;
/// let header = checkpoint.write(vec![1; 4096], 0);
/// let tensor = checkpoint.write(vec![2; 1 << 20], 4096);
/// header.wait()?;
/// tensor.wait()?;
/// checkpoint.commit().wait()?; // or .await; from here on it is checkpoint.bin, also after a power failure
/// # Ok(())
/// # }
/// ```
///
/// The new file gets the mode and the access list of the one it replaces, and its owner and group if the process may
/// give those; what it may not give, nobody gets instead. A symbolic link stays, and what it points to is replaced or
/// made. Hard links of the old file keep the old contents. Dropped without [`commit`](Self::commit), it is removed,
/// and the target stays as it was. It holds up to five descriptors, so that a commit needs no more, and a
/// sixth if small blocking calls read through it.
#[derive(Debug)]
pub struct AtomicFile {
    // Dropped, and so removed, after the file is closed.
    file: AioFile,
    replacement: Replacement,
}

impl AtomicFile {
    pub(crate) fn create(engine: &Arc<Engine>, path: &Path, options: OpOptions) -> Result<Self> {
        engine.shared().check_open()?;
        let made = Replacement::begin(path, engine.shared().config.direct)?;
        Ok(Self::new(made, engine.clone(), options))
    }

    pub(crate) fn create_async(engine: &Arc<Engine>, path: &Path, options: OpOptions) -> Ticket<Self> {
        let (at, direct) = (path.to_owned(), engine.shared().config.direct);
        let begin = move || Replacement::begin(&at, direct);
        Ticket::start_file_job(engine, options, (OpKind::Open, path), None, begin, Self::new)
    }

    fn new((file, replacement): (OpenFile, Replacement), engine: Arc<Engine>, options: OpOptions) -> Self {
        Self { file: AioFile::new(file, engine, options), replacement }
    }

    /// The path that the file will have, with symbolic links resolved.
    pub fn target(&self) -> &Path {
        self.replacement.target()
    }

    /// Makes the writes that were accepted before durable, and puts the file in its place, durably. Returns at once: the
    /// ticket is waited for, or awaited.
    ///
    /// It runs on a thread for file operations when those writes have ended. Dropping the ticket leaves it to itself:
    /// the commit goes on, and its failure goes to the next [`AioHandle::wait`](crate::AioHandle::wait).
    /// [Cancelled](Ticket::cancel) before it begins, it leaves the target as it was, and removes the temporary;
    /// later, it goes on. The ticket keeps the handle's engine alive, as a file does. Clones of the file that are
    /// left go on with it under its new name.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`](crate::Error::InvalidInput) if any write to it, or change of its length or allocation,
    /// failed, was refused or was cancelled, even if another call reported that or it was done again later. (A
    /// `try_write` that found the queue full gave its buffer back, and was no write.)
    /// [`Error::Io`](crate::Error::Io) if it cannot be synced, closed or renamed.
    /// [`Error::Cancelled`](crate::Error::Cancelled), [`Error::Closed`](crate::Error::Closed),
    /// [`Error::WorkerDied`](crate::Error::WorkerDied) if no worker is left. In all of these cases the target is as it
    /// was, and the temporary is gone. If at last the folder cannot be synced ([`OpKind::Sync`]
    /// with the folder's path), the new file is in place, and may not be after a power failure.
    /// [`Error::Forked`](crate::Error::Forked).
    pub fn commit(self) -> Ticket<()> {
        self.commit_in_steps(|_| {})
    }

    /// As [`commit`](Self::commit), but syncs nothing: the file takes its place as a whole for all who look, and after
    /// a power failure the target is the old file, the new one, or what the file system made of it.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit), but for those of syncs.
    pub fn commit_without_sync(self) -> Ticket<()> {
        self.start_commit(false, |_| {})
    }

    /// [`commit`](Self::commit), for tests of what a crash leaves behind: calls `after` each step, on the thread that
    /// commits.
    #[doc(hidden)]
    pub fn commit_in_steps(self, after: impl FnMut(CommitStep) + Send + 'static) -> Ticket<()> {
        self.start_commit(true, after)
    }

    fn start_commit(self, syncs: bool, after: impl FnMut(CommitStep) + Send + 'static) -> Ticket<()> {
        let Self { file, replacement } = self;
        let (engine, options) = file.parts();
        let open = file.into_open_file();
        let (target, inode) = (replacement.target().to_owned(), open.shared_inode().cloned());
        // In this order: a commit that is cancelled drops them, and the file is to be closed before it is removed.
        let new = (open, replacement);
        let commit = move || {
            let (open, replacement) = new;
            replacement.commit(open, syncs, after)
        };
        Ticket::start_file_job(&engine, options, (OpKind::Replace, &target), inode, commit, |(), _, _| ())
    }
}

impl Deref for AtomicFile {
    type Target = AioFile;

    fn deref(&self) -> &AioFile {
        &self.file
    }
}
