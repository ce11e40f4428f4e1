//! One anonymous mapping: made for direct I/O, unmapped when the last owner drops it.
#![allow(unsafe_code)]

use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use nix::unistd::{SysconfVar, sysconf};

use crate::backend::RegionMemory;
use crate::foreign::log;
use crate::memory::huge_pages::{self, Collapsed, HUGE_PAGE};
use crate::process::Generation;
use crate::sync::{AtomicU64, AtomicUsize, Ordering, process};

/// The most that one ring registers as one buffer, in bytes; see `io_uring_register_buffers(3)`.
pub(super) const REGISTRABLE: usize = 1 << 30;
/// How much to fault in per system call, in bytes. It holds the address space's lock for reading, for which every mmap
/// of the process waits.
const FAULT_STEP: usize = 64 << 20;
/// Of `linux/mman.h`, for all architectures.
const MADV_DONTNEED_LOCKED: libc::c_int = 24;

/// Why the system did not take memory back, until it is logged.
static REFUSED: process::AtomicU32 = process::AtomicU32::new(0);

fn note_refusal(errno: Errno) {
    REFUSED.store(errno as u32, Ordering::Relaxed);
}

/// Logs what was refused since the last time. Not under a lock: what gets the log is foreign code.
pub(super) fn tell_of_refusals() {
    huge_pages::tell_of_pause();
    let refused = REFUSED.load(Ordering::Relaxed);
    // One thread tells of it.
    if refused != 0 && REFUSED.compare_exchange(refused, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        let errno = Errno::from_raw(refused.cast_signed());
        log(|| tracing::warn!(%errno, "the system did not take memory back"));
    }
}

/// The system's page size, in bytes.
pub(crate) fn page_size() -> usize {
    static PAGE: OnceLock<usize> = OnceLock::new();
    *PAGE.get_or_init(|| {
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|page| usize::try_from(page).ok());
        page.filter(|page| page.is_power_of_two()).unwrap_or(4096)
    })
}

/// Private anonymous memory, 2 MiB-aligned, zeroed, in huge pages if the system has them.
#[derive(Debug)]
pub(super) struct Mapping {
    ptr: NonNull<u8>,
    len: usize,
    /// Bytes of it that were [returned](Mapping::return_pages).
    returned: AtomicUsize,
    /// Where faults bring small pages only: for each huge page, whether it was tried to make it one.
    tried: Option<Box<[process::AtomicBool]>>,
    born: Generation,
    /// The arena's count of mapped bytes.
    mapped: Arc<AtomicU64>,
}

