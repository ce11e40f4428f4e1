//! Syncs of an inode: which writes they wait for, and what becomes of a failure.
//!
//! A sync covers the writes that were accepted before it, so it waits until they have ended.
//!
//! The kernel tells each open file description once that dirty pages could not be written back; the sync that asks next
//! succeeds, although the bytes are gone (`errseq_t`, see `fsync(2)`). So the first failure is kept here for as long as
//! the inode is open, and every sync after it fails too. Syncs of an inode run one at a time: of two at once through one
//! descriptor, the kernel would tell only one.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

use nix::errno::Errno;

use crate::epochs::Epochs;
use crate::error::Error;
use crate::file::inode::Inode;
use crate::file::routes::Routes;
use crate::sync::{Mutex, ThreadSync, lock};

/// How much a sync makes durable; what is greater includes what is less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sync {
    /// `fdatasync(2)`.
    Data,
    /// `fsync(2)`.
    All,
}

/// The syncs of one inode, through all its open files in this process.
#[derive(Debug, Default)]
pub(crate) struct WriteBack {
    pub(crate) writes: Mutex<Writes>,
    syncs: ThreadSync<Syncs>,
    failed_sync: Mutex<Option<String>>,
    failed_write: Mutex<Option<String>>,
}

/// The writes in flight, by epoch, and what waits for the end of an epoch.
#[derive(Default)]
pub(crate) struct Writes {
    epochs: Epochs,
    waiting: Vec<(u64, Box<dyn FnOnce() + Send>)>,
}

/// The syncs of an inode, which run one at a time.
#[derive(Debug, Default)]
struct Syncs {
    running: bool,
    begun: u64,
    /// The last that ended well.
    good: Option<Call>,
}

/// A call of `fsync(2)` or `fdatasync(2)`.
#[derive(Debug)]
struct Call {
    number: u64,
    fd: RawFd,
    what: Sync,
}

/// A write that was accepted, or another change of a file, until it ends and this is dropped.
#[derive(Debug)]
pub(crate) struct WriteInFlight {
    inode: Arc<Inode>,
    epoch: u64,
}

impl WriteBack {
    /// Whether writes that were accepted have not ended.
    pub(crate) fn has_writes_in_flight(&self) -> bool {
        !lock(&self.writes).epochs.is_empty()
    }

    /// Runs `then` once the writes that were accepted so far have ended: now, or on the thread that ends the last.
    pub(crate) fn after_writes(&self, then: impl FnOnce() + Send + 'static) {
        {
            let Writes { epochs, waiting } = &mut *lock(&self.writes);
            let epoch = epochs.close();
            if !epochs.is_drained(epoch) {
                waiting.push((epoch, Box::new(then)));
                return;
            }
        }
        then();
    }

    /// Accepts a write; [`end_write`](Self::end_write) takes what this returns.
    pub(crate) fn begin_write(&self) -> u64 {
        lock(&self.writes).epochs.enter()
    }

