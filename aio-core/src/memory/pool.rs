//! Which memory a buffer gets: the regions, what is free in them, when to map more, and what to return to the system.
#![allow(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use nix::errno::Errno;

use crate::backend::RegionId;
use crate::memory::arena::Inner;
use crate::memory::free_list::{FreeList, RangeSet};
use crate::memory::huge_pages::HUGE_PAGE;
use crate::memory::mapping::{Mapping, Part, REGISTRABLE};
use crate::memory::queues::{Holder, Queues};
use crate::memory::turns::Turns;
use crate::sync::{Ordering, process, thread};

/// How much free memory to map in advance while buffers are few, in bytes. With the one huge page that a small buffer
/// gets when this much is free in too small pieces, 16 MiB.
const SLACK: usize = 14 << 20;

/// The state of an arena.
#[derive(Debug, Default)]
pub(super) struct Pool {
    regions: BTreeMap<RegionId, RegionState>,
    slots: Slots,
    free: FreeList,
    /// Mappings of buffers that are too large for a region, kept for the next such buffer.
    spares: Vec<Arc<Mapping>>,
    /// Regions that the queues were asked to give back.
    leaving: HashMap<RegionId, Leaving>,
    /// Bytes that will be returned to the system: when they have, or when what a buffer had beyond the limit is
    /// unmapped.
    coming: usize,
    /// How often the queues were asked, and have not answered.
    pub(super) asked: usize,
    /// Bytes in users' buffers, and how many these are.
    pub(super) in_use: u64,
    pub(super) buffers: usize,
    /// Bytes in staging buffers within the limit.
    pub(super) staging: u64,
    /// Bytes in staging buffers beyond it.
    beyond: u64,
    pub(super) turns: Turns,
    pub(super) queues: Queues,
    /// What keeps the time for tasks that wait.
    pub(super) timekeeper: Option<thread::JoinHandle<()>>,
}

/// Memory that buffers are cut from, as long as no queue is asked to give it back.
#[derive(Debug)]
struct RegionState {
    memory: Arc<Mapping>,
    /// What of the mapping is the region. It changes only while no queue has it.
    part: Range<usize>,
    faulted: RangeSet,
    /// Buffers that lie in it.
    pieces: usize,
    /// Those that got it.
    holders: Vec<Holder>,
}

/// A region that queues may still have registered.
#[derive(Debug)]
pub(super) struct Leaving {
    memory: Arc<Mapping>,
    /// Where no buffer lies.
    free: Vec<Range<usize>>,
    pieces: usize,
}

/// The memory of one buffer: whole pages of a mapping that are nobody else's.
#[derive(Debug)]
pub(super) struct Piece {
    memory: Arc<Mapping>,
    /// `None`: the mapping is this piece's alone and no region.
    region: Option<RegionId>,
    start: usize,
    counted: Counted,
}

/// What a buffer counts as.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    len: usize,
    purpose: Purpose,
    /// The ticket that was the first in line when it was cut.
    behind: u64,
}

/// What a buffer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    User,
    Staging,
    /// Staging beyond the limit.
    Beyond,
}

/// A piece, and the parts of it (as offsets in the mapping) that were never faulted in.
type Cut = (Piece, Vec<Range<usize>>);

/// Whether there is room for a buffer.
#[derive(Debug)]
pub(super) enum Room {
    /// It may be cut now.
    Ready,
    /// The queues have to be asked for these regions, and for staging buffers that they do not use.
    Ask(Vec<RegionId>),
    /// Something has to change first.
    Wait,
    /// Nothing will change: buffers leave room, but queues were asked for the memory and have kept it.
    Kept,
}

impl Pool {
    /// Whether there is room within the limit for a buffer of `need` bytes, whosever turn it is. Returns what is free
    /// elsewhere to the system, if that is what it takes. `asked`: the queues were asked for staging buffers already.
    pub(super) fn room(&mut self, need: usize, asked: bool, arena: &Inner) -> Room {
        if need as u64 > arena.limit.saturating_sub(self.in_use) {
            return Room::Wait;
        }
        if need as u64 > arena.limit.saturating_sub(self.in_use + self.staging) {
            return if asked { Room::Wait } else { Room::Ask(Vec::new()) };
        }
        if self.makes_room(need, arena) {
            return Room::Ready;
        }
        let missing = self.missing(need, arena).saturating_sub(self.coming as u64);
        let regions = if missing > 0 { self.held_regions(missing) } else { Vec::new() };
        match regions.is_empty() {
            false => Room::Ask(regions),
            true if self.asked > 0 || self.coming > 0 => Room::Wait,
            true => Room::Kept,
        }
    }

