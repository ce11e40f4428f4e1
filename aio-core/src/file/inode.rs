//! What all open files of one inode share: its length while it grows, and which writes a sync must wait for.
//!
//! A write past the end first extends the file with `fallocate(2)`: extending direct writes are handed to kernel
//! workers by io_uring and block the submitter under libaio, at about half the speed. That makes the file longer
//! before the bytes are there, so a write that fails has to give the length back without cutting off what others
//! wrote meanwhile. Two opens of one file must agree on this, hence one [`Inode`] per device and inode number.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, PoisonError, Weak};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;

use crate::epochs::Epochs;
use crate::file::routes::{Pass, Routes};
use crate::file::write_back::Faults;
use crate::foreign::log;
use crate::memory::page_size;
use crate::process::Generation;
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering, lock, process};

/// The inodes that are open, one map per process in a line of forks: a child must not wait for a lock that one of its
/// parent's threads held, nor for the parent's writes.
static OPEN: [process::Mutex<BTreeMap<Key, Weak<Inode>>>; 16] = [const { process::Mutex::new(BTreeMap::new()) }; 16];

/// Process, device and inode number.
type Key = (Generation, u64, u64);

fn open_inodes(generation: Generation) -> process::MutexGuard<'static, BTreeMap<Key, Weak<Inode>>> {
    OPEN[generation.index() % OPEN.len()].lock().unwrap_or_else(PoisonError::into_inner)
}

/// The shared state of an open file or block device.
#[derive(Debug)]
pub(crate) struct Inode {
    key: Key,
    /// A length up to which no write needs to care: nothing below it is ever given back.
    settled: AtomicU64,
    state: Mutex<State>,
    /// How many writes were begun.
    changes: AtomicU64,
    /// What failed.
    pub(crate) faults: Faults,
    /// Which route writes take, past the page cache or through it.
    pub(crate) routes: Arc<Routes>,
    /// The writes in flight, and the syncs that wait for them.
    pub(crate) writes: Writes,
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
    /// Somebody else made the file shorter, so a length to go back to is not known.
    foreign: bool,
}

impl State {
    /// What the file must not be cut below: somebody wrote that far, or is about to.
    fn keep(&self) -> u64 {
        self.growing.iter().copied().fold(self.committed, u64::max)
    }
}

/// Writes by epoch, and what runs when an epoch is drained.
#[derive(Debug, Default)]
pub(crate) struct Writes(pub(crate) Mutex<Waiting>);

#[derive(Default)]
pub(crate) struct Waiting {
    epochs: Epochs,
    waiting: Vec<(u64, Box<dyn FnOnce() + Send>)>,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("epochs", &self.epochs).field("waiting", &self.waiting.len()).finish()
    }
}

impl Writes {
    fn is_empty(&self) -> bool {
        lock(&self.0).epochs.is_empty()
    }

    fn enter(&self) -> u64 {
        lock(&self.0).epochs.enter()
    }

