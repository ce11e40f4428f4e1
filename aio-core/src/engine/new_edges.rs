//! The edges of a write that makes its file longer, written by the worker that prepares the op: past the old end nothing
//! has to be read, and less than a page of each is copied, in less time than a queue needs for a request.

use crate::backend::Direction;
use crate::engine::Shared;
use crate::engine::completion::{NextStep, Piece};
use crate::engine::staging::as_uninit;
use crate::engine::system_call::{self, CallMemory};
use crate::engine::transfer::Transfer;
use crate::file::OpenFile;
use crate::file::routes::Route;
use crate::op::plan::Plan;
use crate::stats::Stats;

/// Most edges that are written by a worker itself.
const EDGES: usize = 16;

/// Writes the edges of an op that makes its file longer from `old_end` on. What does not work out here is left to the
/// queue, and the plan says so.
pub(super) fn write(shared: &Shared, op: &Transfer, file: &OpenFile, plan: &mut Plan, old_end: u64) {
    let unit = u64::from(file.alignment().offset);
    let edges = || plan.segments.iter().filter(|segment| !segment.direct);
    let are_new = || edges().all(|edge| edge.offset / unit * unit >= old_end);
    if unit == 0 || plan.cached == 0 || plan.cached > EDGES || !are_new() {
        return;
    }
    let (Some(inode), Ok(fd)) = (file.inode(), file.buffered()) else { return };
    let Some(_pass) = inode.routes.try_enter(Route::Cached) else { return };
    let (mut memory, mut counted) = (Vec::new(), Stats::default());
    for edge in edges() {
        memory.resize(edge.len, 0);
        if op.call("gather", |desc| desc.gather(edge.extent, edge.at, as_uninit(&mut memory))).is_err() {
            return;
        }
        let piece = Piece {
            direction: Direction::Write,
            offset: edge.offset,
            len: edge.len,
            direct: false,
            unit: file.alignment().offset,
            staged: edge.staged,
            fixed: false,
            retries: 0,
        };
        let reported = system_call::transfer(&*shared.backend, fd, CallMemory::From(&memory), edge.offset);
        let step = piece.next_step(reported);
        if !matches!(step, NextStep::Done { .. }) {
            return;
        }
        piece.count(&step, &mut counted);
        counted.blocks += 1;
    }
    plan.is_cached_done = true;
    shared.counters.add(&mut counted);
}