    /// Whether a staging buffer may be cut now without going past the limit, or before those that wait for room.
    pub(super) fn has_room_for_staging(&mut self, need: usize, arena: &Inner) -> bool {
        self.turns.delays_nobody(self.in_use, arena.limit)
            && need as u64 <= arena.limit.saturating_sub(self.in_use + self.staging)
            && self.makes_room(need, arena)
    }

    /// Whether at least a part of `need` bytes is free, or all of it can be mapped.
    pub(super) fn has_some_for(&mut self, need: usize, arena: &Inner) -> bool {
        self.free.bytes() > 0 || self.makes_room(need, arena)
    }

    /// Whether it is the turn of that ticket, or of an allocation that has none.
    pub(super) fn is_turn_of(&mut self, ticket: Option<u64>, arena: &Inner) -> bool {
        self.turns.is_turn_of(ticket, self.in_use, arena.limit)
    }

    /// Whether `need` bytes are free in one piece or can be mapped. Unmaps what no queue has registered if it must.
    fn makes_room(&mut self, need: usize, arena: &Inner) -> bool {
        if self.fits(need) {
            return true;
        }
        if self.missing(need, arena) > 0 {
            self.unmap_unregistered(need, arena);
        }
        self.missing(need, arena) == 0
    }

    /// How many bytes too many would be mapped with `more`.
    fn missing(&self, more: usize, arena: &Inner) -> u64 {
        (self.mapped_within(arena) + more as u64).saturating_sub(arena.limit)
    }

    /// Cuts a piece of `need` bytes, a multiple of the page size that is not 0.
    pub(super) fn cut(&mut self, need: usize, purpose: Purpose, arena: &Inner) -> Result<Cut, Errno> {
        if need > REGISTRABLE || purpose == Purpose::Beyond {
            return self.cut_own(need, purpose, arena);
        }
        // Small ones from the far end, so that large ones keep starting at huge-page boundaries.
        let far_end = need < HUGE_PAGE;
        if let Some((region, start)) = self.free.take(need, far_end) {
            return self.piece(region, start, need, purpose);
        }
        self.add_region(need, arena)?;
        let (region, start) = self.free.take(need, far_end).ok_or(Errno::ENOMEM)?;
        self.piece(region, start, need, purpose)
    }

    /// Cuts a user's piece of at most `most` bytes: the largest that is free, or else a new region.
    pub(super) fn cut_largest(&mut self, most: usize, arena: &Inner) -> Result<Cut, Errno> {
        if self.free.bytes() == 0 {
            self.add_region(most.min(REGISTRABLE), arena)?;
        }
        let (region, start, len) = self.free.take_largest(most).ok_or(Errno::ENOMEM)?;
        self.piece(region, start, len, Purpose::User)
    }

    /// A buffer that no region can hold gets a mapping of its own: contiguous, but nothing that a queue registers.
    fn cut_own(&mut self, need: usize, purpose: Purpose, arena: &Inner) -> Result<Cut, Errno> {
        let spare = if purpose == Purpose::Beyond { None } else { self.spare(need) };
        let (memory, fresh) = match spare {
            Some(index) => {
                let mut memory = self.spares.swap_remove(index);
                // What the buffer does not take would be counted nowhere, and never given back.
                Arc::get_mut(&mut memory).ok_or(Errno::ENOMEM)?.shorten(need)?;
                (memory, Vec::new())
            }
            None => (Arc::new(Mapping::new(need, &arena.mapped)?), std::iter::once(0..need).collect()),
        };
        Ok((Piece { memory, region: None, start: 0, counted: self.count(need, purpose) }, fresh))
    }

