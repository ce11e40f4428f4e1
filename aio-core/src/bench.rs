//! The planner for the benches, which cannot reach it alone through a handle: every op that is submitted is also run.

use crate::backend::Direction;
use crate::op::desc::Extent;
use crate::op::plan::{Alignment, Plan};

/// Plans an op of a file whose direct I/O is cut at multiples of `unit` bytes; gives the number of its blocks.
pub fn plan(extents: &[Extent], unit: u32, block_size: usize) -> usize {
    Plan::new(Direction::Read, extents, Alignment { offset: unit, memory: 512 }, block_size).blocks
}
