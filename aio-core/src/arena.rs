//! The memory that direct I/O is fastest with: few, large, contiguous, registered mappings, cut into buffers.
//!
//! A direct transfer hands the device physical addresses. Over 4 KiB pages a 1 MiB block is up to 256 scattered
//! pieces, each looked up, pinned and described to the device; over a huge page it is one piece, and at queue depth
//! 32 that alone was measured to be worth a factor of two to three. So regions are mapped 2 MiB-aligned with
//! `MADV_HUGEPAGE`. Memory that a ring has registered is pinned once instead of once per block; a ring takes few
//! registrations of at most 1 GiB each, so regions are large and buffers are cut out of them.
//!
//! Registered memory is unmapped last. A ring goes on using the physical pages it pinned: if a region were unmapped and
//! the addresses mapped again, a read into them would succeed and the new memory would never see the bytes. So all who
//! may use a region hold its mapping alive: the arena, each buffer, and each [`Region`] that a queue keeps. Ids are
//! never used twice. What a queue has not registered and no buffer lies in is unmapped early only when a new mapping
//! would otherwise go past the limit.
//!
//! Pages are faulted in when a buffer first covers them, not one by one under the transfer. Regions are
//! `MADV_DONTFORK`: copy-on-write after a fork could move a page away from under a transfer in flight, so a forked child
//! does not get these mappings at all.
#![allow(unsafe_code)]

mod buffer;
mod free;
mod limit;
mod mapping;
mod pool;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use nix::errno::Errno;

use crate::backend::{Region, RegionId};
use crate::error::{Error, Result};
use crate::fork::Generation;
use crate::sync::{AtomicU64, Ordering, ThreadSync};

pub use buffer::AlignedBuf;
pub(crate) use mapping::page_size;
use pool::{Piece, Pool};

/// A source of page-aligned buffers that live in huge pages and that backends can register.
///
/// Cloning it gives another handle to the same memory. Buffers may outlive every handle.
///
/// In a forked child `alloc` and `reserve` return [`Error::Forked`], and the memory of existing buffers is not mapped:
/// touching their contents there is a segmentation fault.
#[derive(Clone, Debug)]
pub struct Arena {
    shared: Arc<Shared>,
}

/// What to do while the limit leaves no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AtLimit {
    /// Wait until buffers are dropped.
    Wait,
    /// Return [`Error::OutOfMemory`].
    Fail,
    /// Go past it.
    Ignore,
}

impl Arena {
    /// An arena whose buffers take at most `limit` bytes, each rounded up to whole pages. Maps nothing yet.
    pub fn new(limit: u64) -> Self {
        Self {
            shared: Arc::new(Shared {
                limit,
                page: page_size(),
                born: Generation::now(),
                mapped: Arc::default(),
                pool: ThreadSync::default(),
            }),
        }
    }

    /// Three quarters of the memory this process can have: of the machine's, or of what its cgroups (v1 or v2) allow
    /// if that is less. In bytes.
    pub fn default_limit() -> u64 {
        limit::available() / 4 * 3
    }

    /// A buffer of `len` bytes at a page boundary, its pages faulted in; 0 is allowed. Contents are unspecified: zeros,
    /// or what an earlier buffer left.
    ///
    /// While the limit leaves no room this waits for other buffers to be dropped.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] if it could never fit, [`Error::MapFailed`] if the system has no memory;
    /// [`Error::Forked`].
    pub fn alloc(&self, len: usize) -> Result<AlignedBuf> {
        self.shared.allocate(len, AtLimit::Wait)
    }

    /// As [`alloc`](Self::alloc), but returns [`Error::OutOfMemory`] where that would wait.
    pub fn try_alloc(&self, len: usize) -> Result<AlignedBuf> {
        self.shared.allocate(len, AtLimit::Fail)
    }

    /// As [`alloc`](Self::alloc), but neither counted against the limit nor stopped by it. For staging buffers, whose
    /// number the queue depth bounds: if they waited for users' buffers, the ops that hold those could never end.
    pub(crate) fn alloc_unlimited(&self, len: usize) -> Result<AlignedBuf> {
        self.shared.allocate(len, AtLimit::Ignore)
    }

    /// Maps and faults in memory, so that `bytes` in total are free at once and later allocations are cut out of it
    /// without a system call. The regions have at most 1 GiB; a larger buffer gets a mapping of its own instead.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] if the limit leaves less than `bytes` now (it does not wait), [`Error::MapFailed`] if the
    /// system has no memory; [`Error::Forked`].
    pub fn reserve(&self, bytes: u64) -> Result<()> {
        self.shared.check_forked()?;
        let need = self.shared.whole_pages(usize::try_from(bytes).unwrap_or(usize::MAX), AtLimit::Fail)?;
        // Held as buffers until all is faulted in, so that what others allocate meanwhile is counted right.
        let mut held = Vec::new();
        self.shared.hold(need, &mut held)?;
        held.iter().try_for_each(|(buffer, fresh)| self.shared.fault_in(buffer, fresh))
    }

    /// The region of that name, while it exists. It does while a buffer lies in it.
    pub(crate) fn region(&self, id: RegionId) -> Option<Region> {
        if self.shared.born.is_forked() {
            return None;
        }
        let memory = self.shared.pool.lock().region(id)?;
        Some(Region::new(id, memory))
    }

