//! Which open files are one inode, and what these share.
//!
//! Two opens of one file must agree on where it grows, on the writes that a sync waits for, and on what a sync reported.
//! Hence one [`Inode`] per device and inode number, for as long as any of its files is open in this process.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, Weak};

use crate::epochs::Epochs;
use crate::file::growth::Growth;
use crate::file::routes::Routes;
use crate::file::write_back::Faults;
use crate::process::Generation;
use crate::sync::{AtomicU64, Mutex, Ordering, lock, process};

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
    /// How many writes were begun.
    changes: AtomicU64,
    /// Its length, and the writes that change it.
    pub(crate) growth: Growth,
    /// What failed.
    pub(crate) faults: Faults,
    /// Which route writes take, past the page cache or through it.
    pub(crate) routes: Arc<Routes>,
    /// The writes in flight, and the syncs that wait for them.
    pub(crate) writes: Writes,
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

impl Inode {
    /// The inode with this identity, shared with all other opens of it. `len` is its length now, or `u64::MAX` if it
    /// cannot grow.
    pub(crate) fn of((device, number): (u64, u64), len: u64) -> Arc<Self> {
        let key = (Generation::now(), device, number);
        let mut open = open_inodes(key.0);
        if let Some(inode) = open.get(&key).and_then(Weak::upgrade) {
            inode.growth.reopened(len);
            return inode;
        }
        let inode = Arc::new(Self {
            key,
            changes: AtomicU64::new(0),
            growth: Growth::new(len),
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn file(len: u64) -> (std::fs::File, (u64, u64), Arc<Inode>) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        let meta = file.metadata().unwrap();
        let identity = (meta.dev(), meta.ino());
        (file, identity, Inode::of(identity, len))
    }

    #[test]
    fn two_opens_share_one_inode() {
        let (_file, identity, inode) = file(0);
        assert!(Arc::ptr_eq(&inode, &Inode::of(identity, 0)));
        drop(inode);
        assert!(Inode::find(identity).is_none());
    }

    #[test]
    fn a_file_that_was_cut_before_it_is_opened_again_may_grow_again() {
        let (file, identity, inode) = file(1 << 20);
        file.set_len(0).unwrap();
        let again = Inode::of(identity, 0);
        assert!(Arc::ptr_eq(&inode, &again));
        assert!(
            again.growth.may_grow(4096),
            "its writes would extend the file unprepared, and keep the length if they fail"
        );
    }

    #[test]
    fn a_sync_waits_for_the_writes_before_it_only() {
        let (_file, _, inode) = file(0);
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
