//! What all open files of one inode share: its length while it grows, and which writes a sync must wait for.
//!
//! A write past the end first extends the file with `fallocate(2)`: extending direct writes are handed to kernel
//! workers by io_uring and block the submitter under libaio, at about half the speed. That makes the file longer
//! before the bytes are there, so a write that fails has to give the length back without cutting off what others
//! wrote meanwhile. Two opens of one file must agree on this, hence one [`Inode`] per device and inode number.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, LazyLock, PoisonError, Weak};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;

use crate::epochs::Epochs;
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering};

/// The inodes that are open for writing.
static OPEN: LazyLock<Mutex<HashMap<Key, Weak<Inode>>>> = LazyLock::new(Mutex::default);

type Key = (u64, u64);

/// The shared state of a regular file that is open for writing.
#[derive(Debug)]
pub(crate) struct Inode {
    key: Key,
    /// A length up to which no write needs to care: nothing below it is ever given back.
    settled: AtomicU64,
    state: Mutex<State>,
    /// The writes in flight, and the syncs that wait for them.
    pub(crate) writes: Mutex<Writes>,
}

/// The length of a growing file.
#[derive(Debug, Default)]
struct State {
    /// The larger of the length before and the end of the last write that completed.
    committed: u64,
    /// The length that extending gave the file.
    reserved: u64,
    /// Ends of the writes in flight that end past `committed`.
    growing: Vec<u64>,
}

/// Writes by epoch, and what runs when an epoch is drained.
#[derive(Default)]
pub(crate) struct Writes {
    pub(crate) epochs: Epochs,
    waiting: Vec<(u64, Box<dyn FnOnce() + Send>)>,
}

impl std::fmt::Debug for Writes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writes").field("epochs", &self.epochs).field("waiting", &self.waiting.len()).finish()
    }
}

/// A write that may have made the file longer; to be given to [`Inode::grown`] exactly once.
#[derive(Debug)]
#[must_use]
pub(crate) struct Growing {
    end: u64,
}

impl Inode {
    /// The inode with this key, shared with all other opens of it. `len` is its length now.
    pub(crate) fn of(device: u64, number: u64, len: u64) -> Arc<Self> {
        let key = (device, number);
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(inode) = open.get(&key).and_then(Weak::upgrade) {
            return inode;
        }
        let inode =
            Arc::new(Self { key, settled: AtomicU64::new(len), state: Mutex::default(), writes: Mutex::default() });
        open.insert(key, Arc::downgrade(&inode));
        inode
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writes(&self) -> MutexGuard<'_, Writes> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a write up to `end` may make the file longer, so that it has to go through [`grow`](Self::grow).
    pub(crate) fn may_grow(&self, end: u64) -> bool {
        end > self.settled.load(Ordering::Acquire)
    }

    /// Extends the file up to `end`, if it is shorter, before a write. Extensions of one file are serialised here.
    pub(crate) fn grow(&self, fd: BorrowedFd<'_>, end: u64, preallocate: bool) -> io::Result<Option<Growing>> {
        if !self.may_grow(end) {
            return Ok(None);
        }
        let mut state = self.state();
        let len = len_of(fd)?;
        if state.growing.is_empty() {
            state.committed = len;
            self.settled.store(len, Ordering::Release);
        }
        if end <= state.committed {
            return Ok(None);
        }
        if end > len {
            if preallocate {
                extend(fd, len, end)?;
            }
            state.reserved = end;
        }
        state.growing.push(end);
        Ok(Some(Growing { end }))
    }

    /// The write ended; `wrote` says whether all its bytes are there. If not, the length it gave the file and that
    /// nobody else needs is given back.
    pub(crate) fn grown(&self, fd: BorrowedFd<'_>, growing: Growing, wrote: bool) -> io::Result<()> {
        let mut state = self.state();
        if let Some(index) = state.growing.iter().position(|end| *end == growing.end) {
            state.growing.swap_remove(index);
        }
        let mut result = Ok(());
        if wrote {
            state.committed = state.committed.max(growing.end);
        } else {
            let keep = state.growing.iter().copied().fold(state.committed, u64::max);
            // A length that is neither ours nor short of ours is somebody else's doing, and left alone.
            result = len_of(fd).and_then(|len| {
                if len > keep && len <= state.reserved {
                    ftruncate(fd, to_off(keep)?)?;
                    state.reserved = keep;
                }
                Ok(())
            });
        }
        if state.growing.is_empty() {
            self.settled.store(state.committed, Ordering::Release);
        }
        result
    }

    /// `ftruncate(2)`.
    pub(crate) fn set_len(&self, fd: BorrowedFd<'_>, len: u64) -> io::Result<()> {
        let mut state = self.state();
        ftruncate(fd, to_off(len)?)?;
        state.committed = len;
        state.reserved = len;
        self.settled.store(len, Ordering::Release);
        Ok(())
    }

    /// `fallocate(2)` of a range, which makes the file longer if it ends past the end. A failure leaves no trace.
    pub(crate) fn allocate(&self, fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
        let mut state = self.state();
        let before = len_of(fd)?;
        allocate_or_restore(fd, before, offset, len)?;
        let after = before.max(offset + len);
        state.committed = state.committed.max(after);
        self.settled.fetch_max(after, Ordering::AcqRel);
        Ok(())
    }

    /// A write was accepted; returns the epoch that [`write_ended`](Self::write_ended) takes.
    pub(crate) fn write_accepted(&self) -> u64 {
        self.writes().epochs.enter()
    }

    /// A write of `epoch` ended. Runs what waited for it.
    pub(crate) fn write_ended(&self, epoch: u64) {
        let mut ready = Vec::new();
        {
            let mut writes = self.writes();
            writes.epochs.leave(epoch);
            let Writes { epochs, waiting } = &mut *writes;
            let mut index = 0;
            while index < waiting.len() {
                if epochs.is_drained(waiting[index].0) {
                    ready.push(waiting.swap_remove(index).1);
                } else {
                    index += 1;
                }
            }
        }
        for run in ready {
            run();
        }
    }

    /// Runs `then` once the writes that were accepted so far have ended: now, or on the thread that ends the last.
    pub(crate) fn after_writes(&self, then: impl FnOnce() + Send + 'static) {
        {
            let mut writes = self.writes();
            let epoch = writes.epochs.close();
            if !writes.epochs.is_drained(epoch) {
                writes.waiting.push((epoch, Box::new(then)));
                return;
            }
        }
        then();
    }
}

impl Drop for Inode {
    fn drop(&mut self) {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        // The same inode may have been opened again since the last reference went.
        if open.get(&self.key).is_some_and(|inode| inode.strong_count() == 0) {
            open.remove(&self.key);
        }
    }
}

/// Makes the file longer and allocates the space, or goes on without where the file system cannot.
fn extend(fd: BorrowedFd<'_>, len: u64, end: u64) -> io::Result<()> {
    match allocate_or_restore(fd, len, len, end - len) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL)) => Ok(()),
        result => result,
    }
}

