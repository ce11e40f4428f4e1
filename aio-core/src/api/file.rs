//! Files, as users hold them.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use crate::api::scope::scope;
use crate::api::ticket::Ticket;
use crate::engine::on_caller;
use crate::engine::running::Engine;
use crate::engine::transfer::{OpOptions, Priority};
use crate::engine::{FileCommand, FileOp, Shared};
use crate::error::{Error, IoError, OpError, OpKind, Result};
use crate::file::OpenFile;
use crate::inbox;
use crate::op::buf::{IoBuf, IoBufMut};
use crate::op::desc::Target;
use crate::op::owned::Owned;
use crate::op::plan::Alignment;

/// An open file of a handle.
///
/// Cheap to clone; every clone is the same open file. It keeps the handle's engine alive. Ops in flight have no order
/// among each other; a write that overlaps another write in flight leaves unspecified bytes.
///
/// ```
/// # fn main() -> aio::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("layer0");
/// let aio = aio::builder().build()?;
/// let file = aio.create(&path)?;
///
/// let weights = file.write(vec![0.5f32; 10_000], 0); // in flight ...
/// let header = file.write_at(b"layer 0", 40_000)?; // ... while another is written here and now
/// let weights = weights.wait()?;
/// file.sync_data().wait()?; // both are on the device
///
/// let mut few = [0; 4]; // any length, any offset, any address
/// file.read_at(&mut few, 4)?;
/// assert_eq!(f32::from_ne_bytes(few), weights[1]);
///
/// let parts = vec![(0, vec![0; 1000]), (20_000, vec![0; 3000])]; // many ranges, one op
/// let parts = file.read_vectored(parts).wait()?;
/// assert_eq!(parts[1].1[..4], 0.5f32.to_ne_bytes());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct AioFile {
    file: Arc<OpenFile>,
    engine: Arc<Engine>,
    options: OpOptions,
}

impl AioFile {
    pub(crate) fn new(file: OpenFile, engine: Arc<Engine>, options: OpOptions) -> Self {
        engine.shared().offer_slot(&file);
        Self { file: Arc::new(file), engine, options }
    }

    fn shared(&self) -> &Arc<Shared> {
        self.engine.shared()
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Whether aligned parts of ops bypass the page cache (reads do not while the file lies there, see
    /// [`DirectMode::Auto`](crate::DirectMode::Auto)). Where it is false, the file system offers no direct I/O, or none
    /// was asked for, and all ops go through the cache.
    pub fn is_direct(&self) -> bool {
        self.file.is_direct()
    }

    /// What direct I/O on this file asks for.
    pub fn alignment(&self) -> Alignment {
        self.file.alignment()
    }

    /// Its length now, in bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the file system does not tell.
    pub fn len(&self) -> Result<u64> {
        self.file.len().map_err(|source| IoError::new(OpKind::Stat, self.path(), source).into())
    }

    /// Whether reads of it go through the page cache now because it lies there, see
    /// [`DirectMode::Auto`](crate::DirectMode::Auto). A sample, which costs little.
    pub fn is_resident(&self) -> bool {
        self.file.may_be_resident() && self.file.is_resident()
    }

    /// When its contents were last changed, as the file system tells it.
    ///
    /// # Errors
    ///
    /// As [`len`](Self::len).
    pub fn modified(&self) -> Result<SystemTime> {
        self.file.modified().map_err(|source| IoError::new(OpKind::Stat, self.path(), source).into())
    }

    /// Whether it is empty now.
    ///
    /// # Errors
    ///
    /// As [`len`](Self::len).
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// The same file; ops through this clone take second place.
    pub fn background(&self) -> Self {
        let options = OpOptions { priority: Priority::Background, ..self.options };
        Self { options, ..self.clone() }
    }

    /// The same file; ops through this clone read every block back and compare, or do not.
    pub fn validated(&self, validate: bool) -> Self {
        Self { options: OpOptions { validate, ..self.options }, ..self.clone() }
    }

    /// The same file; a write through this clone that ended well is on the device, with what is needed to read it back,
    /// or is not.
    ///
    /// It ends with an `fdatasync(2)`, which writes that end at the same time share. One [`sync_data`](Self::sync_data)
    /// after many writes costs less. Reads are as they were.
    pub fn durable(&self, durable: bool) -> Self {
        Self { options: OpOptions { durable, ..self.options }, ..self.clone() }
    }

    /// The same file; ops through this clone are accepted beyond
    /// [`max_pending_ops`](crate::AioConfig::max_pending_ops), so that no call waits for room. See
    /// [`AioHandle::unlimited`](crate::AioHandle::unlimited).
    pub fn unlimited(&self) -> Self {
        Self { options: OpOptions { unlimited: true, ..self.options }, ..self.clone() }
    }

    /// For op descriptors.
    pub fn target(&self) -> Target {
        Target::File((*self.file).clone())
    }

    pub(crate) fn options(&self) -> OpOptions {
        self.options
    }

    /// Fills `buffer` from `offset`; blocks the calling thread until that is done. Up to a block is read on the
    /// calling thread. Calls of up to 256 KiB that run through the file profit from the kernel's read-ahead, see
    /// [`DirectMode::Auto`](crate::DirectMode::Auto).
    ///
    /// # Errors
    ///
    /// [`Error::UnexpectedEof`] with the count that did arrive, [`Error::Io`], [`Error::WaitOnWorker`] for what is
    /// too large for the calling thread.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        if on_caller::read(self.shared(), &self.file, self.options, buffer, offset)? {
            return Ok(());
        }
        single(scope(self.shared(), self.options, |scope| scope.read(self, buffer, offset)))
    }

