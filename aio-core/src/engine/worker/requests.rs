//! What other threads ask of a worker through its inbox, above all to give back what its queue registered.

use super::AioThread;
use crate::engine::registered::Registrations;
use crate::inbox::Letter;

impl AioThread {
    /// Handles the requests that came since the last time.
    pub(super) fn handle_requests(&mut self) {
        let inbox = &self.shared.ports[self.id];
        if !inbox.has_mail() {
            return;
        }
        for request in inbox.take_mail() {
            match request {
                Letter::Remove(id) => {
                    self.registered.remove_file(self.flight.queue(), id);
                    self.shared.files.removed(id);
                }
                Letter::GiveBack(asked) => {
                    self.give_back_staging();
                    asked.regions().iter().for_each(|id| self.registered.retire_region(*id));
                    self.giving_back.push(asked);
                }
                Letter::Answer(round) => round.answer(),
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
        for request in self.shared.ports[self.id].close() {
            match request {
                Letter::Remove(id) => self.shared.files.removed(id),
                Letter::GiveBack(_) => {}
                Letter::Answer(round) => round.answer(),
            }
        }
        self.giving_back.clear();
        self.give_back_staging();
        self.shared.arena.queue_ended(&self.shared.ports);
    }
}
