//! Cutting an op into blocks.
//!
//! Each extent becomes at most three segments: an inner part whose file range is a whole number of direct units, which
//! bypasses the page cache, and the edges before and after it, which go through it. A direct unit is never smaller
//! than a page or a file-system block, even where `statx(2)` allows 512 bytes: direct and buffered writes to different
//! sectors of one page were seen to lose data on ext4 and XFS. Two ops that share a page without overlapping each
//! cover it only in part, so both go through the cache there, and direct and buffered I/O never meet in a page.
//!
//! A segment is cut into blocks of `block_size` bytes, numbered through the op, so that a worker claims blocks by
//! number and nothing is stored per block. A read is numbered in the order of its extents. A write begins with all that
//! goes through the page cache, so that it takes each of the two [routes](crate::file::routes) once.

use std::ops::Range;

use smallvec::SmallVec;

use crate::backend::Direction;
use crate::file::routes::Route;
use crate::op::desc::{Extent, ExtentMemory};

/// What direct I/O on a file asks for. [`AlignedLayout`](crate::op::AlignedLayout) lays tensors out so that they have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Alignment {
    /// Direct I/O begins and ends at multiples of this many bytes in the file; a power of two. 0: no direct I/O.
    pub offset: u32,
    /// Memory of direct I/O begins at multiples of this many bytes; a power of two.
    pub memory: u32,
}

impl Alignment {
    /// Of what goes through the page cache.
    pub(crate) const NONE: Self = Self { offset: 0, memory: 1 };
}

/// The blocks of one op.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Blocks are numbered in this order. One is all that an aligned op has.
    pub(crate) segments: SmallVec<[Segment; 1]>,
    pub(crate) blocks: usize,
    /// Bytes over all extents.
    pub(crate) bytes: u64,
    block_size: usize,
    /// Blocks that go through the page cache. Those of a write come first.
    pub(crate) cached: usize,
    /// Those are done already.
    pub(crate) is_cached_done: bool,
    /// All of it is copied from or to the page cache and waits for no device, so copiers do it.
    pub(crate) is_copy: bool,
}

/// A stretch of one extent that is transferred one way.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    /// In the file.
    pub(crate) offset: u64,
    pub(crate) len: usize,
    pub(crate) memory: Option<ExtentMemory>,
    /// Which extent, and where the segment begins in it.
    pub(crate) extent: usize,
    pub(crate) at: usize,
    /// Where the segment begins in the op, all extents laid end to end.
    pub(crate) position: u64,
    pub(crate) first_block: usize,
    pub(crate) direct: bool,
    /// Through a staging buffer.
    pub(crate) staged: bool,
}

/// One block of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockRange {
    /// Into [`Plan::segments`].
    pub(crate) segment: usize,
    /// Where it begins in the segment.
    pub(crate) from: usize,
    pub(crate) len: usize,
}

impl Plan {
    /// Plans a read or a write of `extents` of a file with this alignment. Offsets were checked to fit in an `i64`.
    pub(crate) fn new(direction: Direction, extents: &[Extent], alignment: Alignment, block_size: usize) -> Self {
        let unit = u64::from(alignment.offset);
        // A block is a whole number of units, so that every cut inside a direct segment is aligned.
        let block_size = block_size.next_multiple_of(unit.max(1) as usize);
        let mut plan = Self { block_size, ..Self::default() };
        // Vectored ops have a segment per extent, if they are aligned: room for them at once.
        plan.segments.reserve_exact(extents.len());
        let routes: &[Option<Route>] = match direction {
            Direction::Read => &[None],
            Direction::Write => &[Some(Route::Cached), Some(Route::Direct)],
        };
        for only in routes {
            let mut next = 0;
            for (index, extent) in extents.iter().enumerate() {
                let position = next;
                next += extent.len as u64;
                // Hardly any write has edges.
                let is_whole = unit != 0 && (extent.offset | extent.len as u64).is_multiple_of(unit);
                if is_whole && *only == Some(Route::Cached) {
                    continue;
                }
                for (from, to, route) in parts(extent, unit) {
                    if only.is_none_or(|only| only == route) {
                        plan.push((index, extent), from..to, position + (from - extent.offset), route, alignment);
                    }
                }
            }
        }
        plan
    }

