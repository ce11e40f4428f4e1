//! What other threads ask of a worker through its inbox, above all to give back what its queue registered.

use super::AioThread;
use crate::engine::registered::Registrations;
use crate::inbox::Request;

impl AioThread {
    /// Handles the requests that came since the last time.
    pub(super) fn handle_requests(&mut self) {
        let inbox = &self.shared.inboxes[self.id];
        if !inbox.has_requests() {
            return;
        }
        for request in inbox.take_requests() {
            match request {
                Request::RemoveFile(id) => {
                    self.registered.remove_file(self.flight.queue(), id);
                    self.shared.files.removed(id);
                }
                Request::ReleaseRegions(asked) => {
                    self.give_back_staging();
                    asked.regions().iter().for_each(|id| self.registered.retire_region(*id));
                    self.giving_back.push(asked);
                }
                Request::Barrier(barrier) => barrier.arrive(),
            }
        }
    }

    /// Removes the regions that the arena asked for, once no block in flight names them; new blocks do not.
    pub(super) fn give_back_regions(&mut self) {
        let Self { giving_back, flight, .. } = self;
        giving_back.retain(|asked| {
            let in_flight = flight.names_any(asked.regions());
            if !in_flight {
                Registrations::remove_regions(flight.queue(), asked.regions());
            }
            in_flight
        });
    }

    fn give_back_staging(&mut self) {
        self.staging.give_back_unused();
        self.shared.bounce.give_back_unused();
    }

    /// The worker ends, its queue is gone: what is asked of it from now on is as good as done.
    pub(super) fn close_inbox(&mut self) {
        for request in self.shared.inboxes[self.id].close() {
            match request {
                Request::RemoveFile(id) => self.shared.files.removed(id),
                Request::ReleaseRegions(_) => {}
                Request::Barrier(barrier) => barrier.arrive(),
            }
        }
        self.giving_back.clear();
        self.give_back_staging();
        self.shared.arena.queue_ended(&self.shared.inboxes);
    }
}