    fn piece(&mut self, region: RegionId, start: usize, len: usize, purpose: Purpose) -> Result<Cut, Errno> {
        let state = self.regions.get_mut(&region).ok_or(Errno::ENOMEM)?;
        state.pieces += 1;
        let (memory, fresh) = (Arc::clone(&state.memory), state.faulted.gaps(start..start + len));
        Ok((Piece { memory, region: Some(region), start, counted: self.count(len, purpose) }, fresh))
    }

    /// Takes a piece back, unless its memory is to be [returned](Piece::return_memory) first.
    pub(super) fn give_back(&mut self, piece: Piece) -> Option<Piece> {
        let range = piece.range();
        let region = match piece.region {
            None if piece.purpose() == Purpose::Beyond => {
                // Before it is unmapped: until then it counts as if it were within the limit, and not the reverse.
                self.discount(piece.counted);
                self.coming += piece.len();
                return Some(piece);
            }
            None => {
                self.discount(piece.counted);
                self.spares.push(piece.memory);
                return None;
            }
            Some(region) => region,
        };
        if let Some(state) = self.regions.get_mut(&region) {
            state.pieces -= 1;
            self.free.give(region, range.start, range.len());
        } else if let Some(leaving) = self.leaving.get_mut(&region) {
            self.coming += range.len();
            leaving.free.push(range);
            leaving.pieces -= 1;
        } else {
            return Some(piece);
        }
        self.discount(piece.counted);
        None
    }

    /// Notes that the memory of a piece has been returned to the system.
    pub(super) fn returned(&mut self, counted: Counted) {
        if counted.purpose == Purpose::Beyond {
            self.coming -= counted.len;
        } else {
            self.discount(counted);
        }
    }

    /// Notes that all of a piece has been faulted in.
    pub(super) fn faulted(&mut self, piece: &Piece) {
        if let Some(state) = piece.region.and_then(|region| self.regions.get_mut(&region)) {
            state.faulted.add(piece.range());
        }
    }

    pub(super) fn region(&mut self, id: RegionId, holder: &Holder) -> Option<Arc<Part>> {
        let RegionState { memory, part, holders, .. } = self.regions.get_mut(&id)?;
        holder.add_to(holders);
        Some(Arc::new(Part::new(Arc::clone(memory), part.clone())))
    }

    /// Maps a region with room for `need` bytes.
    fn add_region(&mut self, need: usize, arena: &Inner) -> Result<(), Errno> {
        let below_limit = arena.limit.saturating_sub(self.mapped_within(arena));
        let below_limit = usize::try_from(below_limit).unwrap_or(usize::MAX) / arena.page * arena.page;
        let size = region_size(need, self.free.bytes(), below_limit);
        let memory = match Mapping::new(size, &arena.mapped) {
            Ok(memory) => memory,
            Err(_) => {
                self.unmap_unused();
                Mapping::new(need, &arena.mapped)?
            }
        };
        let id = self.slots.take();
        let part = 0..memory.len();
        self.free.give(id, 0, part.len());
        let (memory, faulted) = (Arc::new(memory), RangeSet::default());
        self.regions.insert(id, RegionState { memory, part, faulted, pieces: 0, holders: Vec::new() });
        Ok(())
    }

    /// Unmaps what no buffer lies in and no queue has registered.
    pub(super) fn unmap_unused(&mut self) {
        self.spares.clear();
        let unused = self.regions.iter().filter(|(_, state)| state.pieces == 0 && !state.is_registered());
        for id in unused.map(|(&id, _)| id).collect::<Vec<_>>() {
            self.return_unregistered(id);
        }
    }

    /// Returns memory that no queue has registered to the system until there is room to map `need` bytes: whole
    /// mappings first, then what is free before and behind buffers, which remain a region, and then what is free
    /// between them.
    fn unmap_unregistered(&mut self, need: usize, arena: &Inner) {
        while self.missing(need, arena) > 0 && self.spares.pop().is_some() {}
        for between in [false, true] {
            for id in self.by_worth(|state| !state.is_registered()) {
                if self.missing(need, arena) == 0 {
                    return;
                }
                let is_unused = self.regions.get(&id).is_some_and(|state| state.pieces == 0);
                if is_unused || between { self.return_unregistered(id) } else { self.return_ends(id) }
            }
        }
    }