/// `fallocate(2)`. When it fails it may have taken the rest of the disk and made the file longer all the same, so the
/// length is put back, which also frees what was allocated past it.
fn allocate_or_restore(fd: BorrowedFd<'_>, before: u64, offset: u64, len: u64) -> io::Result<()> {
    let (offset, len) = (to_off(offset)?, to_off(len)?);
    loop {
        match fallocate(fd, FallocateFlags::empty(), offset, len) {
            Ok(()) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => {
                if let Err(restore) = ftruncate(fd, to_off(before)?) {
                    tracing::warn!(fd = fd.as_raw_fd(), %restore, "could not put a file's length back");
                }
                return Err(error.into());
            }
        }
    }
}

fn len_of(fd: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(u64::try_from(fstat(fd)?.st_size).unwrap_or(0))
}

fn to_off(value: u64) -> io::Result<i64> {
    i64::try_from(value).map_err(|_| io::Error::from(Errno::EFBIG))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn file(len: u64) -> (std::fs::File, Arc<Inode>) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        let meta = file.metadata().unwrap();
        let inode = Inode::of(meta.dev(), meta.ino(), len);
        (file, inode)
    }

    #[test]
    fn a_failed_write_gives_its_length_back() {
        let (file, inode) = file(1000);
        let growing = inode.grow(file.as_fd(), 5000, true).unwrap().unwrap();
        assert_eq!(file.metadata().unwrap().len(), 5000);
        inode.grown(file.as_fd(), growing, false).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 1000);
    }

    #[test]
    fn a_failed_write_keeps_what_others_wrote_or_are_writing() {
        let (file, inode) = file(0);
        let failing = inode.grow(file.as_fd(), 9000, true).unwrap().unwrap();
        let done = inode.grow(file.as_fd(), 3000, true).unwrap().unwrap();
        let running = inode.grow(file.as_fd(), 5000, true).unwrap().unwrap();
        inode.grown(file.as_fd(), done, true).unwrap();
        inode.grown(file.as_fd(), failing, false).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 5000);
        inode.grown(file.as_fd(), running, false).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 3000);
        assert!(inode.grow(file.as_fd(), 3000, true).unwrap().is_none());
    }

    #[test]
    fn two_opens_share_one_inode() {
        let (file, inode) = file(0);
        let meta = file.metadata().unwrap();
        assert!(Arc::ptr_eq(&inode, &Inode::of(meta.dev(), meta.ino(), 0)));
        drop(inode);
        assert!(!OPEN.lock().unwrap().contains_key(&(meta.dev(), meta.ino())));
    }

    #[test]
    fn a_sync_waits_for_the_writes_before_it_only() {
        let (_file, inode) = file(0);
        let ran = Arc::new(AtomicU64::new(0));
        let before = inode.write_accepted();
        let seen = ran.clone();
        inode.after_writes(move || seen.store(1, Ordering::SeqCst));
        let after = inode.write_accepted();
        assert_eq!(ran.load(Ordering::SeqCst), 0);
        inode.write_ended(before);
        assert_eq!(ran.load(Ordering::SeqCst), 1);
        inode.write_ended(after);
    }
}