    /// A write of `epoch` ended. Runs what waited for it.
    pub(crate) fn end_write(&self, epoch: u64) {
        let mut ready = Vec::new();
        {
            let Writes { epochs, waiting } = &mut *lock(&self.writes);
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

    /// Syncs the file, unless a sync has failed before.
    pub(crate) fn sync(&self, fd: BorrowedFd<'_>, what: Sync) -> io::Result<()> {
        self.sync_by(fd.as_raw_fd(), what, || match what {
            Sync::Data => nix::unistd::fdatasync(fd),
            Sync::All => nix::unistd::fsync(fd),
        })
    }

    /// Waits until no other sync runs, then calls `call`; or takes over the result of a sync through the same descriptor
    /// that began meanwhile, so that any number of syncs at once needs two calls.
    pub(crate) fn sync_by(&self, fd: RawFd, what: Sync, call: impl FnOnce() -> nix::Result<()>) -> io::Result<()> {
        let mut syncs = self.syncs.lock();
        let before = syncs.begun;
        let covers = |good: &Call| good.number > before && good.fd == fd && good.what >= what;
        let covered = |syncs: &Syncs| syncs.good.as_ref().is_some_and(covers);
        syncs = self.syncs.wait_until(syncs, None, |syncs| !syncs.running || covered(syncs)).0;
        self.check_synced()?;
        if covered(&syncs) {
            return Ok(());
        }
        syncs.running = true;
        syncs.begun += 1;
        let number = syncs.begun;
        drop(syncs);
        let result = call().map_err(io::Error::from).inspect_err(|error| keep(&self.failed_sync, &reason(error)));
        let mut syncs = self.syncs.lock();
        syncs.running = false;
        if result.is_ok() {
            syncs.good = Some(Call { number, fd, what });
        }
        drop(syncs);
        self.syncs.notify_all();
        result
    }

    /// Calls what makes the kernel begin to write the file out, unless a sync runs, which does that anyway. Syncs wait
    /// for it, and fail after it as after a sync if it fails: pages that could not be written may be clean by then, and
    /// no later call need say what became of them.
    pub(crate) fn unless_syncing(&self, begin: impl FnOnce() -> io::Result<()>) {
        {
            let mut syncs = self.syncs.lock();
            if syncs.running {
                return;
            }
            syncs.running = true;
        }
        if let Err(error) = begin() {
            keep(&self.failed_sync, &reason(&error));
        }
        self.syncs.lock().running = false;
        self.syncs.notify_all();
    }

    /// Syncs that asked the kernel.
    #[cfg(test)]
    pub(crate) fn calls(&self) -> u64 {
        self.syncs.lock().begun
    }

    /// An error if a sync has failed.
    pub(crate) fn check_synced(&self) -> io::Result<()> {
        match &*lock(&self.failed_sync) {
            None => Ok(()),
            Some(first) => Err(io::Error::other(format!(
                "an earlier sync of this file failed ({first}), so bytes written before it may be lost, and no later \
                 sync can vouch for them: write them again, to a new file"
            ))),
        }
    }

    /// A write, or another change of the file, failed.
    #[cold]
    pub(crate) fn write_failed(&self, error: &Error) {
        keep(&self.failed_write, error);
    }

    /// The first failure of a write.
    pub(crate) fn failed_write(&self) -> Option<String> {
        lock(&self.failed_write).clone()
    }
}

impl WriteInFlight {
    pub(super) fn begin(inode: Arc<Inode>) -> Self {
        let epoch = inode.write_back.begin_write();
        Self { inode, epoch }
    }

    /// The routes of its inode.
    pub(crate) fn routes(&self) -> &Arc<Routes> {
        &self.inode.routes
    }
}

impl Drop for WriteInFlight {
    fn drop(&mut self) {
        if !self.inode.is_forked() {
            self.inode.write_back.end_write(self.epoch);
        }
    }
}

impl fmt::Debug for Writes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writes").field("epochs", &self.epochs).field("waiting", &self.waiting.len()).finish()
    }
}

/// What an error says, without its number.
fn reason(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |errno| Errno::from_raw(errno).desc().to_owned())
}