    /// The most that buffers may take, in bytes.
    pub fn limit(&self) -> u64 {
        self.shared.limit
    }

    /// What buffers take now, in bytes, each rounded up to whole pages. Staging buffers do not count.
    pub fn in_use(&self) -> u64 {
        // In a forked child the lock may be one that nobody is left to release.
        if self.shared.born.is_forked() { 0 } else { self.shared.pool.lock().in_use }
    }

    /// What is mapped now, in bytes: buffers, staging buffers, and free memory that is kept for later ones.
    pub fn mapped(&self) -> u64 {
        self.shared.mapped.load(Ordering::Relaxed)
    }
}

/// What the handles and the buffers of an arena share.
struct Shared {
    limit: u64,
    page: usize,
    born: Generation,
    /// Bytes of all mappings, which count themselves in and out.
    mapped: Arc<AtomicU64>,
    pool: ThreadSync<Pool>,
}

impl Shared {
    fn allocate(self: &Arc<Self>, len: usize, at_limit: AtLimit) -> Result<AlignedBuf> {
        self.check_forked()?;
        if len == 0 {
            return Ok(AlignedBuf::empty(self.page));
        }
        let need = self.whole_pages(len, at_limit)?;
        let mut pool = self.pool.lock();
        let mut ready = at_limit == AtLimit::Ignore || pool.has_room(need, self);
        if !ready && at_limit == AtLimit::Wait {
            pool.waiting += 1;
            (pool, ready) = self.pool.wait_until(pool, None, |pool| pool.has_room(need, self));
            pool.waiting -= 1;
        }
        if !ready {
            return Err(self.out_of_memory(need, pool.in_use));
        }
        let (piece, fresh) = match pool.cut(need, at_limit != AtLimit::Ignore, self) {
            Ok(cut) => cut,
            Err(errno) => return Err(map_failed(need, errno)),
        };
        drop(pool);
        // From here on the buffer's drop gives the memory back, also when it cannot be faulted in.
        let buffer = AlignedBuf::new(Arc::clone(self), piece, len);
        self.fault_in(&buffer, &fresh)?;
        Ok(buffer)
    }

    /// Takes `need` bytes as buffers, from what is free and from new regions.
    fn hold(self: &Arc<Self>, need: usize, held: &mut Vec<(AlignedBuf, Vec<Range<usize>>)>) -> Result<()> {
        let mut pool = self.pool.lock();
        if need as u64 > self.limit.saturating_sub(pool.in_use) {
            return Err(self.out_of_memory(need, pool.in_use));
        }
        let mut left = need;
        while left > 0 {
            let (piece, fresh) = pool.cut_largest(left, self).map_err(|errno| map_failed(need, errno))?;
            let len = piece.len();
            held.push((AlignedBuf::new(Arc::clone(self), piece, len), fresh));
            left -= len;
        }
        Ok(())
    }

    /// Faults in the parts of a new buffer's memory that no buffer had before. Not under the lock: the kernel zeroes
    /// a few GB/s, and workers that drop staging buffers must not wait for that.
    fn fault_in(&self, buffer: &AlignedBuf, fresh: &[Range<usize>]) -> Result<()> {
        let Some(piece) = buffer.piece().filter(|_| !fresh.is_empty()) else { return Ok(()) };
        if let Err(errno) = fresh.iter().try_for_each(|range| piece.fault_in(range.clone(), self.page)) {
            return Err(map_failed(piece.len(), errno));
        }
        self.pool.lock().faulted(piece);
        Ok(())
    }

    /// Takes the memory of a buffer back.
    fn release(&self, piece: Piece) {
        // A forked child has neither the memory nor a lock it can trust.
        if self.born.is_forked() {
            return;
        }
        let mut pool = self.pool.lock();
        pool.give_back(piece);
        let waiting = pool.waiting > 0;
        drop(pool);
        // All of them: what is not enough for one may be for another.
        if waiting {
            self.pool.notify_all();
        }
    }

    fn whole_pages(&self, len: usize, at_limit: AtLimit) -> Result<usize> {
        // No object is larger than isize::MAX, and mapping needs an alignment's worth more.
        let need = len.checked_next_multiple_of(self.page).filter(|&need| need < isize::MAX as usize / 2);
        match need {
            Some(need) if at_limit == AtLimit::Ignore || need as u64 <= self.limit => Ok(need),
            _ => Err(self.out_of_memory(len, self.pool.lock().in_use)),
        }
    }

    fn out_of_memory(&self, requested: usize, in_use: u64) -> Error {
        Error::OutOfMemory { requested: requested as u64, in_use, limit: self.limit }
    }

    fn check_forked(&self) -> Result<()> {
        if self.born.is_forked() { Err(Error::Forked) } else { Ok(()) }
    }
}

/// The arena's limit would allow it, and the system does not.
fn map_failed(requested: usize, errno: Errno) -> Error {
    Error::MapFailed { requested: requested as u64, source: errno.into() }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mapped = self.mapped.load(Ordering::Relaxed);
        f.debug_struct("Shared").field("limit", &self.limit).field("mapped", &mapped).finish_non_exhaustive()
    }
}
