//! The arena: limit, allocations that wait for room, and what is asked back of the queues.
#![allow(unsafe_code)]

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::backend::{Region, RegionId};
use crate::error::{Error, Result};
use crate::foreign::{catch, report};
use crate::inbox::Inbox;
use crate::memory::buffer::AlignedBuf;
use crate::memory::limit;
use crate::memory::mapping::{REGISTRABLE, page_size, tell_of_refusals};
use crate::memory::pool::{Piece, Pool, Purpose, Room};
use crate::memory::queues::{GiveBack, Holder};
use crate::process::Generation;
use crate::sync::{AtomicU64, AtomicUsize, MutexGuard, Ordering, ThreadSync, process};
use crate::threads::on_any_worker;

mod allocation;
#[cfg(test)]
mod tests;

pub use allocation::Allocation;

/// How long `try_alloc` waits for the queues to give free memory back.
const BRIEFLY: Duration = Duration::from_secs(1);
/// After how long a wait is logged; tests do not have that long.
const LONG: Duration = if cfg!(all(test, not(loom))) { Duration::from_millis(30) } else { Duration::from_secs(10) };

/// A source of page-aligned buffers that live in huge pages and that backends can register.
///
/// Cloning it gives another handle to the same memory. Buffers may outlive every handle.
///
/// # The limit
///
/// What is mapped ([`mapped`](Self::mapped)) is never more than [`limit`](Self::limit): buffers, free memory that is
/// kept for later ones, and the staging buffers through which workers pass what cannot be transferred directly. One
/// exception keeps ops in flight from waiting for buffers that their own caller holds: where buffers leave no room,
/// each worker may have two staging buffers, of one block each (or of one unit of the file system if that is larger),
/// beyond the limit, and keep them for later blocks. They count as mapped.
///
/// In a forked child `alloc` and `reserve` return [`Error::Forked`], and the memory of existing buffers is not mapped:
/// touching their contents there is a segmentation fault.
#[derive(Clone, Debug)]
pub struct Arena {
    shared: Arc<Inner>,
}

/// What to do while there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// Wait until buffers are dropped, at most until then.
    Until(Option<Instant>),
    /// Wait for queues, which have to give back what is free, and not for buffers.
    Briefly,
    /// Do not wait: for workers, which would wait for themselves or each other.
    Never,
}

impl Arena {
    /// An arena whose buffers take at most `limit` bytes, each rounded up to whole pages. Maps nothing yet.
    pub fn new(limit: u64) -> Self {
        Self {
            shared: Arc::new(Inner {
                limit,
                page: page_size(),
                born: Generation::now(),
                mapped: Arc::default(),
                waiting: AtomicUsize::new(0),
                pool: ThreadSync::default(),
            }),
        }
    }

    /// The arena of all handles of this process that have no limit of their own.
    pub(crate) fn of_process() -> Self {
        // By how many forks the process is away from the first one: in a child, a thread of the parent may have had the
        // lock for ever.
        static ARENAS: [process::Mutex<Weak<Inner>>; 16] = [const { process::Mutex::new(Weak::new()) }; 16];
        let mut arena =
            ARENAS[Generation::now().index() % ARENAS.len()].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = arena.upgrade().filter(|shared| !shared.born.is_forked()) {
            return Self { shared };
        }
        let made = Self::new(Self::default_limit());
        *arena = Arc::downgrade(&made.shared);
        made
    }

    /// Three quarters of the memory this process can have: of the machine's, or of what its cgroups (v1 or v2) allow
    /// if that is less. In bytes. Handles without a limit of their own have it together, since they share one arena.
    pub fn default_limit() -> u64 {
        limit::available() / 4 * 3
    }

    /// A buffer of `len` bytes at a page boundary, its pages faulted in; 0 is allowed. Contents are unspecified: zeros,
    /// or what an earlier buffer left.
    ///
    /// Blocks the calling thread while the limit leaves no room, until other buffers are dropped; in async code, call
    /// [`alloc_async`](Self::alloc_async). Allocations are served in the order in which they came, except that what
    /// fits goes ahead where that delays no earlier one, or when nothing was dropped for a second. A buffer that was
    /// given to an op is in use until its ticket was waited for or dropped: a loop that allocates, writes and keeps
    /// the tickets stops at the limit. A wait of ten seconds is logged, with what holds the memory. On a worker's
    /// thread it does not wait.
    ///
    /// Memory that workers have registered or use for staging is asked back of them, and they answer between
    /// callbacks; and an allocation may let a [future](Self::alloc_async) go ahead, whose waker is called then: not
    /// to be called with a lock held that a callback, a waker or a buffer's drop takes.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] if it could never fit, on a worker's thread also if it does not fit now, or if a queue
    /// does not give back memory that buffers have left; [`Error::MapFailed`] if the system has no memory;
    /// [`Error::Forked`].
    pub fn alloc(&self, len: usize) -> Result<AlignedBuf> {
        self.shared.allocate(len, Patience::Until(None))
    }

