//! Small reads of cached files, which end while they are submitted.
//!
//! To hand a read to a worker and to wake up again takes longer than to copy a few pages. So a read that is one piece,
//! through the page cache, is first tried on the caller's thread, in a way that never waits. If that does not move every
//! byte, the op goes to the workers as if it had not been tried.
//!
//! Only ops whose descriptors are the engine's own are tried: callbacks of others run on workers.

use std::sync::Arc;

use crate::backend::Direction;
use crate::engine::op_queue::WhenFull;
use crate::engine::transfer::Transfer;
use crate::engine::{Shared, system_call};
use crate::error::Result;
use crate::file::OpenFile;
use crate::op::desc::Target;
use crate::op::plan::Segment;
use crate::stats::Stats;
use crate::sync::Ordering;

/// Reads of at most so many bytes are tried. A caller that has several in flight is faster with workers from some size
/// on, which copy while it goes on.
const SMALL: usize = 64 << 10;

impl Shared {
    /// As [`submit_transfer`](Self::submit_transfer), of an op whose descriptor is the engine's own: a small read of
    /// what is cached has ended when this returns.
    pub(crate) fn submit_own(self: &Arc<Self>, op: &Arc<Transfer>, when_full: WhenFull) -> Result<()> {
        if !self.is_read_at_once(op) {
            return self.submit_transfer(op.clone(), when_full);
        }
        // An op of a scope drops its buffer, which must no more wait for the engine than on a worker.
        let _on_worker = self.enter_worker();
        // It takes no room, so none has to be there.
        let epoch = self.op_queue.accept(op.state.options.priority, WhenFull::Exceed)?;
        op.state.epoch.store(epoch, Ordering::Release);
        let bytes = op.state.plan().map_or(0, |plan| plan.bytes);
        op.state.account(1, bytes);
        self.counters.add(&mut Stats { blocks: 1, bytes_buffered: bytes, ..Stats::default() });
        self.end([op.clone()]);
        Ok(())
    }

    /// Whether all bytes of an op, which was not accepted yet, could be read without waiting.
    fn is_read_at_once(&self, op: &Transfer) -> bool {
        let Some((file, segment)) = small_read(op) else { return false };
        // In a forked child, or on a closed handle, submission says so.
        self.check_open().is_ok()
            && file.buffered_if_open().is_some_and(|fd| {
                let moved = system_call::read_at_once(&*self.backend, fd, &op.desc, segment);
                moved.is_ok_and(|moved| moved == segment.len)
            })
    }
}

/// The one piece of a small read that is a copy.
fn small_read(op: &Transfer) -> Option<(&OpenFile, &Segment)> {
    let plan = op.state.plan().filter(|plan| plan.blocks == 1 && plan.is_copy)?;
    let segment = plan.segments.first().filter(|segment| segment.len <= SMALL)?;
    match op.desc.target() {
        Target::File(file) if op.desc.direction() == Direction::Read => Some((file, segment)),
        _ => None,
    }
}
