//! Which memory a buffer gets: the regions, what is free in them, and when to map more.

use std::collections::BTreeMap;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use nix::errno::Errno;

use super::Shared;
use super::free::{FreeList, RangeSet};
use super::mapping::{HUGE_PAGE, Mapping, REGISTRABLE};
use crate::backend::{RegionId, RegionMemory};
use crate::sync::Ordering;

/// How much free memory to map in advance while buffers are few, in bytes. With the one huge page that a small buffer
/// gets when this much is free in too small pieces, 16 MiB.
const SLACK: usize = 14 << 20;

/// The state of an arena.
#[derive(Debug, Default)]
pub(super) struct Pool {
    regions: BTreeMap<RegionId, RegionState>,
    next_id: u32,
    free: FreeList,
    /// Mappings of buffers that are too large for a region, kept for the next such buffer.
    spares: Vec<Arc<Mapping>>,
    /// Bytes in buffers that count against the limit.
    pub(super) in_use: u64,
    /// Bytes in buffers that do not.
    uncounted: u64,
    /// Threads that wait for room.
    pub(super) waiting: usize,
}

#[derive(Debug)]
struct RegionState {
    memory: Arc<Mapping>,
    faulted: RangeSet,
}

/// The memory of one buffer: whole pages of a mapping that are nobody else's.
#[derive(Debug)]
pub(super) struct Piece {
    memory: Arc<Mapping>,
    /// `None`: the mapping is this piece's alone and no region.
    region: Option<RegionId>,
    start: usize,
    len: usize,
    counted: bool,
}

/// A piece, and the parts of it (as offsets in the mapping) that were never faulted in.
type Cut = (Piece, Vec<Range<usize>>);

impl Pool {
    /// Whether a buffer of `need` bytes may be cut now without going past the limit.
    pub(super) fn has_room(&mut self, need: usize, arena: &Shared) -> bool {
        if need as u64 > arena.limit.saturating_sub(self.in_use) {
            return false;
        }
        if self.fits(need) {
            return true;
        }
        // There is room, but in pieces. Mapping more is right unless it would go far beyond the limit; then what is
        // free and was never registered goes first, and if that is not enough, buffers in use have to.
        if self.mapped_with(need, arena) > arena.limit {
            self.unmap_unused();
        }
        let most = arena.limit.saturating_add((arena.limit / 4).max(SLACK as u64));
        self.in_use == 0 || self.mapped_with(need, arena) <= most
    }

    /// Cuts a piece of `need` bytes, a multiple of the page size that is not 0.
    pub(super) fn cut(&mut self, need: usize, counted: bool, arena: &Shared) -> Result<Cut, Errno> {
        if need > REGISTRABLE {
            return self.cut_own(need, counted, arena);
        }
        // Small ones from the far end, so that large ones keep starting at huge-page boundaries.
        let far_end = need < HUGE_PAGE;
        if let Some((region, start)) = self.free.take(need, far_end) {
            return self.piece(region, start, need, counted);
        }
        self.add_region(need, arena)?;
        let (region, start) = self.free.take(need, far_end).ok_or(Errno::ENOMEM)?;
        self.piece(region, start, need, counted)
    }

    /// Cuts a counted piece of at most `most` bytes: the largest that is free, or else a new region.
    pub(super) fn cut_largest(&mut self, most: usize, arena: &Shared) -> Result<Cut, Errno> {
        if self.free.bytes() == 0 {
            self.add_region(most.min(REGISTRABLE), arena)?;
        }
        let (region, start, len) = self.free.take_largest(most).ok_or(Errno::ENOMEM)?;
        self.piece(region, start, len, true)
    }

    /// A buffer that no region can hold gets a mapping of its own: contiguous, but nothing that a queue registers.
    fn cut_own(&mut self, need: usize, counted: bool, arena: &Shared) -> Result<Cut, Errno> {
        let (memory, fresh) = match self.spare(need) {
            Some(index) => (self.spares.swap_remove(index), Vec::new()),
            None => (Arc::new(Mapping::new(need, &arena.mapped)?), std::iter::once(0..need).collect()),
        };
        self.count(need, counted);
        Ok((Piece { memory, region: None, start: 0, len: need, counted }, fresh))
    }

    fn piece(&mut self, region: RegionId, start: usize, len: usize, counted: bool) -> Result<Cut, Errno> {
        let state = self.regions.get(&region).ok_or(Errno::ENOMEM)?;
        let (memory, fresh) = (Arc::clone(&state.memory), state.faulted.gaps(start..start + len));
        self.count(len, counted);
        Ok((Piece { memory, region: Some(region), start, len, counted }, fresh))
    }

    /// Takes a piece back.
    pub(super) fn give_back(&mut self, piece: Piece) {
        *self.counter(piece.counted) -= piece.len as u64;
        match piece.region {
            Some(region) => self.free.give(region, piece.start, piece.len),
            None => self.spares.push(piece.memory),
        }
    }

