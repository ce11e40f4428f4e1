//! What went wrong with the bytes of an inode, and stays wrong for as long as it is open.
//!
//! The kernel tells each open file description once that dirty pages could not be written back; whoever asks next hears
//! Ok, although the bytes are gone (`errseq_t`, see `fsync(2)`). So the first failure is kept here, and every sync after
//! it fails too. And one at a time asks it, with a sync or with durable blocks of one write, since of two at once through
//! one descriptor only one would be told.

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
    turns: ThreadSync<Turns>,
    failed_sync: Mutex<Option<String>>,
    failed_write: Mutex<Option<String>>,
}

/// Whoever asks the kernel, one at a time.
#[derive(Debug, Default)]
struct Turns {
    taken: bool,
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

    /// Waits for a turn, and calls `call`, or takes the word of somebody else's through the same descriptor that began
    /// meanwhile: so many at once need two calls.
    pub(crate) fn sync_by(&self, fd: RawFd, what: Sync, call: impl FnOnce() -> nix::Result<()>) -> io::Result<()> {
        let mut turns = self.turns.lock();
        let before = turns.begun;
        let covers = |good: &Call| good.number > before && good.fd == fd && good.what >= what;
        let covered = |turns: &Turns| turns.good.as_ref().is_some_and(covers);
        turns = self.turns.wait_until(turns, None, |turns| !turns.taken || covered(turns)).0;
        self.check_synced()?;
        if covered(&turns) {
            return Ok(());
        }
        turns.taken = true;
        turns.begun += 1;
        let number = turns.begun;
        drop(turns);
        let result = call().map_err(io::Error::from).inspect_err(|error| keep(&self.failed_sync, &reason(error)));
        self.give_turn(result.is_ok().then_some(Call { number, fd, what }));
        result
    }

    /// Takes the turn for durable blocks if nobody has it or waits for it; to be given back by
    /// [`give_turn`](Self::give_turn).
    pub(crate) fn try_turn(&self) -> bool {
        let mut turns = self.turns.lock();
        // One write after the other would else have it again before who waits has woken up.
        let free = !turns.taken && self.turns.waiters() == 0;
        turns.taken |= free;
        free
    }

    /// The next may ask. What a call that ended well covers, others need not ask for.
    pub(crate) fn give_turn(&self, good: Option<Call>) {
        let mut turns = self.turns.lock();
        turns.taken = false;
        if good.is_some() {
            turns.good = good;
        }
        drop(turns);
        self.turns.notify_all();
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

    /// A durable block failed. Unless it was refused before it began, it counts as a failed sync: what it was told may
    /// be about bytes of another write.
    #[cold]
    pub(crate) fn durable_block_failed(&self, error: &io::Error) {
        let refused = [libc::EINVAL, libc::EOPNOTSUPP, libc::EFAULT, libc::EFBIG];
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
                    // Until the second one waits for its turn, or asks the kernel at the same time.
                    while asked.load(Ordering::SeqCst) == 0 && faults.turns.waiters() == 0 {
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
                        while faults.turns.waiters() < 3 {
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

    #[test]
    fn durable_blocks_let_go_first_who_waits() {
        let faults = Faults::default();
        assert!(faults.try_turn());
        std::thread::scope(|scope| {
            let sync = scope.spawn(|| data(&faults, || Ok(())));
            while faults.turns.waiters() == 0 {
                std::thread::yield_now();
            }
            // It cannot wake up meanwhile.
            let mut turns = faults.turns.lock();
            turns.taken = false;
            assert_eq!(faults.turns.waiters(), 1);
            drop(turns);
            faults.turns.notify_all();
            while !sync.is_finished() {
                if faults.try_turn() {
                    assert_eq!(faults.turns.waiters(), 0);
                    faults.give_turn(None);
                }
            }
            sync.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_durable_block_counts_unless_it_was_refused() {
        for (errno, counts) in
            [(libc::EIO, true), (libc::ENOSPC, true), (libc::EOPNOTSUPP, false), (libc::EINVAL, false)]
        {
            let faults = Faults::default();
            faults.durable_block_failed(&io::Error::from_raw_os_error(errno));
            assert_eq!(data(&faults, || Ok(())).is_err(), counts, "{errno}");
        }
    }
}
