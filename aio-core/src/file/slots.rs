//! Files that have a slot in the queues' tables.
//!
//! A registered slot holds a reference to the open file in the kernel, so a file is closed only when every queue has
//! removed it. Removal runs on the worker that owns the queue; until the last one has answered, the slot is not given
//! to another file.

use std::collections::HashMap;
use std::sync::Arc;

use crate::backend::FileId;
use crate::inbox::{Letter, Port};
use crate::process::Generation;
use crate::sync::ThreadSync;

/// The slots of the queues' file tables.
#[derive(Debug)]
pub(crate) struct FileTable {
    ports: Arc<[Port]>,
    slots: ThreadSync<Slots>,
    made_in: Generation,
}

#[derive(Debug)]
struct Slots {
    free: Vec<u32>,
    generations: Vec<u32>,
    /// Slots on their way back, with how many workers have yet to answer.
    leaving: HashMap<FileId, usize>,
}

impl FileTable {
    pub(crate) fn new(ports: Arc<[Port]>, slots: u32) -> Arc<Self> {
        let slots =
            Slots { free: (0..slots).rev().collect(), generations: vec![0; slots as usize], leaving: HashMap::new() };
        Arc::new(Self { ports, slots: ThreadSync::new(slots), made_in: Generation::now() })
    }

    /// A slot for a file that is open for long; `None` when all are taken, which costs speed and nothing else.
    pub(crate) fn register(self: &Arc<Self>) -> Option<Registered> {
        let mut slots = self.slots.lock();
        let slot = slots.free.pop()?;
        let id = FileId { slot, generation: slots.generations[slot as usize] };
        Some(Registered { id, table: self.clone() })
    }

    /// A worker has removed `id`, or never had it.
    pub(crate) fn removed(&self, id: FileId) {
        let mut slots = self.slots.lock();
        let Some(left) = slots.leaving.get_mut(&id) else { return };
        *left -= 1;
        if *left == 0 {
            slots.leaving.remove(&id);
            slots.generations[id.slot as usize] = id.generation.wrapping_add(1);
            slots.free.push(id.slot);
            self.slots.notify_all();
        }
    }

    /// Waits until every queue has given `id` back.
    pub(crate) fn wait_removed(&self, id: FileId) {
        drop(self.slots.wait_until(self.slots.lock(), None, |slots| !slots.leaving.contains_key(&id)));
    }
}

/// A file's slot; dropping it starts the removal.
#[derive(Debug)]
pub(crate) struct Registered {
    id: FileId,
    table: Arc<FileTable>,
}

impl Registered {
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

impl Drop for Registered {
    fn drop(&mut self) {
        if self.table.made_in.is_forked() {
            return;
        }
        let ports = &self.table.ports;
        // One more than there are workers, so that the slot cannot be free before all were asked.
        self.table.slots.lock().leaving.insert(self.id, ports.len() + 1);
        for port in ports.iter() {
            if !port.post(Letter::Remove(self.id)) {
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
    fn a_slot_comes_back_when_every_worker_has_answered() {
        let ports: Arc<[Port]> = (0..3).map(|_| Port::default()).collect();
        let table = FileTable::new(ports.clone(), 1);
        let file = table.register().unwrap();
        let id = file.id();
        assert!(table.register().is_none());
        ports[2].close();
        drop(file);
        for port in &ports[..2] {
            assert!(table.register().is_none());
            assert!(port.has_mail());
            assert!(matches!(port.take_mail()[..], [Letter::Remove(removed)] if removed == id));
            table.removed(id);
        }
        table.wait_removed(id);
        let next = table.register().unwrap();
        assert_eq!((next.id().slot, next.id().generation), (id.slot, id.generation + 1));
    }
}
