//! What an op queue knows of its workers: which sleep, and how much the others can take.

/// The workers of an op queue.
#[derive(Debug)]
pub(super) struct Workers {
    /// Those that said they would block and were not woken since.
    sleeping: Vec<usize>,
    /// How many blocks each worker that is awake could take when it last looked; 0 for the others.
    rooms: Vec<usize>,
    /// How many blocks a worker takes that has none.
    depth: usize,
    alive: usize,
    /// Why none is left.
    dead: Option<String>,
}

impl Workers {
    pub(super) fn new(workers: usize, depth: usize) -> Self {
        Self { sleeping: Vec::new(), rooms: vec![depth; workers], depth, alive: workers, dead: None }
    }

    /// A sleeper to wake, if more blocks are queued than the workers that are awake have room for. They look at the
    /// queue before they sleep.
    pub(super) fn wake_for(&mut self, queued: usize) -> Option<usize> {
        if queued <= self.rooms.iter().sum() {
            return None;
        }
        let worker = self.sleeping.pop()?;
        self.rooms[worker] = self.depth;
        Some(worker)
    }

    /// How many blocks all of them take at once.
    pub(super) fn capacity(&self) -> usize {
        self.depth * self.alive
    }

    pub(super) fn set_room(&mut self, worker: usize, room: usize) {
        self.rooms[worker] = room;
    }

    /// The worker will block.
    pub(super) fn sleep(&mut self, worker: usize) {
        self.sleeping.push(worker);
        self.rooms[worker] = 0;
    }

    /// The worker is not blocked any more.
    pub(super) fn awake(&mut self, worker: usize) {
        self.sleeping.retain(|sleeper| *sleeper != worker);
    }

    /// The worker is gone. True if it was the last one.
    pub(super) fn died(&mut self, worker: usize, reason: &str) -> bool {
        self.alive -= 1;
        self.awake(worker);
        self.rooms[worker] = 0;
        if self.alive == 0 {
            self.dead = Some(reason.to_owned());
        }
        self.alive == 0
    }

    /// Why no worker is left, if none is.
    pub(super) fn dead(&self) -> Option<&str> {
        self.dead.as_deref()
    }
}
