//! What went wrong with the bytes of an inode, and stays wrong for as long as it is open.
//!
//! The kernel tells each open file description once that dirty pages could not be written back; whoever asks next hears
//! Ok, although the bytes are gone (`errseq_t`, see `fsync(2)`). So the first failure is kept here, and every sync after
//! it fails too. Syncs of an inode run one at a time: of two at once through one descriptor, the kernel would tell only
//! one.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;

use crate::error::Error;
use crate::sync::{Mutex, ThreadSync, lock};

/// How much a sync makes durable; what is greater includes what is less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sync {
    /// `fdatasync(2)`.
    Data,
    /// `fsync(2)`.
    All,
}

/// The failures of one inode, of all its open files in this process.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    syncs: ThreadSync<Syncs>,
    failed_sync: Mutex<Option<String>>,
    failed_write: Mutex<Option<String>>,
}

/// The syncs of an inode, which run one at a time.
#[derive(Debug, Default)]
struct Syncs {
    running: bool,
    begun: u64,
    /// The last that ended well.
    good: Option<Call>,
}

/// A sync.
#[derive(Debug)]
pub(crate) struct Call {
    number: u64,
    fd: RawFd,
    what: Sync,
}

impl Faults {
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

    fn data(faults: &Faults, call: impl FnOnce() -> nix::Result<()>) -> io::Result<()> {
        faults.sync_by(0, Sync::Data, call)
    }

    #[test]
    fn a_sync_after_a_failed_one_fails_and_does_not_ask_the_kernel() {
        let faults = Faults::default();
        data(&faults, || Ok(())).unwrap();
        assert_eq!(data(&faults, || Err(Errno::EIO)).unwrap_err().raw_os_error(), Some(libc::EIO));
        for errno in [None, Some(Errno::ENOSPC)] {
            let error = data(&faults, || panic!("asked again: {errno:?}")).unwrap_err().to_string();
            assert!(error.contains("earlier sync") && error.contains("I/O error"), "{error}");
        }
    }

    /// Runs a sync that ends with `first`, and another sync that comes while it runs. What the second one said, and
    /// whether it asked the kernel.
    fn beside(first: nix::Result<()>) -> (io::Result<()>, bool) {
        let faults = Faults::default();
        let (runs, asked) = (Barrier::new(2), AtomicUsize::new(0));
        let second = std::thread::scope(|scope| {
            scope.spawn(|| {
                let told = data(&faults, || {
                    runs.wait();
                    // Until the second one waits, or asks the kernel at the same time.
                    while asked.load(Ordering::SeqCst) == 0 && faults.syncs.waiters() == 0 {
                        std::thread::yield_now();
                    }
                    assert_eq!(asked.load(Ordering::SeqCst), 0, "two at once");
                    first
                });
                assert_eq!(told.is_ok(), first.is_ok());
            });
            runs.wait();
            data(&faults, || {
                asked.fetch_add(1, Ordering::SeqCst);
                Ok(())
            })
        });
        (second, asked.into_inner() > 0)
    }

    #[test]
    fn of_two_syncs_at_once_neither_says_ok_if_one_was_told_of_a_loss() {
        let (second, asked) = beside(Err(Errno::EIO));
        assert!(second.is_err() && !asked);
    }

    #[test]
    fn a_sync_does_not_take_the_word_of_one_that_had_begun_before() {
        let (second, asked) = beside(Ok(()));
        assert!(second.is_ok() && asked);
    }

    #[test]
    fn syncs_that_wait_together_share_a_call_that_covers_them() {
        // One that is less may wait longer than one that includes it. Nobody takes another descriptor's word, and that of
        // one's own may be forgotten by then.
        for (fd, what, calls) in [(0, Sync::Data, 2..=2), (0, Sync::All, 2..=3), (1, Sync::Data, 3..=4)] {
            let faults = Faults::default();
            let (runs, asked) = (Barrier::new(2), AtomicUsize::new(0));
            let count = || {
                asked.fetch_add(1, Ordering::SeqCst);
                Ok(())
            };
            std::thread::scope(|scope| {
                let first = scope.spawn(|| {
                    data(&faults, || {
                        runs.wait();
                        while faults.syncs.waiters() < 3 {
                            std::thread::yield_now();
                        }
                        count()
                    })
                });
                runs.wait();
                let data = || scope.spawn(|| data(&faults, count));
                let others = [data(), data(), scope.spawn(|| faults.sync_by(fd, what, count))];
                for sync in others.into_iter().chain([first]) {
                    sync.join().unwrap().unwrap();
                }
            });
            let asked = asked.into_inner();
            assert!(calls.contains(&asked), "{asked} calls, {fd}, {what:?}");
        }
    }
}