    /// One of `epoch` ended. Runs what waited for it.
    fn leave(&self, epoch: u64) {
        let mut ready = Vec::new();
        {
            let Waiting { epochs, waiting } = &mut *lock(&self.0);
            epochs.leave(epoch, 1);
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

    /// Runs `then` once those that entered so far have ended: now, or on the thread that ends the last.
    pub(crate) fn after(&self, then: impl FnOnce() + Send + 'static) {
        {
            let Waiting { epochs, waiting } = &mut *lock(&self.0);
            let epoch = epochs.close();
            if !epochs.is_drained(epoch) {
                waiting.push((epoch, Box::new(then)));
                return;
            }
        }
        then();
    }
}

/// A write that was accepted, until it is dropped.
#[derive(Debug)]
pub(crate) struct Accepted {
    inode: Arc<Inode>,
    epoch: u64,
}

impl Accepted {
    /// The routes of its inode.
    pub(crate) fn routes(&self) -> &Arc<Routes> {
        &self.inode.routes
    }
}

impl Drop for Accepted {
    fn drop(&mut self) {
        if self.inode.key.0.is_forked() {
            return;
        }
        self.inode.writes.leave(self.epoch);
    }
}

/// What [`Inode::grow`] did.
#[derive(Debug)]
pub(crate) enum Growth {
    /// The file is as long as the write needs.
    None,
    /// The write makes the file longer.
    Begun(Growing),
    /// The file ends inside a page, which file systems may make dirty as they extend it: only with a pass for
    /// [`Route::Cached`](crate::file::routes::Route::Cached).
    NeedsPass,
}

/// A write that may have made the file longer; to be given to [`Inode::grown`] exactly once.
#[derive(Debug)]
#[must_use]
pub(crate) struct Growing {
    /// The length of the file before.
    pub(crate) from: u64,
    end: u64,
}

impl Inode {
    /// The inode with this identity, shared with all other opens of it. `len` is its length now, or `u64::MAX` if it
    /// cannot grow.
    pub(crate) fn of((device, number): (u64, u64), len: u64) -> Arc<Self> {
        let key = (Generation::now(), device, number);
        let mut open = open_inodes(key.0);
        if let Some(inode) = open.get(&key).and_then(Weak::upgrade) {
            // Somebody else may have cut the file since its length was last settled here.
            inode.settled.fetch_min(len, Ordering::AcqRel);
            return inode;
        }
        let inode = Arc::new(Self {
            key,
            settled: AtomicU64::new(len),
            state: Mutex::default(),
            changes: AtomicU64::new(0),
            faults: Faults::default(),
            routes: Routes::new(),
            writes: Writes::default(),
        });
        open.insert(key, Arc::downgrade(&inode));
        inode
    }

    /// The inode with this identity, if it is open anywhere in this process.
    pub(crate) fn find((device, number): (u64, u64)) -> Option<Arc<Self>> {
        let key = (Generation::now(), device, number);
        open_inodes(key.0).get(&key).and_then(Weak::upgrade)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Whether a write up to `end` may make the file longer, so that it has to go through [`grow`](Self::grow).
    pub(crate) fn may_grow(&self, end: u64) -> bool {
        end > self.settled.load(Ordering::Acquire)
    }

    /// Extends the file for a write of bytes somewhere in `from..end`, if it is shorter. Extensions of one file are
    /// serialised here. A `pass` is one for the page cache.
    pub(crate) fn grow(
        &self,
        fd: BorrowedFd<'_>,
        from: u64,
        end: u64,
        preallocate: bool,
        pass: Option<&Pass>,
    ) -> io::Result<Growth> {
        if !self.may_grow(end) {
            return Ok(Growth::None);
        }
        let mut state = self.state();
        let (len, block) = len_and_block_of(fd)?;
        if end > len && pass.is_none() && !len.is_multiple_of(block) {
            return Ok(Growth::NeedsPass);
        }
        if state.growing.is_empty() {
            let foreign = len < self.settled.load(Ordering::Acquire);
            *state = State { committed: len, reserved: len, growing: Vec::new(), foreign };
            self.settled.store(len, Ordering::Release);
        }
        if end <= state.committed {
            return Ok(Growth::None);
        }
        if end > len {
            if preallocate {
                extend(fd, &state, len, from.max(len)..end)?;
            }
            state.reserved = state.reserved.max(end);
        }
        state.growing.push(end);
        Ok(Growth::Begun(Growing { from: len, end }))
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
        } else if !state.foreign {
            let keep = state.keep();
            // A length past what was reserved is somebody else's doing, and left alone.
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
        if state.growing.is_empty() {
            state.committed = before;
        }
        let end = offset.checked_add(len).ok_or_else(|| io::Error::from(Errno::EFBIG))?;
        allocate_or_restore(fd, &state, before, offset..end)?;
        state.committed = state.committed.max(end);
        self.settled.fetch_max(state.committed, Ordering::AcqRel);
        Ok(())
    }

    /// A write, or another change, was accepted: a sync waits for its end, and what was known of the file's pages is
    /// void.
    pub(crate) fn accept(self: &Arc<Self>) -> Accepted {
        self.changes.fetch_add(1, Ordering::Release);
        Accepted { inode: self.clone(), epoch: self.writes.enter() }
    }

    /// Differs when writes were begun in between.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Whether writes that were accepted have not ended.
    pub(crate) fn has_writes_in_flight(&self) -> bool {
        !self.writes.is_empty()
    }
}

impl Drop for Inode {
    fn drop(&mut self) {
        if self.key.0.is_forked() {
            return;
        }
        let mut open = open_inodes(self.key.0);
        // The same inode may have been opened again since the last reference went.
        if open.get(&self.key).is_some_and(|inode| inode.strong_count() == 0) {
            open.remove(&self.key);
        }
    }
}

/// Makes the file longer and allocates the space, or goes on without where the file system cannot.
fn extend(fd: BorrowedFd<'_>, state: &State, len: u64, range: Range<u64>) -> io::Result<()> {
    match allocate_or_restore(fd, state, len, range) {
        Err(error) if is_unsupported(&error) => Ok(()),
        result => result,
    }
}

/// Whether `fallocate(2)` is not to be had: the file system lacks it, or a sandbox's filter of system calls refuses it.
/// Where the file itself may not grow (it is immutable, or sealed), the write says so.
fn is_unsupported(error: &io::Error) -> bool {
    let unsupported = [libc::EOPNOTSUPP, libc::ENOSYS, libc::EINVAL, libc::EPERM, libc::EACCES];
    error.raw_os_error().is_some_and(|errno| unsupported.contains(&errno))
}

/// `fallocate(2)`. When it fails it may have taken the rest of the disk and made the file longer all the same, so the
/// length is put back, which also frees what was allocated past it, but never below what others have written or are
/// writing meanwhile.
fn allocate_or_restore(fd: BorrowedFd<'_>, state: &State, before: u64, range: Range<u64>) -> io::Result<()> {
    let (offset, len) = (to_off(range.start)?, to_off(range.end - range.start)?);
    loop {
        let error = match fallocate(fd, FallocateFlags::empty(), offset, len) {
            Ok(()) => return Ok(()),
            Err(Errno::EINTR) => continue,
            Err(error) => io::Error::from(error),
        };
        if is_unsupported(&error) {
            return Err(error);
        }
        let back = before.max(state.keep());
        let restored = if state.growing.is_empty() || len_of(fd)? > back {
            ftruncate(fd, to_off(back)?).map_err(io::Error::from)
        } else {
            Ok(())
        };
        if let Err(restore) = restored {
            log(|| tracing::warn!(fd = fd.as_raw_fd(), %restore, "could not put a file's length back"));
        }
        return Err(error);
    }
}

fn len_of(fd: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(len_and_block_of(fd)?.0)
}

/// The length, and what the file system may make dirty as a whole: a page, or a block of its own if that is larger.
fn len_and_block_of(fd: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let found = fstat(fd)?;
    let block = u64::try_from(found.st_blksize).unwrap_or(0).max(page_size() as u64);
    Ok((u64::try_from(found.st_size).unwrap_or(0), block))
}

fn to_off(value: u64) -> io::Result<i64> {
    i64::try_from(value).map_err(|_| io::Error::from(Errno::EFBIG))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::file::routes::Route;

    fn file(len: u64) -> (std::fs::File, Arc<Inode>) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        let meta = file.metadata().unwrap();
        let inode = Inode::of((meta.dev(), meta.ino()), len);
        (file, inode)
    }

    fn grow(file: &std::fs::File, inode: &Inode, from: u64, end: u64, preallocate: bool) -> Option<Growing> {
        let pass = inode.routes.try_enter(Route::Cached);
        match inode.grow(file.as_fd(), from, end, preallocate, pass.as_ref()).unwrap() {
            Growth::None => None,
            Growth::Begun(growing) => Some(growing),
            Growth::NeedsPass => panic!("it had one"),
        }
    }

    #[test]
    fn a_file_that_ends_inside_a_page_grows_with_a_pass_only() {
        for (len, needs_pass) in [(5000, true), (8192, false)] {
            let (file, inode) = file(len);
            let grown = inode.grow(file.as_fd(), len, 20_000, true, None).unwrap();
            assert_eq!(matches!(grown, Growth::NeedsPass), needs_pass, "{len}");
            assert_eq!(file.metadata().unwrap().len() == len, needs_pass, "{len}");
        }
    }

    #[test]
    fn a_failed_write_gives_its_length_back() {
        let (file, inode) = file(1000);
        let growing = grow(&file, &inode, 0, 5000, true).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 5000);
        inode.grown(file.as_fd(), growing, false).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 1000);
    }