    /// As [`alloc`](Self::alloc), as a future, which never blocks the thread that polls it but to fault new pages in.
    ///
    /// It takes its place in the order of allocations, among those that block, when it is first polled; dropping it
    /// gives the place up. One that is not polled for a second after it was woken loses the place, so that it does
    /// not hold up those behind it for longer; polled after all, it gets a new one, at the end. While futures wait,
    /// the arena has a thread.
    ///
    /// Its waker is called by what makes room: the drop of a buffer, another allocation or the end of one, on any
    /// thread, with no lock of this crate held.
    ///
    /// ```
    /// # async fn copy(aio: &aio_core::AioHandle, file: &aio_core::AioFile) -> aio_core::Result<()> {
    /// let buffer = aio.alloc_async(1 << 20).await?; // waits for other tasks to drop theirs
    /// let buffer = file.unlimited().read(buffer, 0).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`alloc`](Self::alloc), but on a worker's thread it waits as anywhere.
    pub fn alloc_async(&self, len: usize) -> Allocation {
        Allocation::new(Arc::clone(&self.shared), len)
    }

    /// As [`alloc`](Self::alloc), but returns [`Error::OutOfMemory`] after it has waited for `timeout`.
    pub fn alloc_timeout(&self, len: usize, timeout: Duration) -> Result<AlignedBuf> {
        self.shared.allocate(len, Patience::Until(Instant::now().checked_add(timeout)))
    }

    /// As [`alloc`](Self::alloc), but returns [`Error::OutOfMemory`] where that would wait for buffers: those that
    /// are in use leave no room, or others wait for room already. Where queues have to give free memory back first it
    /// waits for them, a second at most.
    pub fn try_alloc(&self, len: usize) -> Result<AlignedBuf> {
        self.shared.allocate(len, Patience::Briefly)
    }

    /// A buffer for a worker to pass blocks through, if there is room. It never waits: if it waited for users'
    /// buffers, the ops that hold those could never end. With `beyond` it may go beyond the limit.
    pub(crate) fn alloc_staging(&self, len: usize, beyond: bool) -> Option<AlignedBuf> {
        self.shared.allocate_staging(len, beyond)
    }

    /// Whether an allocation waits for room.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.shared.waiting.load(Ordering::Relaxed) > 0
    }

    /// Maps and faults in memory, so that `bytes` in total are free at once and later allocations are cut out of it
    /// without a system call. The regions have at most 1 GiB; a larger buffer gets a mapping of its own instead.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] if the limit leaves less than `bytes` now (it does not wait for buffers; for workers to
    /// give idle staging buffers back, a second at most), [`Error::MapFailed`] if the system has less memory than that;
    /// [`Error::Forked`].
    pub fn reserve(&self, bytes: u64) -> Result<()> {
        self.shared.check_forked()?;
        let need = self.shared.whole_pages(usize::try_from(bytes).unwrap_or(usize::MAX))?;
        self.shared.reserve(need)
    }

    /// Sends requests to these inboxes when the arena needs back what the queues hold of it.
    pub(crate) fn serve(&self, inboxes: &Arc<[Inbox]>) {
        self.shared.pool.lock().queues.add(inboxes);
    }

    /// A queue of the engine with these inboxes has ended, and let go of its regions. Unless another engine is there,
    /// which may have reserved it, what is not in use any more is unmapped.
    pub(crate) fn queue_ended(&self, inboxes: &Arc<[Inbox]>) {
        {
            let mut pool = self.shared.pool.lock();
            if pool.queues.are_only(inboxes) {
                pool.unmap_unused();
            }
        }
        self.shared.changed();
    }

    /// The region of that name for a queue to register, while queues may do that. A buffer may outlive it.
    pub(crate) fn region(&self, id: RegionId, holder: &Holder) -> Option<Region> {
        if self.shared.born.is_forked() {
            return None;
        }
        let memory = self.shared.pool.lock().region(id, holder)?;
        memory.make_huge_pages();
        tell_of_refusals();
        Some(Region::new(id, memory))
    }

    /// The most that is mapped, in bytes; see [the exception](Self#the-limit).
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
pub(super) struct Inner {
    pub(super) limit: u64,
    pub(super) page: usize,
    pub(super) born: Generation,
    /// Bytes of all mappings, which count themselves in and out.
    pub(super) mapped: Arc<AtomicU64>,
    /// Allocations that wait for room. Changes under the pool's lock.
    pub(super) waiting: AtomicUsize,
    pub(super) pool: ThreadSync<Pool>,
}

