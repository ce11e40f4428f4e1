//! Claiming: which work a worker takes from the shared queues, and what it prepares.

use super::AioThread;
use crate::engine::op_queue::{Found, Wanted};
use crate::engine::prepare::Prepared;
use crate::file::routes::RoutePermit;

impl AioThread {
    pub(super) fn may_claim(&self) -> bool {
        self.flight.room() > 0 && self.runs.is_empty() && self.may_refill() && !self.out_of_files
    }

    /// With `overlap_events` off, a batch is finished before the next one is begun.
    fn may_refill(&self) -> bool {
        self.shared.config.overlap_events || self.flight.len() == 0 || self.flight.has_unsubmitted()
    }

    /// How many more background blocks may be claimed: a quarter of the queue is kept for normal ops.
    fn background_room(&self) -> usize {
        let capacity = self.flight.capacity();
        let most = if capacity == 1 { 1 } else { capacity - (capacity / 4).max(1) };
        most.saturating_sub(self.background)
    }

    pub(super) fn claim(&mut self, room: usize, sleep: bool) -> Found {
        let wanted = Wanted { worker: self.id, room, background: self.background_room(), sleep };
        let found = self.shared.claim(wanted, &mut self.claimed);
        self.ended.append(&mut self.claimed.ended);
        for run in self.claimed.runs.drain(..) {
            if run.is_background() {
                self.background += run.blocks();
            }
            let id = self.flight.add_run(run);
            self.runs.push_back(id);
        }
        found
    }

    /// Opens and plans the op in hand.
    pub(super) fn prepare(&mut self, permit: Option<RoutePermit>) {
        let Some(op) = self.preparing.clone() else { return };
        let prepared = self.shared.prepare(op, permit);
        self.preparing = None;
        match prepared {
            Prepared::Ready(op) => self.shared.requeue(op),
            Prepared::Ended(op) => self.ended.push(op),
            Prepared::Waits => {}
            Prepared::TooManyOpen => self.out_of_files = true,
        }
    }
}