    /// Shortens a region that no queue has registered to what lies between its first buffer and its last.
    fn return_ends(&mut self, id: RegionId) {
        let Some(RegionState { memory, part, .. }) = self.regions.get_mut(&id) else { return };
        for end in self.free.forget_ends(id, part) {
            *part = if end.start == part.start { end.end..part.end } else { part.start..end.start };
            // SAFETY: no buffer lies in what was free, and out of the list none ever will. No queue has the region,
            // by the caller's word, and what they can get of it from now on is without this.
            unsafe { memory.return_pages(end) };
        }
    }

    /// Regions to ask the queues for, so that `missing` bytes can be returned; all there are if that is not enough.
    fn held_regions(&self, missing: u64) -> Vec<RegionId> {
        let mut found = 0;
        let mut regions = self.by_worth(RegionState::is_registered);
        regions.retain(|&id| {
            let wanted = found < missing;
            found += self.free.bytes_in(id) as u64;
            wanted
        });
        regions
    }

    /// The regions with something free, in the order in which to return their memory: those without buffers, then those
    /// with the most free memory, since what is left of a region loses its registration.
    fn by_worth(&self, which: impl Fn(&RegionState) -> bool) -> Vec<RegionId> {
        let regions = self.regions.iter().filter(|(_, state)| which(state));
        let free = regions.map(|(&id, state)| (state.pieces > 0, usize::MAX - self.free.bytes_in(id), id));
        let mut free: Vec<_> = free.filter(|&(_, used, _)| used < usize::MAX).collect();
        free.sort_unstable();
        free.into_iter().map(|(_, _, id)| id).collect()
    }

    /// Ends a region that no queue has registered. What is free of it goes now, what its buffers have when these do.
    fn return_unregistered(&mut self, id: RegionId) {
        let Some(RegionState { memory, pieces, .. }) = self.regions.remove(&id) else { return };
        let free = self.free.forget(id);
        self.slots.give(id);
        // Otherwise dropping the mapping returns all of it.
        if pieces > 0 {
            memory.keep_holes();
            // SAFETY: no buffer lies in what was free, and with the region gone from the lists none ever will. No queue
            // has it registered, by the caller's word, and none can get it any more.
            free.into_iter().for_each(|range| unsafe { memory.return_pages(range) });
        }
    }

    /// Ends regions that queues may have registered. Nothing is cut from them any more, and no queue can get them anew.
    /// Gives whom to ask for them; where there are none, all.
    pub(super) fn ask_for(&mut self, regions: &[RegionId]) -> Vec<Holder> {
        let mut to_ask = if regions.is_empty() { self.queues.all() } else { Vec::new() };
        for id in regions {
            let Some(RegionState { memory, pieces, holders, .. }) = self.regions.remove(id) else { continue };
            let free = self.free.forget(*id);
            self.coming += free.iter().map(ExactSizeIterator::len).sum::<usize>();
            self.leaving.insert(*id, Leaving { memory, free, pieces });
            holders.iter().for_each(|holder| holder.add_to(&mut to_ask));
        }
        self.asked += 1;
        to_ask
    }

    /// No queue has these regions any more.
    pub(super) fn answered(&mut self, regions: &[RegionId]) -> Vec<Leaving> {
        regions.iter().for_each(|&id| self.slots.give(id));
        regions.iter().filter_map(|id| self.leaving.remove(id)).collect()
    }

    /// What came of [`answered`](Self::answered) has been returned.
    pub(super) fn came(&mut self, bytes: usize) {
        self.coming -= bytes;
        self.asked -= 1;
    }

    #[cfg(test)]
    pub(super) fn free_ranges(&self) -> Vec<(RegionId, Range<usize>)> {
        self.free.ranges()
    }

    fn fits(&self, need: usize) -> bool {
        if need > REGISTRABLE { self.spare(need).is_some() } else { self.free.fits(need) }
    }

    /// The spare mapping to cut down to `need` bytes, unless that would lose more than a quarter.
    fn spare(&self, need: usize) -> Option<usize> {
        let close = |len| len >= need && len - need <= need / 4;
        let close = self.spares.iter().enumerate().filter(|(_, spare)| close(spare.len()));
        close.min_by_key(|(_, spare)| spare.len()).map(|(index, _)| index)
    }