impl Inner {
    fn allocate(self: &Arc<Self>, len: usize, patience: Patience) -> Result<AlignedBuf> {
        self.check_forked()?;
        if len == 0 {
            return Ok(AlignedBuf::empty(self.page));
        }
        let need = self.whole_pages(len)?;
        let patience = if on_any_worker() { Patience::Never } else { patience };
        let mut pool = self.pool.lock();
        if !pool.is_turn_of(None, self) || !matches!(pool.room(need, true, self), Room::Ready) {
            pool = self.wait_for_room(pool, need, patience)?;
        }
        self.buffer(pool, need, len, Purpose::User)
    }

    fn allocate_staging(self: &Arc<Self>, len: usize, beyond: bool) -> Option<AlignedBuf> {
        self.check_forked().ok()?;
        let need = len.checked_next_multiple_of(self.page)?;
        let mut pool = self.pool.lock();
        let within = pool.has_room_for_staging(need, self);
        match (within, beyond) {
            (true, _) => self.buffer(pool, need, len, Purpose::Staging).ok(),
            (false, true) => self.buffer(pool, need, len, Purpose::Beyond).ok(),
            (false, false) => None,
        }
    }

    /// Cuts a buffer for which there is room.
    fn buffer(
        self: &Arc<Self>,
        mut pool: MutexGuard<'_, Pool>,
        need: usize,
        len: usize,
        purpose: Purpose,
    ) -> Result<AlignedBuf> {
        let cut = pool.cut(need, purpose, self);
        match purpose {
            Purpose::User => {
                self.let_go(pool);
                tell_of_refusals();
            }
            // A caller that stages may hold a lock.
            Purpose::Staging | Purpose::Beyond => drop(pool),
        }
        let (piece, fresh) = cut.map_err(|errno| map_failed(need, errno))?;
        // From here on the buffer's drop gives the memory back, also when it cannot be faulted in.
        let buffer = AlignedBuf::new(Arc::clone(self), piece, len);
        self.fault_in(&buffer, &fresh)?;
        Ok(buffer)
    }

