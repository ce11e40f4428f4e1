//! Asking the queues that hold something of an arena for it.

use std::fmt;
use std::sync::{Arc, Weak};

use crate::backend::RegionId;
use crate::inbox::{Inbox, RegionRequest, Request};
use crate::memory::arena::Inner;

/// The workers of all engines whose buffers come from an arena.
#[derive(Debug, Default)]
pub(super) struct Queues(Vec<Weak<[Inbox]>>);

impl Queues {
    pub(super) fn add(&mut self, inboxes: &Arc<[Inbox]>) {
        self.0.retain(|inboxes| inboxes.strong_count() > 0);
        self.0.push(Arc::downgrade(inboxes));
    }

    /// Whether no other engine is there than the one with these inboxes.
    pub(super) fn are_only(&self, inboxes: &Arc<[Inbox]>) -> bool {
        let own = Arc::downgrade(inboxes);
        self.0.iter().all(|other| other.ptr_eq(&own) || other.strong_count() == 0)
    }

    /// Those of engines that are there.
    pub(super) fn all(&self) -> Vec<Holder> {
        let count = |inboxes: &Weak<[Inbox]>| inboxes.upgrade().map_or(0, |inboxes| inboxes.len());
        self.0
            .iter()
            .flat_map(|inboxes| (0..count(inboxes)).map(|worker| Holder { inboxes: inboxes.clone(), worker }))
            .collect()
    }
}

/// A worker whose queue may have registered a region.
#[derive(Debug, Clone)]
pub(crate) struct Holder {
    inboxes: Weak<[Inbox]>,
    worker: usize,
}

impl Holder {
    pub(crate) fn new(inboxes: &Arc<[Inbox]>, worker: usize) -> Self {
        Self { inboxes: Arc::downgrade(inboxes), worker }
    }

    fn is(&self, other: &Self) -> bool {
        self.inboxes.ptr_eq(&other.inboxes) && self.worker == other.worker
    }

    /// Adds it to those, unless it is among them.
    pub(super) fn add_to(&self, holders: &mut Vec<Self>) {
        if !holders.iter().any(|other| other.is(self)) {
            holders.push(self.clone());
        }
    }
}

/// What some workers are asked for: these regions, and the staging buffers that they do not use.
///
/// A worker drops its reference when its queue has removed the regions, or is gone; dropping the last one is the answer.
/// So whatever becomes of a worker or of its inbox, the answer comes.
pub(super) struct GiveBack {
    arena: Arc<Inner>,
    regions: Vec<RegionId>,
}

impl GiveBack {
    /// Not under the pool's lock, which answering takes.
    pub(super) fn post(arena: Arc<Inner>, regions: Vec<RegionId>, holders: Vec<Holder>) {
        let call = Arc::new(Self { arena, regions });
        for Holder { inboxes, worker } in holders {
            // A worker that is gone has no queue, and its reference is dropped here.
            if let Some(inbox) = inboxes.upgrade().as_ref().and_then(|inboxes| inboxes.get(worker)) {
                let _ = inbox.send(Request::ReleaseRegions(call.clone()));
            }
        }
    }
}

impl RegionRequest for GiveBack {
    fn regions(&self) -> &[RegionId] {
        &self.regions
    }
}

impl Drop for GiveBack {
    fn drop(&mut self) {
        self.arena.answered(&self.regions);
    }
}

impl fmt::Debug for GiveBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GiveBack").field("regions", &self.regions).finish_non_exhaustive()
    }
}