    #[test]
    fn a_failed_write_keeps_what_others_wrote_or_are_writing() {
        let (file, inode) = file(0);
        let failing = grow(&file, &inode, 0, 9000, true).unwrap();
        let done = grow(&file, &inode, 0, 3000, true).unwrap();
        let running = grow(&file, &inode, 0, 5000, true).unwrap();
        inode.grown(file.as_fd(), done, true).unwrap();
        inode.grown(file.as_fd(), failing, false).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 5000);
        inode.grown(file.as_fd(), running, false).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 3000);
        assert!(grow(&file, &inode, 0, 3000, true).is_none());
    }

    #[test]
    fn a_shorter_growing_write_does_not_forget_the_longer() {
        let (file, inode) = file(0);
        let longer = grow(&file, &inode, 0, 10_000, false).unwrap();
        let shorter = grow(&file, &inode, 0, 5000, false).unwrap();
        file.set_len(8000).unwrap();
        inode.grown(file.as_fd(), longer, false).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 5000);
        inode.grown(file.as_fd(), shorter, false).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 0);
    }

    #[test]
    fn allocating_does_not_commit_what_others_only_reserved() {
        let (file, inode) = file(0);
        let growing = grow(&file, &inode, 0, 1 << 20, true).unwrap();
        inode.allocate(file.as_fd(), 0, 4096).unwrap();
        inode.grown(file.as_fd(), growing, false).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 4096);
    }

    #[test]
    fn a_file_that_somebody_else_cut_is_left_alone() {
        let (file, inode) = file(1 << 20);
        file.set_len(0).unwrap();
        let growing = grow(&file, &inode, 1 << 20, 2 << 20, true).unwrap();
        inode.grown(file.as_fd(), growing, false).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 2 << 20);
    }

    #[test]
    fn a_gap_before_a_write_is_not_allocated() {
        let (file, inode) = file(0);
        let growing = grow(&file, &inode, 100 << 20, (100 << 20) + 4096, true).unwrap();
        assert!(file.metadata().unwrap().blocks() < 1000);
        inode.grown(file.as_fd(), growing, true).unwrap();
        assert_eq!(file.metadata().unwrap().len(), (100 << 20) + 4096);
    }

    #[test]
    fn a_file_that_was_cut_before_it_is_opened_again_may_grow_again() {
        let (file, inode) = file(1 << 20);
        file.set_len(0).unwrap();
        let meta = file.metadata().unwrap();
        let again = Inode::of((meta.dev(), meta.ino()), 0);
        assert!(Arc::ptr_eq(&inode, &again));
        assert!(
            again.may_grow(4096),
            "its writes would extend the file unprepared, and keep the length if they fail"
        );
    }

    #[test]
    fn two_opens_share_one_inode() {
        let (file, inode) = file(0);
        let meta = file.metadata().unwrap();
        assert!(Arc::ptr_eq(&inode, &Inode::of((meta.dev(), meta.ino()), 0)));
        drop(inode);
        assert!(Inode::find((meta.dev(), meta.ino())).is_none());
    }

    #[test]
    fn a_sync_waits_for_the_writes_before_it_only() {
        let (_file, inode) = file(0);
        let ran = Arc::new(AtomicU64::new(0));
        let before = inode.accept();
        let seen = ran.clone();
        inode.writes.after(move || seen.store(1, Ordering::SeqCst));
        let after = inode.accept();
        assert_eq!(ran.load(Ordering::SeqCst), 0);
        drop(before);
        assert_eq!(ran.load(Ordering::SeqCst), 1);
        drop(after);
    }
}