    /// Waits until there is room for `need` bytes, as long as `patience` says.
    fn wait_for_room<'a>(
        self: &'a Arc<Self>,
        mut pool: MutexGuard<'a, Pool>,
        need: usize,
        patience: Patience,
    ) -> Result<MutexGuard<'a, Pool>> {
        let began = Instant::now();
        let give_up = match patience {
            Patience::Until(end) => end,
            Patience::Briefly if pool.is_turn_of(None, self) || !pool.turns.wait_for_buffers_before(None) => {
                Some(began + BRIEFLY)
            }
            Patience::Briefly | Patience::Never => return Err(self.out_of_memory(need, pool.in_use)),
        };
        let ticket = pool.turns.enter(need as u64, patience == Patience::Briefly);
        self.waiting.store(pool.turns.waiting(), Ordering::Relaxed);
        let (mut asked, mut tell_at) = (false, Some(began + LONG));
        let served = loop {
            let is_turn = pool.is_turn_of(Some(ticket), self);
            match if is_turn { pool.room(need, asked, self) } else { Room::Wait } {
                Room::Ready => break true,
                Room::Ask(regions) => {
                    asked |= regions.is_empty();
                    pool = self.ask_for(pool, regions);
                    continue;
                }
                Room::Kept => break false,
                Room::Wait => {}
            }
            let now = Instant::now();
            let only_buffers_help = patience == Patience::Briefly
                && pool.asked == 0
                && (is_turn || pool.turns.wait_for_buffers_before(Some(ticket)));
            if only_buffers_help || give_up.is_some_and(|end| end <= now) {
                break false;
            }
            if tell_at.is_some_and(|at| at <= now) {
                tell_at = None;
                pool = self.tell_of_a_long_wait(pool, need);
                continue;
            }
            let lull = pool.turns.lull_begins().filter(|_| !is_turn);
            let until = [give_up, tell_at, lull].into_iter().flatten().min();
            let seen = pool.turns.changes();
            pool = self.pool.wait_until(pool, until, |pool| pool.turns.changes() != seen).0;
        };
        // The next one's turn may have come. It looks when this one lets go of the lock.
        let _no_waker_of_a_thread = pool.turns.leave(ticket);
        if served {
            return Ok(pool);
        }
        let in_use = pool.in_use;
        self.let_go(pool);
        Err(self.out_of_memory(need, in_use))
    }

    /// Asks the queues that may have these regions; without regions all queues, for staging buffers that they do not
    /// use.
    fn ask_for<'a>(
        self: &'a Arc<Self>,
        mut pool: MutexGuard<'a, Pool>,
        regions: Vec<RegionId>,
    ) -> MutexGuard<'a, Pool> {
        let holders = pool.ask_for(&regions);
        drop(pool);
        GiveBack::post(Arc::clone(self), regions, holders);
        self.pool.lock()
    }

    /// No queue has these regions any more.
    pub(super) fn answered(&self, regions: &[RegionId]) {
        if self.born.is_forked() {
            return;
        }
        let ended = self.pool.lock().answered(regions);
        // Not under the lock: unmapping takes time. SAFETY: every queue that got these regions has removed them or is
        // gone: their workers were noted when they got them, each dropped its reference to what asked for them after
        // that, and the last reference is what calls this. No queue got them since: they were out of the pool's list
        // before the first worker was asked. A queue that is broken beyond draining was leaked together with the
        // buffers that it may use, which are not among what is returned.
        let bytes = ended.into_iter().map(|ended| unsafe { ended.return_memory() }).sum();
        self.pool.lock().came(bytes);
        self.changed();
    }

    /// Lets waiting allocations look again.
    pub(super) fn changed(&self) {
        let mut pool = self.pool.lock();
        pool.turns.changed();
        self.let_go(pool);
        tell_of_refusals();
    }

    /// Not under the lock: what gets the log is foreign code.
    fn tell_of_a_long_wait<'a>(&'a self, pool: MutexGuard<'a, Pool>, need: usize) -> MutexGuard<'a, Pool> {
        let (in_use, buffers, staging) = (pool.in_use, pool.buffers, pool.staging);
        let (limit, waiting) = (self.limit, pool.turns.waiting());
        drop(pool);
        report(catch("log", || {
            tracing::warn!(
                need,
                in_use,
                buffers,
                staging,
                limit,
                waiting,
                "an allocation has been waiting for {} s: {buffers} buffers take {in_use} of the arena's {limit} bytes \
                 (a buffer that was given to an op is in use until its ticket was waited for or dropped)",
                LONG.as_secs()
            );
        }));
        self.pool.lock()
    }

    /// Maps and faults in, as buffers, what `need` bytes take of what is free and of new regions.
    fn reserve(self: &Arc<Self>, need: usize) -> Result<()> {
        // Held as buffers until all is faulted in, so that what others allocate meanwhile is counted right.
        let mut held: Vec<(AlignedBuf, Vec<Range<usize>>)> = Vec::new();
        {
            let mut pool = self.pool.lock();
            if need as u64 > self.limit.saturating_sub(pool.in_use) {
                return Err(self.out_of_memory(need, pool.in_use));
            }
            if need as u64 > self.limit.saturating_sub(pool.in_use + pool.staging) {
                let patience = if on_any_worker() { Patience::Never } else { Patience::Briefly };
                pool = self.wait_for_room(pool, need, patience)?;
            }
            // All of it will be touched, so that the system would rather end the process than refuse. And so many
            // mappings would leave none for the process itself.
            if need > REGISTRABLE && need as u64 > limit::available() {
                return Err(map_failed(need, Errno::ENOMEM));
            }
            let mut left = need;
            while left > 0 {
                if !pool.has_some_for(left.min(REGISTRABLE), self) {
                    return Err(self.out_of_memory(need, pool.in_use));
                }
                let (piece, fresh) = pool.cut_largest(left, self).map_err(|errno| map_failed(need, errno))?;
                left -= piece.len();
                let len = piece.len();
                held.push((AlignedBuf::new(Arc::clone(self), piece, len), fresh));
            }
        }
        held.iter().try_for_each(|(buffer, fresh)| self.fault_in(buffer, fresh))
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
    pub(super) fn release(&self, piece: Piece) {
        // A forked child has neither the memory nor a lock it can trust.
        if self.born.is_forked() {
            return;
        }
        let counted = piece.counted();
        let mut pool = self.pool.lock();
        if let Some(piece) = pool.give_back(piece) {
            drop(pool);
            // SAFETY: its region, if it had one, ended when no queue had it registered any more.
            unsafe { piece.return_memory() };
            pool = self.pool.lock();
            pool.returned(counted);
        }
        pool.turns.changed();
        self.let_go(pool);
        tell_of_refusals();
    }

    fn whole_pages(&self, len: usize) -> Result<usize> {
        // No object is larger than isize::MAX, and mapping needs an alignment's worth more.
        let need = len.checked_next_multiple_of(self.page).filter(|&need| need < isize::MAX as usize / 2);
        match need {
            Some(need) if need as u64 <= self.limit => Ok(need),
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

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mapped = self.mapped.load(Ordering::Relaxed);
        f.debug_struct("Inner").field("limit", &self.limit).field("mapped", &mapped).finish_non_exhaustive()
    }
}
