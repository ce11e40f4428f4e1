//! Slots of files in the queues' tables.
//!
//! A registered slot holds a reference to the open file in the kernel, so a file is closed only when every queue has
//! removed it. The worker that owns a queue removes it, by a request. The slot is free for another file once the last
//! worker has removed it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::backend::FileId;
use crate::inbox::{Inbox, Request};
use crate::process::Generation;
use crate::sync::ThreadSync;

/// The slots of the queues' file tables.
#[derive(Debug)]
pub(crate) struct FileTable {
    inboxes: Arc<[Inbox]>,
    slots: ThreadSync<Slots>,
    made_in: Generation,
}

#[derive(Debug)]
struct Slots {
    free: Vec<u32>,
    generations: Vec<u32>,
    /// Slots that are being removed, with the number of workers that have yet to do so.
    removing: HashMap<FileId, usize>,
}

impl FileTable {
    pub(crate) fn new(inboxes: Arc<[Inbox]>, slots: u32) -> Arc<Self> {
        let slots = Slots {
            free: (0..slots).rev().collect(),
            generations: vec![0; slots as usize],
            removing: HashMap::new(),
        };
        Arc::new(Self { inboxes, slots: ThreadSync::new(slots), made_in: Generation::now() })
    }

    /// Takes a slot for a file that stays open; `None` if all are taken, which costs speed alone.
    pub(crate) fn register(self: &Arc<Self>) -> Option<FileSlot> {
        let mut slots = self.slots.lock();
        let slot = slots.free.pop()?;
        let id = FileId { slot, generation: slots.generations[slot as usize] };
        Some(FileSlot { id, table: self.clone() })
    }

    /// Notes that a worker has removed `id`, or never had it.
    pub(crate) fn removed(&self, id: FileId) {
        let mut slots = self.slots.lock();
        let Some(left) = slots.removing.get_mut(&id) else { return };
        *left -= 1;
        if *left == 0 {
            slots.removing.remove(&id);
            slots.generations[id.slot as usize] = id.generation.wrapping_add(1);
            slots.free.push(id.slot);
            self.slots.notify_all();
        }
    }

    /// Waits until every queue has given `id` back.
    pub(crate) fn wait_removed(&self, id: FileId) {
        drop(self.slots.wait_until(self.slots.lock(), None, |slots| !slots.removing.contains_key(&id)));
    }
}

/// A file's slot; dropping it starts the removal.
#[derive(Debug)]
pub(crate) struct FileSlot {
    id: FileId,
    table: Arc<FileTable>,
}

impl FileSlot {
    pub(crate) fn id(&self) -> FileId {
        self.id
    }

    /// Whether its id means this file in queues of `table`.
    pub(crate) fn is_in(&self, table: &Arc<FileTable>) -> bool {
        Arc::ptr_eq(&self.table, table)
    }

    pub(crate) fn table(&self) -> Arc<FileTable> {
        self.table.clone()
    }
}

impl Drop for FileSlot {
    fn drop(&mut self) {
        if self.table.made_in.is_forked() {
            return;
        }
        let inboxes = &self.table.inboxes;
        // One more than there are workers, so that the slot cannot be free before all have their request.
        self.table.slots.lock().removing.insert(self.id, inboxes.len() + 1);
        for inbox in inboxes.iter() {
            if !inbox.send(Request::RemoveFile(self.id)) {
                self.table.removed(self.id);
            }
        }
        self.table.removed(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_free_again_when_every_worker_has_removed_it() {
        let inboxes: Arc<[Inbox]> = (0..3).map(|_| Inbox::default()).collect();
        let table = FileTable::new(inboxes.clone(), 1);
        let file = table.register().unwrap();
        let id = file.id();
        assert!(table.register().is_none());
        inboxes[2].close();
        drop(file);
        for inbox in &inboxes[..2] {
            assert!(table.register().is_none());
            assert!(inbox.has_requests());
            assert!(matches!(inbox.take_requests()[..], [Request::RemoveFile(removed)] if removed == id));
            table.removed(id);
        }
        table.wait_removed(id);
        let next = table.register().unwrap();
        assert_eq!((next.id().slot, next.id().generation), (id.slot, id.generation + 1));
    }
}