    /// Writes all of `buffer` at `offset`; blocks the calling thread until that is done. Up to a block inside the
    /// file is written on the calling thread, and so is up to 256 KiB of a stream of calls that makes it longer, see
    /// [`DirectMode::Auto`](crate::DirectMode::Auto).
    ///
    /// A call of a stream ends before the device has the bytes, as any write through the page cache: an error of the
    /// device shows in the next [`sync_data`](Self::sync_data), not here.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::WaitOnWorker`] on a worker thread, for more than a block and while writes to the file
    /// are in flight that this one has to wait for.
    pub fn write_at(&self, buffer: &[u8], offset: u64) -> Result<()> {
        if on_caller::write(self.shared(), &self.file, self.options, buffer, offset)? {
            return Ok(());
        }
        let written = single(scope(self.shared(), self.options, |scope| scope.write(self, buffer, offset)));
        if let Err(error @ Error::WaitOnWorker) = &written
            && let Some(inode) = self.file.inode()
        {
            // Refused before there was an op, which would say so to a commit of the file.
            inode.write_back.write_failed(error);
        }
        written
    }

    /// Fills `buffer` from `offset`; the ticket gives it back. Blocks the calling thread while the queue is full,
    /// except through [`unlimited`](Self::unlimited). Up to 64 KiB of a cached file is copied before this returns.
    pub fn read<B>(&self, buffer: B, offset: u64) -> Ticket<B>
    where
        B: IoBufMut + 'static, // Memory that is borrowed goes to `AioHandle::scope` or `AioFile::read_at`.
    {
        Ticket::start(self.shared(), Owned::read(self.target(), buffer, offset), self.options)
    }

    /// Writes all of `buffer` at `offset`; the ticket gives it back. Blocks the calling thread while the queue is
    /// full, except through [`unlimited`](Self::unlimited).
    pub fn write<B>(&self, buffer: B, offset: u64) -> Ticket<B>
    where
        B: IoBuf + 'static, // Memory that is borrowed goes to `AioHandle::scope` or `AioFile::write_at`.
    {
        Ticket::start(self.shared(), Owned::write(self.target(), buffer, offset), self.options)
    }

