//! Which open files are one inode, and what these share.
//!
//! Two opens of one file must agree on where it grows, on the writes that a sync waits for, and on what a sync reported.
//! Hence one [`Inode`] per device and inode number, for as long as any of its files is open in this process.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, Weak};

use crate::file::growth::Growth;
use crate::file::routes::Routes;
use crate::file::write_back::{WriteBack, WriteInFlight};
use crate::process::Generation;
use crate::sync::{AtomicU64, Ordering, process};

/// What all open files of one file or block device share.
#[derive(Debug)]
pub(crate) struct Inode {
    key: Key,
    /// How many writes were accepted.
    changes: AtomicU64,
    /// Its length, and the writes that change it.
    pub(crate) growth: Growth,
    /// Which route writes take, past the page cache or through it.
    pub(crate) routes: Arc<Routes>,
    /// Its syncs, the writes that they wait for, and what failed.
    pub(crate) write_back: WriteBack,
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
            routes: Routes::new(),
            write_back: WriteBack::default(),
        });
        open.insert(key, Arc::downgrade(&inode));
        inode
    }

    /// The inode with this identity, if it is open anywhere in this process.
    pub(crate) fn find((device, number): (u64, u64)) -> Option<Arc<Self>> {
        let key = (Generation::now(), device, number);
        open_inodes(key.0).get(&key).and_then(Weak::upgrade)
    }

    /// A write, or another change of the file, was accepted: a sync waits for its end, and what was known of the file's
    /// pages is void.
    pub(crate) fn accept_write(self: &Arc<Self>) -> WriteInFlight {
        self.changes.fetch_add(1, Ordering::Release);
        WriteInFlight::begin(self.clone())
    }

    /// Differs when writes were accepted in between.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Whether this is a forked child of the process that opened it.
    pub(super) fn is_forked(&self) -> bool {
        self.key.0.is_forked()
    }
}

impl Drop for Inode {
    fn drop(&mut self) {
        if self.is_forked() {
            return;
        }
        let mut open = open_inodes(self.key.0);
        // The same inode may have been opened again since the last reference went.
        if open.get(&self.key).is_some_and(|inode| inode.strong_count() == 0) {
            open.remove(&self.key);
        }
    }
}

/// The inodes that are open, one map per process in a line of forks: a child must not wait for a lock that one of its
/// parent's threads held, nor for the parent's writes.
static OPEN: [process::Mutex<BTreeMap<Key, Weak<Inode>>>; 16] = [const { process::Mutex::new(BTreeMap::new()) }; 16];

/// Process, device and inode number.
type Key = (Generation, u64, u64);

fn open_inodes(generation: Generation) -> process::MutexGuard<'static, BTreeMap<Key, Weak<Inode>>> {
    OPEN[generation.index() % OPEN.len()].lock().unwrap_or_else(PoisonError::into_inner)
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
}