    fn push(
        &mut self,
        (index, extent): (usize, &Extent),
        Range { start: from, end: to }: Range<u64>,
        position: u64,
        route: Route,
        alignment: Alignment,
    ) {
        if from >= to {
            return;
        }
        let direct = route == Route::Direct;
        let at = (from - extent.offset) as usize;
        let len = (to - from) as usize;
        let memory = extent.memory.map(|memory| memory.advance(at));
        let aligned = memory.is_some_and(|memory| memory.address().is_multiple_of(alignment.memory.max(1) as usize));
        self.segments.push(Segment {
            offset: from,
            len,
            memory,
            extent: index,
            at,
            position,
            first_block: self.blocks,
            direct,
            staged: memory.is_none() || (direct && !aligned),
        });
        let blocks = len.div_ceil(self.block_size);
        self.blocks += blocks;
        self.cached += if direct { 0 } else { blocks };
        self.bytes += len as u64;
    }

    /// Whether all of it goes through the page cache, from and to the memory of the op itself.
    pub(crate) fn may_be_copied(&self) -> bool {
        self.cached == self.blocks && self.segments.iter().all(|segment| !segment.staged)
    }

    /// The mean length of its blocks; at least 1.
    pub(crate) fn block_bytes(&self) -> u64 {
        (self.bytes / self.blocks.max(1) as u64).max(1)
    }

    /// Blocks at the start that are done already.
    pub(crate) fn blocks_done(&self) -> usize {
        if self.is_cached_done { self.cached } else { 0 }
    }

    /// The bytes that those moved.
    pub(crate) fn bytes_done(&self) -> u64 {
        let done = self.segments.iter().filter(|segment| self.is_cached_done && !segment.direct);
        done.map(|segment| segment.len as u64).sum()
    }

    /// The number of the block that is a part of `segment`, as [`block`](Self::block) gave it.
    pub(crate) fn number(&self, block: BlockRange) -> usize {
        self.segments[block.segment].first_block + block.from / self.block_size
    }

    /// Block `number`; `hint` is a segment at or before its own, such as that of the block before.
    pub(crate) fn block(&self, number: usize, hint: usize) -> BlockRange {
        let mut segment = hint;
        while self.segments.get(segment + 1).is_some_and(|next| next.first_block <= number) {
            segment += 1;
        }
        let whole = &self.segments[segment];
        let from = (number - whole.first_block) * self.block_size;
        BlockRange { segment, from, len: self.block_size.min(whole.len - from) }
    }

    /// The segment of block `number`.
    pub(crate) fn segment_of(&self, number: usize) -> usize {
        self.segments.partition_point(|segment| segment.first_block <= number).saturating_sub(1)
    }
}