// SAFETY: the value owns the mapping, which belongs to the process and not to a thread; who may access which bytes is
// the business of the pool that cuts it.
unsafe impl Send for Mapping {}
// SAFETY: as above; through a shared reference the mapping itself never changes.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes, a multiple of the page size. Nothing is faulted in yet.
    pub(super) fn new(len: usize, mapped: &Arc<AtomicU64>) -> Result<Self, Errno> {
        Self::new_with(len, mapped, !huge_pages::come_by_advice() && huge_pages::are_of_known_size())
    }

    /// `collapses`: faults bring small pages only.
    fn new_with(len: usize, mapped: &Arc<AtomicU64>, collapses: bool) -> Result<Self, Errno> {
        // The kernel promises page alignment only, so that much more is mapped and what sticks out is cut off.
        let padded = len.checked_add(HUGE_PAGE).and_then(NonZeroUsize::new).ok_or(Errno::ENOMEM)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that anyone has.
        let raw = unsafe {
            mmap_anonymous(None, padded, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE)?
        };
        let raw = raw.cast::<u8>();
        let head = raw.as_ptr().align_offset(HUGE_PAGE);
        // `head` is less than a huge page, so this is not 0.
        let tail = HUGE_PAGE - head;
        // SAFETY: head + len + tail is the length that was just mapped; both ends are whole pages because `len`, the
        // start and HUGE_PAGE are, and nobody has seen them. An end that cannot be cut off stays mapped, untouched.
        let ptr = unsafe {
            let ptr = raw.add(head);
            if head > 0 {
                let _ = munmap(raw.cast(), head);
            }
            let _ = munmap(ptr.add(len).cast(), tail);
            ptr
        };
        mapped.fetch_add(len as u64, Ordering::Relaxed);
        let returned = AtomicUsize::new(0);
        let tried = collapses.then(|| (0..len / HUGE_PAGE).map(|_| process::AtomicBool::new(false)).collect());
        let mapping = Self { ptr, len, returned, tried, born: Generation::now(), mapped: Arc::clone(mapped) };
        // SAFETY: `ptr` and `len` are the mapping just made. Neither advice changes contents.
        unsafe {
            madvise(ptr.cast(), len, MmapAdvise::MADV_DONTFORK)?;
            if !collapses {
                // A kernel without huge pages says EINVAL; 4 KiB pages work too.
                let _ = madvise(ptr.cast(), len, MmapAdvise::MADV_HUGEPAGE);
            }
        }
        Ok(mapping)
    }

    pub(super) fn ptr(&self) -> NonNull<u8> {
        self.ptr
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Unmaps what lies behind the first `len` bytes, a multiple of the page size.
    pub(super) fn shorten(&mut self, len: usize) -> Result<(), Errno> {
        let Some(behind @ 1..) = self.len.checked_sub(len) else { return Ok(()) };
        // SAFETY: the end of this mapping, whole pages, and with `&mut` no other owner has any of it.
        unsafe { munmap(self.ptr.add(len).cast(), behind) }?;
        self.len = len;
        self.mapped.fetch_sub(behind as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Makes pages present and writable.
    ///
    /// # Safety
    ///
    /// The range is whole pages of this mapping, and until the call returns nobody else accesses it. It was never
    /// written: it may be filled with zeros.
    pub(super) unsafe fn fault_in(&self, range: Range<usize>, page: usize) -> Result<(), Errno> {
        debug_assert!(range.start <= range.end && range.end <= self.len);
        self.make_huge_pages(&range);
        for start in range.clone().step_by(FAULT_STEP) {
            let len = FAULT_STEP.min(range.end - start);
            // SAFETY: within the range, which the caller says is within the mapping.
            let at = unsafe { self.ptr.add(start) };
            let faulted = loop {
                // SAFETY: as above. Populating does not change contents.
                match unsafe { madvise(at.cast(), len, MmapAdvise::MADV_POPULATE_WRITE) } {
                    Err(Errno::EINTR) => {}
                    result => break result,
                }
            };
            match faulted {
                // Linux before 5.14.
                Err(Errno::EINVAL) => {
                    for offset in (0..len).step_by(page) {
                        // SAFETY: within the range; the caller says that it is ours and may be zeroed.
                        unsafe { at.add(offset).write_volatile(0) };
                    }
                }
                result => result?,
            }
        }
        Ok(())
    }

    /// Where faults bring small pages only: makes the huge pages that they would bring else, those that have something
    /// of a range. Each is tried once, when a first buffer has some of it, or all of it is to be registered: so early,
    /// nothing of it is in flight, or registered, and pinned.
    ///
    /// While there is no room nothing is tried: a later buffer does it. A region that is registered meanwhile is pinned
    /// in small pages, and stays in them until the queues give it back.
    fn make_huge_pages(&self, range: &Range<usize>) {
        let Some(tried) = self.tried.as_ref().filter(|_| !huge_pages::is_paused()) else { return };
        let first = self.ptr.addr().get();
        let is_new = |index: usize| tried.get(index).is_some_and(|tried| !tried.swap(true, Ordering::Relaxed));
        let (mut index, end) = (range.start / HUGE_PAGE, range.end.div_ceil(HUGE_PAGE));
        while index < end {
            let new = index;
            while index < end && is_new(index) {
                index += 1;
            }
            let whole = first + new * HUGE_PAGE..first + index * HUGE_PAGE;
            if huge_pages::make(&whole, true) == Collapsed::NoRoom {
                return;
            }
            // This one was tried before.
            index += 1;
        }
    }

    /// From now on the kernel puts no pages where there are none: where one page of a huge page is present,
    /// `khugepaged` would fill in the others, of memory that was returned, too. All of a mapping at once, since the
    /// process may have only so many stretches of memory that differ in such advice.
    pub(super) fn keep_holes(&self) {
        self.advise_no_huge_pages(0..self.len);
    }

    fn advise_no_huge_pages(&self, range: Range<usize>) {
        // SAFETY: within the mapping; the advice changes no contents. A kernel without huge pages says EINVAL.
        let _ =
            unsafe { libc::madvise(self.ptr.add(range.start).as_ptr().cast(), range.len(), libc::MADV_NOHUGEPAGE) };
    }

    /// Returns the memory of a range to the system for good. Its addresses stay taken until the mapping is dropped, so
    /// that nothing else is ever found there.
    ///
    /// # Safety
    ///
    /// The range is whole pages of this mapping. It is not accessed from now on, no queue has it registered (a ring
    /// would go on using the pages that it pinned), and it was not returned before.
    pub(super) unsafe fn return_pages(&self, range: Range<usize>) {
        debug_assert!(range.start <= range.end && range.end <= self.len);
        self.advise_no_huge_pages(range.clone());
        // Of memory that is locked, as by mlockall(2), only the first one does it; Linux before 5.18 does not know it.
        for advice in [MADV_DONTNEED_LOCKED, libc::MADV_DONTNEED] {
            // SAFETY: within the mapping, by the caller's word, and the contents are not needed any more.
            let refused = unsafe { libc::madvise(self.ptr.add(range.start).as_ptr().cast(), range.len(), advice) };
            if refused == 0 {
                self.returned.fetch_add(range.len(), Ordering::Relaxed);
                self.mapped.fetch_sub(range.len() as u64, Ordering::Relaxed);
                return;
            }
        }
        // It stays counted, until the mapping goes.
        note_refusal(Errno::last());
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // A forked child never had the mapping, and may have something else at these addresses.
        if self.born.is_forked() {
            return;
        }
        // SAFETY: the mapping is this value's, and all who could access it hold the value alive.
        if let Err(errno) = unsafe { munmap(self.ptr.cast(), self.len) } {
            note_refusal(errno);
        }
        let counted = self.len - self.returned.swap(self.len, Ordering::Relaxed);
        self.mapped.fetch_sub(counted as u64, Ordering::Relaxed);
    }
}

/// A part of a mapping, for queues to register.
#[derive(Debug)]
pub(super) struct Part {
    memory: Arc<Mapping>,
    range: Range<usize>,
}

impl Part {
    pub(super) fn new(memory: Arc<Mapping>, range: Range<usize>) -> Self {
        debug_assert!(range.start <= range.end && range.end <= memory.len);
        Self { memory, range }
    }

    /// Makes the huge pages that registering would bring where faults do: it pins all of the part, so that what is in
    /// small pages then stays in them.
    pub(super) fn make_huge_pages(&self) {
        self.memory.make_huge_pages(&self.range);
    }
}

// SAFETY: the mapping is there, readable and writable, as long as this holds it, and the range never changes.
unsafe impl RegionMemory for Part {
    fn ptr(&self) -> *mut u8 {
        // SAFETY: the range lies in the mapping.
        unsafe { self.memory.ptr.add(self.range.start) }.as_ptr()
    }

    fn len(&self) -> usize {
        self.range.len()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::memory::huge_pages::tests::{can_be_tested, in_huge_pages};

    fn collapsing(len: usize) -> Mapping {
        Mapping::new_with(len, &Arc::default(), true).unwrap()
    }

    fn fault_in(mapping: &Mapping, range: Range<usize>) {
        // SAFETY: whole pages of a mapping that is the test's alone.
        unsafe { mapping.fault_in(range, page_size()) }.unwrap();
    }

    fn huge(mapping: &Mapping) -> usize {
        in_huge_pages(mapping.ptr().addr().get()..mapping.ptr().addr().get() + mapping.len())
    }

    #[test]
    fn where_faults_bring_small_pages_a_buffer_makes_huge_ones_of_what_it_covers() {
        if !can_be_tested() {
            return;
        }
        let mapping = collapsing(4 * HUGE_PAGE + 4096);
        assert_eq!(huge(&mapping), 0);
        // The end of one huge page, and a whole one.
        fault_in(&mapping, HUGE_PAGE - 4096..2 * HUGE_PAGE);
        assert_eq!(huge(&mapping), 2 * HUGE_PAGE);
        // Neighbours of it, and what is too short for one.
        fault_in(&mapping, 0..HUGE_PAGE - 4096);
        fault_in(&mapping, 4 * HUGE_PAGE..4 * HUGE_PAGE + 4096);
        assert_eq!(huge(&mapping), 2 * HUGE_PAGE);
        let mapping = Arc::new(mapping);
        Part::new(mapping.clone(), 0..mapping.len()).make_huge_pages();
        assert_eq!(huge(&mapping), 4 * HUGE_PAGE);
    }

    #[test]
    fn a_buffer_finds_zeros_and_leaves_its_neighbours_bytes() {
        let mapping = collapsing(2 * HUGE_PAGE);
        let half = HUGE_PAGE / 2;
        fault_in(&mapping, half..HUGE_PAGE);
        // SAFETY: pages of the mapping that were faulted in; it is the test's alone.
        unsafe { mapping.ptr().add(half).write_bytes(7, half) };
        fault_in(&mapping, 0..half);
        fault_in(&mapping, HUGE_PAGE..2 * HUGE_PAGE);
        // SAFETY: as above.
        let bytes = unsafe { std::slice::from_raw_parts(mapping.ptr().as_ptr(), 2 * HUGE_PAGE) };
        assert!(
            bytes.iter().enumerate().all(|(at, &byte)| byte == if (half..HUGE_PAGE).contains(&at) { 7 } else { 0 })
        );
    }
}