/// Keeps the first failure.
fn keep(first: &Mutex<Option<String>>, error: &impl ToString) {
    lock(first).get_or_insert_with(|| error.to_string());
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_sync_waits_for_the_writes_before_it_only() {
        let file = WriteBack::default();
        let ran = Arc::new(AtomicUsize::new(0));
        let before = file.begin_write();
        let seen = ran.clone();
        file.after_writes(move || seen.store(1, Ordering::SeqCst));
        let after = file.begin_write();
        assert_eq!(ran.load(Ordering::SeqCst), 0);
        file.end_write(before);
        assert_eq!(ran.load(Ordering::SeqCst), 1);
        file.end_write(after);
        assert!(!file.has_writes_in_flight());
    }

    fn data(file: &WriteBack, call: impl FnOnce() -> nix::Result<()>) -> io::Result<()> {
        file.sync_by(0, Sync::Data, call)
    }

    #[test]
    fn a_sync_after_a_failed_one_fails_and_does_not_ask_the_kernel() {
        let file = WriteBack::default();
        data(&file, || Ok(())).unwrap();
        assert_eq!(data(&file, || Err(Errno::EIO)).unwrap_err().raw_os_error(), Some(libc::EIO));
        for errno in [None, Some(Errno::ENOSPC)] {
            let error = data(&file, || panic!("asked again: {errno:?}")).unwrap_err().to_string();
            assert!(error.contains("earlier sync") && error.contains("I/O error"), "{error}");
        }
    }

    /// Runs a sync that ends with `first`, and another sync that comes while it runs. What the second one said, and
    /// whether it asked the kernel.
    fn beside(first: nix::Result<()>) -> (io::Result<()>, bool) {
        let file = WriteBack::default();
        let (runs, asked) = (Barrier::new(2), AtomicUsize::new(0));
        let second = std::thread::scope(|scope| {
            scope.spawn(|| {
                let synced = data(&file, || {
                    runs.wait();
                    // Until the second one waits, or asks the kernel at the same time.
                    while asked.load(Ordering::SeqCst) == 0 && file.syncs.waiters() == 0 {
                        std::thread::yield_now();
                    }
                    assert_eq!(asked.load(Ordering::SeqCst), 0, "two at once");
                    first
                });
                assert_eq!(synced.is_ok(), first.is_ok());
            });
            runs.wait();
            data(&file, || {
                asked.fetch_add(1, Ordering::SeqCst);
                Ok(())
            })
        });
        (second, asked.into_inner() > 0)
    }

    #[test]
    fn a_sync_waits_for_what_begins_to_write_out_and_fails_with_it() {
        for failure in [None, Some(Errno::ENOSPC)] {
            let (file, begun) = (WriteBack::default(), Barrier::new(2));
            std::thread::scope(|scope| {
                let sync = scope.spawn(|| {
                    begun.wait();
                    data(&file, || Ok(()))
                });
                file.unless_syncing(|| {
                    begun.wait();
                    while file.syncs.waiters() == 0 {
                        assert_eq!(file.calls(), 0, "it did not wait");
                        std::thread::yield_now();
                    }
                    failure.map_or(Ok(()), |errno| Err(errno.into()))
                });
                let synced = sync.join().unwrap();
                assert_eq!(synced.is_err(), failure.is_some(), "{synced:?}");
            });
            assert_eq!(data(&file, || Ok(())).is_err(), failure.is_some());
        }
    }

    #[test]
    fn what_a_sync_writes_out_is_not_begun_beside_it() {
        let file = WriteBack::default();
        data(&file, || {
            file.unless_syncing(|| panic!("beside a sync"));
            Ok(())
        })
        .unwrap();
        let mut begun = false;
        file.unless_syncing(|| {
            begun = true;
            Ok(())
        });
        assert!(begun);
    }

    #[test]
    fn of_two_syncs_at_once_neither_is_ok_if_one_reports_a_loss() {
        let (second, asked) = beside(Err(Errno::EIO));
        assert!(second.is_err() && !asked);
    }

    #[test]
    fn a_sync_does_not_take_over_the_result_of_one_that_had_begun_before() {
        let (second, asked) = beside(Ok(()));
        assert!(second.is_ok() && asked);
    }

    #[test]
    fn syncs_that_wait_together_share_a_call_that_covers_them() {
        // One that is less may wait longer than one that includes it. No sync takes over the
        // result of another descriptor, and that of its own may be replaced by then.
        for (fd, what, calls) in [(0, Sync::Data, 2..=2), (0, Sync::All, 2..=3), (1, Sync::Data, 3..=4)] {
            let file = WriteBack::default();
            let (runs, asked) = (Barrier::new(2), AtomicUsize::new(0));
            let count = || {
                asked.fetch_add(1, Ordering::SeqCst);
                Ok(())
            };
            std::thread::scope(|scope| {
                let first = scope.spawn(|| {
                    data(&file, || {
                        runs.wait();
                        while file.syncs.waiters() < 3 {
                            std::thread::yield_now();
                        }
                        count()
                    })
                });
                runs.wait();
                let data = || scope.spawn(|| data(&file, count));
                let others = [data(), data(), scope.spawn(|| file.sync_by(fd, what, count))];
                for sync in others.into_iter().chain([first]) {
                    sync.join().unwrap().unwrap();
                }
            });
            let asked = asked.into_inner();
            assert!(calls.contains(&asked), "{asked} calls, {fd}, {what:?}");
        }
    }
}