/// What of an extent goes which route: the edges through the page cache, and whole units, if there are any, past it.
fn parts(extent: &Extent, unit: u64) -> [(u64, u64, Route); 3] {
    let end = extent.offset + extent.len as u64;
    let (inner, inner_end) = match unit {
        0 => (end, end),
        unit => (extent.offset.next_multiple_of(unit), end / unit * unit),
    };
    let (inner, inner_end) = if inner < inner_end { (inner, inner_end) } else { (end, end) };
    [(extent.offset, inner, Route::Cached), (inner, inner_end, Route::Direct), (inner_end, end, Route::Cached)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: u32 = 4096;

    fn extent(offset: u64, len: usize, address: usize) -> Extent {
        let ptr = std::ptr::NonNull::new(std::ptr::without_provenance_mut(address)).unwrap();
        Extent { offset, len, memory: Some(ExtentMemory { ptr, region: None }) }
    }

    fn direct() -> Alignment {
        Alignment { offset: PAGE, memory: 512 }
    }

    fn read(extents: &[Extent]) -> Plan {
        Plan::new(Direction::Read, extents, direct(), 64 << 10)
    }

    fn shape(plan: &Plan) -> Vec<(u64, usize, bool, bool)> {
        plan.segments.iter().map(|s| (s.offset, s.len, s.direct, s.staged)).collect()
    }

    #[test]
    fn an_aligned_extent_is_one_direct_segment() {
        let plan = read(&[extent(8192, 1 << 20, 1 << 21)]);
        assert_eq!(shape(&plan), [(8192, 1 << 20, true, false)]);
        assert_eq!((plan.blocks, plan.cached), (16, 0));
    }

    #[test]
    fn an_odd_address_is_staged_and_stays_direct() {
        assert_eq!(shape(&read(&[extent(0, 8192, 4096 + 8)])), [(0, 8192, true, true)]);
    }

    #[test]
    fn an_odd_offset_is_buffered_at_its_edges_only() {
        // The memory is odd by the same amount, so that the inner part is aligned on both sides.
        let odd = extent(100, 12288, 4096 + 100);
        let (first, inner, last) = ((100, 3996, false, false), (4096, 8192, true, false), (12288, 100, false, false));
        assert_eq!(shape(&read(&[odd])), [first, inner, last]);
        let write = Plan::new(Direction::Write, &[odd, odd], direct(), 64 << 10);
        assert_eq!(shape(&write), [first, last, first, last, inner, inner]);
        let positions: Vec<_> = write.segments.iter().map(|segment| segment.position).collect();
        assert_eq!((positions, write.cached), (vec![0, 12188, 12288, 24476, 3996, 16284], 4));
    }

    #[test]
    fn less_than_a_page_is_buffered() {
        let plan = read(&[extent(512, 512, 4096), extent(4000, 200, 4096)]);
        assert_eq!(shape(&plan), [(512, 512, false, false), (4000, 200, false, false)]);
        assert_eq!(plan.cached, plan.blocks);
    }

    #[test]
    fn a_unit_larger_than_the_block_size_wins() {
        let plan = Plan::new(
            Direction::Read,
            &[extent(0, 1 << 17, 1 << 21)],
            Alignment { offset: 1 << 16, memory: 512 },
            4096,
        );
        assert_eq!(plan.blocks, 2);
    }

    proptest! {
        #[test]
        fn blocks_tile_the_extents(
            extents in prop::collection::vec((0u64..100_000, 0usize..100_000, 1usize..10_000), 0..6),
            unit in prop::sample::select(vec![0u32, 4096, 16384]),
            block_pages in 1usize..20,
            write in any::<bool>(),
        ) {
            let extents: Vec<Extent> =
                extents.into_iter().map(|(offset, len, address)| extent(offset, len, address)).collect();
            let direction = if write { Direction::Write } else { Direction::Read };
            let plan = Plan::new(direction, &extents, Alignment { offset: unit, memory: 512 }, block_pages * 4096);
            // Blocks by their position in the op, and in the order of their numbers.
            let (mut blocks, mut routes) = (Vec::new(), Vec::new());
            let mut hint = 0;
            for number in 0..plan.blocks {
                let block = plan.block(number, hint);
                prop_assert_eq!(block, plan.block(number, plan.segment_of(number)));
                prop_assert_eq!(plan.number(block), number);
                hint = block.segment;
                let segment = &plan.segments[block.segment];
                let whole = &extents[segment.extent];
                let at = segment.at + block.from;
                prop_assert_eq!(segment.offset + block.from as u64, whole.offset + at as u64);
                prop_assert_eq!(segment.memory.unwrap().address(), whole.memory.unwrap().address() + segment.at);
                prop_assert!(block.len > 0 && at + block.len <= whole.len);
                let before: usize = extents[..segment.extent].iter().map(|extent| extent.len).sum();
                prop_assert_eq!(segment.position + block.from as u64, (before + at) as u64);
                let (from, to) = (segment.offset + block.from as u64, segment.offset + (block.from + block.len) as u64);
                if segment.direct {
                    prop_assert!(from.is_multiple_of(unit.into()) && to.is_multiple_of(unit.into()));
                } else if unit != 0 {
                    // No page that is covered whole goes through the cache.
                    let unit = u64::from(unit);
                    prop_assert!(segment.offset.next_multiple_of(unit) + unit > segment.offset + segment.len as u64);
                }
                blocks.push((before + at, block.len));
                routes.push(segment.direct);
            }
            prop_assert_eq!(plan.cached, routes.iter().filter(|direct| !**direct).count());
            if write {
                prop_assert!(routes.is_sorted(), "the page cache comes first: {:?}", routes);
                blocks.sort_unstable();
            }
            let mut covered = 0;
            for (from, len) in blocks {
                prop_assert_eq!(from, covered);
                covered += len;
            }
            prop_assert_eq!(covered, extents.iter().map(|extent| extent.len).sum::<usize>());
            prop_assert_eq!(plan.bytes, covered as u64);
        }
    }
}
