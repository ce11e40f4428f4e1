//! Files that have a slot in the queues' tables, and the mailboxes through which workers give the slots back.
//!
//! A registered slot holds a reference to the open file in the kernel, so a file is closed only when every queue has
//! removed it. Removal runs on the worker that owns the queue; until the last one has answered, the slot is not given
//! to another file.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::arena::GiveBack;
use crate::backend::{FileId, Wake};
use crate::engine::op::{catch, report};
use crate::fork::Generation;
use crate::sync::{AtomicBool, Mutex, Ordering, ThreadSync, lock};

/// Where one worker is reached.
#[derive(Default)]
pub(crate) struct Port {
    waker: OnceLock<Arc<dyn Wake>>,
    mail: Mutex<Mail>,
    has_mail: AtomicBool,
}

#[derive(Default)]
struct Mail {
    /// The worker is gone, and its queue with it.
    closed: bool,
    letters: Vec<Letter>,
}

/// What a worker is asked for. It reads its mail between turns, when it has no op in hand that has ended.
#[derive(Debug)]
pub(crate) enum Letter {
    /// To give back a file's slot.
    Remove(FileId),
    /// To give back what the arena needs, and then to drop this.
    GiveBack(Arc<GiveBack>),
    /// To say that it came round.
    Answer(Arc<Round>),
}

/// Workers that have yet to answer.
#[derive(Debug)]
pub(crate) struct Round(ThreadSync<usize>);

impl Round {
    pub(crate) fn answer(&self) {
        *self.0.lock() -= 1;
        self.0.notify_all();
    }
}

/// Waits until every worker has come round. A worker that shared an op may hold it for a moment after another has ended
/// it; what it held when this began, it has let go of when this returns. Not for workers.
pub(crate) fn come_round(ports: &[Port]) {
    let round = Arc::new(Round(ThreadSync::new(ports.len())));
    for port in ports {
        if !port.post(Letter::Answer(round.clone())) {
            round.answer();
        }
    }
    drop(round.0.wait_until(round.0.lock(), None, |left| *left == 0));
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port").field("has_mail", &self.has_mail).finish_non_exhaustive()
    }
}

impl Port {
    /// The worker's queue is open.
    pub(crate) fn set_waker(&self, waker: Arc<dyn Wake>) {
        let _ = self.waker.set(waker);
    }

    /// Makes the worker look around.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            report(catch("wake", || waker.wake()));
        }
    }

    /// Whether [`take_mail`](Self::take_mail) would find something.
    pub(crate) fn has_mail(&self) -> bool {
        self.has_mail.load(Ordering::Acquire)
    }

    /// What came since the last time.
    pub(crate) fn take_mail(&self) -> Vec<Letter> {
        let mut mail = lock(&self.mail);
        self.has_mail.store(false, Ordering::Release);
        std::mem::take(&mut mail.letters)
    }

    /// The worker stops, and holds neither files nor ops any more; what is in the mail is as good as done.
    pub(crate) fn close(&self) -> Vec<Letter> {
        let mut mail = lock(&self.mail);
        mail.closed = true;
        std::mem::take(&mut mail.letters)
    }

    /// False if the worker is gone.
    pub(crate) fn post(&self, letter: Letter) -> bool {
        {
            let mut mail = lock(&self.mail);
            if mail.closed {
                return false;
            }
            mail.letters.push(letter);
            self.has_mail.store(true, Ordering::Release);
        }
        self.wake();
        true
    }
}

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
