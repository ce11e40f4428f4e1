//! What went wrong with the bytes of an inode, and stays wrong for as long as it is open.
//!
//! The kernel tells each open file description once that dirty pages could not be written back; whoever asks next hears
//! Ok, although the bytes are gone (`errseq_t`, see `fsync(2)`). So the first failure is kept here, and every sync after
//! it fails too.

use std::io;

use nix::errno::Errno;

use crate::error::Error;
use crate::sync::{AtomicBool, Mutex, Ordering, lock};

/// The failures of one inode, of all its open files in this process.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Held during a sync: of two that run at once through one descriptor, the kernel tells only one of a loss.
    syncing: Mutex<()>,
    failed_sync: Mutex<Option<String>>,
    failed_write: Mutex<Option<String>>,
    durable_writes: AtomicBool,
}

impl Faults {
    /// Runs a sync, unless one has failed before.
    pub(crate) fn sync(&self, call: impl FnOnce() -> nix::Result<()>) -> io::Result<()> {
        let _one_at_a_time = lock(&self.syncing);
        self.check_synced()?;
        call().map_err(io::Error::from).inspect_err(|error| keep(&self.failed_sync, &reason(error)))
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

    /// A durable write begins: from now on, one may be told of a loss in the stead of a sync that runs meanwhile.
    pub(crate) fn durable_write(&self) {
        self.durable_writes.store(true, Ordering::Release);
    }

    /// Whether there was a durable write.
    pub(crate) fn had_durable_writes(&self) -> bool {
        self.durable_writes.load(Ordering::Acquire)
    }

    /// A durable write failed. Unless it was refused before it began, it counts as a failed sync: what it was told may
    /// be about bytes of another write.
    #[cold]
    pub(crate) fn durable_write_failed(&self, error: &io::Error) {
        let refused = [libc::EINVAL, libc::EOPNOTSUPP, libc::EBADF, libc::EFAULT, libc::EFBIG];
        if !error.raw_os_error().is_some_and(|errno| refused.contains(&errno)) {
            keep(&self.failed_sync, &reason(error));
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
    use super::*;

    #[test]
    fn a_sync_after_a_failed_one_fails_and_does_not_ask_the_kernel() {
        let faults = Faults::default();
        faults.sync(|| Ok(())).unwrap();
        assert_eq!(faults.sync(|| Err(Errno::EIO)).unwrap_err().raw_os_error(), Some(libc::EIO));
        for errno in [None, Some(Errno::ENOSPC)] {
            let error = faults.sync(|| panic!("asked again: {errno:?}")).unwrap_err().to_string();
            assert!(error.contains("earlier sync") && error.contains("I/O error"), "{error}");
        }
    }

    #[test]
    fn of_two_syncs_at_once_neither_says_ok_if_one_was_told_of_a_loss() {
        let faults = Faults::default();
        let (first_runs, second_comes) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let told = faults.sync(|| {
                    first_runs.store(true, Ordering::SeqCst);
                    while !second_comes.load(Ordering::SeqCst) {
                        std::thread::yield_now();
                    }
                    // Time for the second one to ask the kernel, if nothing keeps it from that.
                    (0..1000).for_each(|_| std::thread::yield_now());
                    Err(Errno::EIO)
                });
                told.unwrap_err();
            });
            while !first_runs.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            second_comes.store(true, Ordering::SeqCst);
            faults.sync(|| Ok(())).unwrap_err();
        });
    }

    #[test]
    fn a_durable_write_counts_unless_it_was_refused() {
        for (errno, counts) in
            [(libc::EIO, true), (libc::ENOSPC, true), (libc::EOPNOTSUPP, false), (libc::EINVAL, false)]
        {
            let faults = Faults::default();
            faults.durable_write_failed(&io::Error::from_raw_os_error(errno));
            assert_eq!(faults.sync(|| Ok(())).is_err(), counts, "{errno}");
        }
    }
}