    /// As [`read`](Self::read), without waiting. Where it is refused, the contents of the buffer are unspecified: a
    /// part of them may have been read.
    ///
    /// # Errors
    ///
    /// [`Error::QueueFull`], or whatever makes the op impossible, with the buffer.
    pub fn try_read<B: IoBufMut + 'static>(&self, buffer: B, offset: u64) -> Result<Ticket<B>, OpError<B>> {
        Ticket::try_start(self.shared(), Owned::read(self.target(), buffer, offset), self.options)
    }

    /// As [`write`](Self::write), without waiting.
    ///
    /// # Errors
    ///
    /// [`Error::QueueFull`], or whatever makes the op impossible, with the buffer.
    pub fn try_write<B: IoBuf + 'static>(&self, buffer: B, offset: u64) -> Result<Ticket<B>, OpError<B>> {
        Ticket::try_start(self.shared(), Owned::write(self.target(), buffer, offset), self.options)
    }

    /// Fills many buffers, each from its own offset, as one op. Blocks the calling thread while the queue is full,
    /// except through [`unlimited`](Self::unlimited).
    pub fn read_vectored<B: IoBufMut + 'static>(&self, extents: Vec<(u64, B)>) -> Ticket<Vec<(u64, B)>> {
        Ticket::start(self.shared(), Owned::read_vectored(self.target(), extents), self.options)
    }

    /// Writes many buffers, each to its own offset, as one op. Extents that overlap leave unspecified bytes. Blocks
    /// the calling thread while the queue is full, except through [`unlimited`](Self::unlimited).
    pub fn write_vectored<B: IoBuf + 'static>(&self, extents: Vec<(u64, B)>) -> Ticket<Vec<(u64, B)>> {
        Ticket::start(self.shared(), Owned::write_vectored(self.target(), extents), self.options)
    }

    /// Makes the data of the writes, and of the changes of length and allocation, that were accepted before durable:
    /// `fdatasync(2)`. Blocks the calling thread while the queue is full, except through
    /// [`unlimited`](Self::unlimited); so do the other operations on the file.
    ///
    /// An error is final. The kernel tells of data that it could not write back once, and forgets it; so after a failed
    /// sync every later one of this file, through whichever open file of the process, fails too and says so. That ends
    /// when the file was closed everywhere in the process; what is read after that may come from the page cache, and not
    /// be on the device.
    pub fn sync_data(&self) -> Ticket<()> {
        self.start_file_op(FileCommand::SyncData)
    }

    /// As [`sync_data`](Self::sync_data), with all metadata: `fsync(2)`.
    pub fn sync_all(&self) -> Ticket<()> {
        self.start_file_op(FileCommand::SyncAll)
    }

    pub(crate) fn parts(&self) -> (Arc<Engine>, OpOptions) {
        (self.engine.clone(), self.options)
    }

    pub(crate) fn into_open_file(self) -> OpenFile {
        (*self.file).clone()
    }

    /// Cuts or extends the file to `len` bytes, `ftruncate(2)`. Has no order with transfers in flight.
    pub fn set_len(&self, len: u64) -> Ticket<()> {
        self.start_file_op(FileCommand::SetLen(len))
    }

    /// Allocates disk space for a range, `fallocate(2)`; the file grows if the range ends past its end. If the space is
    /// not there, length and allocation past the old end are as before.
    pub fn allocate(&self, offset: u64, len: u64) -> Ticket<()> {
        self.start_file_op(FileCommand::Allocate { offset, len })
    }

    /// Gives the disk space of a range back; it reads as zeros. The length stays.
    pub fn punch_hole(&self, offset: u64, len: u64) -> Ticket<()> {
        self.start_file_op(FileCommand::PunchHole { offset, len })
    }

    fn start_file_op(&self, command: FileCommand) -> Ticket<()> {
        let op = FileOp::new((*self.file).clone(), command, self.options.priority);
        if let Err(error) = self.shared().submit_file_op(&op, self.options.when_full()) {
            op.note_failure(&error);
            let _nothing_to_wake = op.promise.fulfil(Err(error), false);
        }
        Ticket::new(op, self.shared().clone())
    }

    /// Closes the file and says what `close(2)` said; blocks the calling thread until the ops in flight have ended
    /// and every queue has given it back. While other clones or tickets of this file exist, it stays open until the
    /// last of them goes, and Ok says nothing of it.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; [`Error::WaitOnWorker`] on a worker thread of any handle, [`Error::Forked`].
    pub fn close(self) -> Result<()> {
        let shared = self.shared().clone();
        shared.check_may_join()?;
        let path = self.path().to_owned();
        let Some(file) = Arc::into_inner(self.file) else { return Ok(()) };
        shared.op_queue.drain();
        if file.is_shared() {
            shared.op_queue.wait_for_copiers();
            inbox::barrier(&shared.inboxes);
        }
        let slot = file.slot().map(|slot| (slot.id(), slot.table()));
        let closed = file.close();
        if let Some((id, table)) = slot {
            table.wait_removed(id);
        }
        closed.map_err(|source| IoError::new(OpKind::Close, &path, source).into())
    }
}

/// The error of a scope with one op is that op's.
fn single(result: Result<()>) -> Result<()> {
    result.map_err(|error| match error {
        Error::Failures(mut failures) if failures.errors.len() == 1 => {
            failures.errors.pop().unwrap_or(Error::Failures(failures))
        }
        error => error,
    })
}

impl fmt::Debug for AioFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AioFile").field("file", &self.file).finish_non_exhaustive()
    }
}