    /// Bytes mapped but for what may go beyond the limit.
    fn mapped_within(&self, arena: &Inner) -> u64 {
        arena.mapped.load(Ordering::Relaxed).saturating_sub(self.beyond)
    }

    fn count(&mut self, len: usize, purpose: Purpose) -> Counted {
        *self.counter(purpose) += len as u64;
        self.buffers += usize::from(purpose == Purpose::User);
        Counted { len, purpose, behind: self.turns.first_seen() }
    }

    fn discount(&mut self, Counted { len, purpose, behind }: Counted) {
        *self.counter(purpose) -= len as u64;
        if purpose == Purpose::User {
            self.buffers -= 1;
            self.turns.dropped(behind, len as u64);
        }
    }

    fn counter(&mut self, purpose: Purpose) -> &mut u64 {
        match purpose {
            Purpose::User => &mut self.in_use,
            Purpose::Staging => &mut self.staging,
            Purpose::Beyond => &mut self.beyond,
        }
    }
}

impl RegionState {
    /// Whether a queue may have it registered. Queues get a region under the pool's lock, and hold it as long as they
    /// have it registered, so that a no stays a no as long as the lock is held.
    fn is_registered(&self) -> bool {
        Arc::strong_count(&self.memory) > 1 + self.pieces
    }
}

impl Leaving {
    /// Returns its memory to the system, but for what buffers have; gives how many bytes were free of it.
    ///
    /// # Safety
    ///
    /// No queue has the region registered.
    pub(super) unsafe fn return_memory(self) -> usize {
        let Self { memory, free, pieces } = self;
        let bytes = free.iter().map(ExactSizeIterator::len).sum();
        // Without buffers, dropping the mapping returns all of it. A queue that failed to remove it holds it mapped.
        if pieces > 0 && Arc::strong_count(&memory) <= 1 + pieces {
            memory.keep_holes();
            // SAFETY: no buffer lies in what was free, and none ever will; no queue has it, by the caller's word.
            free.into_iter().for_each(|range| unsafe { memory.return_pages(range) });
        }
        bytes
    }
}

impl Piece {
    pub(super) fn ptr(&self) -> NonNull<u8> {
        // SAFETY: a piece lies within its mapping.
        unsafe { self.memory.ptr().add(self.start) }
    }

    pub(super) fn len(&self) -> usize {
        self.counted.len
    }

    fn range(&self) -> Range<usize> {
        self.start..self.start + self.len()
    }

    pub(super) fn region(&self) -> Option<RegionId> {
        self.region
    }

    pub(super) fn counted(&self) -> Counted {
        self.counted
    }

    pub(super) fn purpose(&self) -> Purpose {
        self.counted.purpose
    }

    /// Faults in a part of the piece that was reported as never faulted in. Not once the buffer is in use.
    pub(super) fn fault_in(&self, range: Range<usize>, page: usize) -> Result<(), Errno> {
        debug_assert!(self.start <= range.start && range.end <= self.range().end);
        // SAFETY: the range is within the piece, so it is nobody else's; the buffer has not been handed out yet, and no
        // earlier one covered these pages, so nobody wrote them.
        unsafe { self.memory.fault_in(range, page) }
    }

    /// Returns the memory of a piece whose region has ended to the system.
    ///
    /// # Safety
    ///
    /// No queue has its region registered.
    pub(super) unsafe fn return_memory(self) {
        // Of a mapping of its own, dropping it returns all.
        if self.region.is_some() {
            // SAFETY: the piece was its buffer's alone, and the buffer is gone; by the caller's word no queue has it.
            unsafe { self.memory.return_pages(self.range()) };
        }
    }
}

/// The slots of the queues' tables of regions.
#[derive(Debug, Default)]
struct Slots {
    free: Vec<u32>,
    made: u32,
}

impl Slots {
    /// A name that no other region of this process has.
    fn take(&mut self) -> RegionId {
        static NEXT: process::AtomicU32 = process::AtomicU32::new(0);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.made += 1;
            self.made - 1
        });
        RegionId { slot, generation: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    /// No queue has that region any more.
    fn give(&mut self, RegionId { slot, .. }: RegionId) {
        self.free.push(slot);
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