    /// Notes that all of a piece has been faulted in.
    pub(super) fn faulted(&mut self, piece: &Piece) {
        if let Some(state) = piece.region.and_then(|region| self.regions.get_mut(&region)) {
            state.faulted.add(piece.start..piece.start + piece.len);
        }
    }

    pub(super) fn region(&self, id: RegionId) -> Option<Arc<dyn RegionMemory>> {
        self.regions.get(&id).map(|state| Arc::clone(&state.memory) as _)
    }

    /// Maps a region with room for `need` bytes.
    fn add_region(&mut self, need: usize, arena: &Shared) -> Result<(), Errno> {
        let id = RegionId(self.next_id);
        let next_id = self.next_id.checked_add(1).ok_or(Errno::ENOMEM)?;
        let below_limit = arena.limit.saturating_sub(self.mapped_with(0, arena));
        let below_limit = usize::try_from(below_limit).unwrap_or(usize::MAX) / arena.page * arena.page;
        let size = region_size(need, self.free.bytes(), below_limit);
        let memory = match Mapping::new(size, &arena.mapped) {
            Ok(memory) => memory,
            Err(_) => {
                self.unmap_unused();
                Mapping::new(need, &arena.mapped)?
            }
        };
        self.next_id = next_id;
        self.free.give(id, 0, memory.len());
        self.regions.insert(id, RegionState { memory: Arc::new(memory), faulted: RangeSet::default() });
        Ok(())
    }

    /// Unmaps what no buffer lies in and no queue has. Nobody can get hold of it meanwhile: both take the lock first.
    fn unmap_unused(&mut self) {
        self.spares.clear();
        let free = &mut self.free;
        self.regions.retain(|&id, state| {
            let used = Arc::strong_count(&state.memory) > 1;
            if !used {
                free.forget(id, 0);
            }
            used
        });
    }

    #[cfg(test)]
    pub(super) fn free_ranges(&self) -> Vec<(RegionId, Range<usize>)> {
        self.free.ranges()
    }

    fn fits(&self, need: usize) -> bool {
        if need > REGISTRABLE { self.spare(need).is_some() } else { self.free.fits(need) }
    }

    /// The spare mapping to use for `need` bytes, unless that would waste more than a quarter.
    fn spare(&self, need: usize) -> Option<usize> {
        let close = |len| len >= need && len - need <= need / 4;
        let close = self.spares.iter().enumerate().filter(|(_, spare)| close(spare.len()));
        close.min_by_key(|(_, spare)| spare.len()).map(|(index, _)| index)
    }

    /// Bytes mapped for buffers that count, if `more` were.
    fn mapped_with(&self, more: usize, arena: &Shared) -> u64 {
        (arena.mapped.load(Ordering::Relaxed) + more as u64).saturating_sub(self.uncounted)
    }

    fn count(&mut self, len: usize, counted: bool) {
        *self.counter(counted) += len as u64;
    }

    fn counter(&mut self, counted: bool) -> &mut u64 {
        if counted { &mut self.in_use } else { &mut self.uncounted }
    }
}

impl Piece {
    pub(super) fn ptr(&self) -> NonNull<u8> {
        // SAFETY: a piece lies within its mapping.
        unsafe { self.memory.ptr().add(self.start) }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn region(&self) -> Option<RegionId> {
        self.region
    }

    /// Faults in a part of the piece that was reported as never faulted in. Not once the buffer is in use.
    pub(super) fn fault_in(&self, range: Range<usize>, page: usize) -> Result<(), Errno> {
        debug_assert!(self.start <= range.start && range.end <= self.start + self.len);
        // SAFETY: the range is within the piece, so it is nobody else's; the buffer has not been handed out yet, and no
        // earlier one covered these pages, so nobody wrote them.
        unsafe { self.memory.fault_in(range, page) }
    }
}

/// How large to make a region for a buffer of `need` bytes that fits nowhere, while `free` bytes are free in pieces and
/// `below_limit` may still be mapped.
///
/// Registering a region pins all of it, so free memory costs as much as used memory: it stays below [`SLACK`]. A queue
/// has room for 16384 regions, enough for 200 GiB of small buffers; a large one has a region to itself.
fn region_size(need: usize, free: usize, below_limit: usize) -> usize {
    let size = if free > SLACK {
        // Earlier buffers left this much, in pieces that are too small. If each of a series of growing buffers got a
        // region of its own size, all of them would stay mapped; doubling bounds that by the size of the largest.
        need.next_power_of_two().max(HUGE_PAGE)
    } else {
        (need + (SLACK - free)) / HUGE_PAGE * HUGE_PAGE
    };
    size.max(HUGE_PAGE).min(below_limit).clamp(need, REGISTRABLE)
}
