//! Memory of the test's own, and the pages that it lies in.
#![allow(unreachable_pub, dead_code, reason = "each test file uses its part")]

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use aio::AioHandle;
use aio::op::Direction;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, mprotect, munmap};

pub const HUGE: usize = 2 << 20;
/// After so many uses the engine makes huge pages of memory.
pub const USES: usize = 4;
/// Between the memory and its neighbours, and around the part that a test uses.
const EDGE: usize = 4096;

/// A mapping of whole huge pages and of a page before and behind them. Its neighbours are different, so that it is one
/// mapping and no other's.
pub struct Memory {
    whole: std::ptr::NonNull<u8>,
    mapped: usize,
    /// Where the huge pages begin, and how long they are.
    head: usize,
    len: usize,
}

impl Memory {
    /// `len` bytes of huge pages' room, never touched.
    pub fn fresh(len: usize) -> Self {
        Self::with(len, MapFlags::MAP_PRIVATE)
    }

    pub fn shared(len: usize) -> Self {
        Self::with(len, MapFlags::MAP_SHARED)
    }

    fn with(len: usize, flags: MapFlags) -> Self {
        let mapped = len + 2 * HUGE;
        // SAFETY: a new mapping, whose parts below are made accessible.
        let whole = unsafe {
            let size = NonZeroUsize::new(mapped).unwrap();
            mmap_anonymous(None, size, ProtFlags::PROT_NONE, flags).unwrap().cast::<u8>()
        };
        let head = (whole.as_ptr().wrapping_add(EDGE)).align_offset(HUGE) + EDGE;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: within the mapping.
        unsafe { mprotect(whole.add(head - EDGE).cast(), len + 2 * EDGE, access).unwrap() };
        Self { whole, mapped, head, len }
    }

    /// Memory that was written to.
    pub fn touched(len: usize, byte: u8) -> Self {
        let mut memory = Self::fresh(len);
        memory.bytes().fill(byte);
        memory
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: readable and writable zeros, or what was written, that are this value's alone.
        unsafe { std::slice::from_raw_parts_mut(self.whole.add(self.head).as_ptr(), self.len) }
    }

    /// The pages beside them.
    pub fn edges(&mut self) -> [&mut [u8]; 2] {
        // SAFETY: as above.
        [self.head - EDGE, self.head + self.len]
            .map(|at| unsafe { std::slice::from_raw_parts_mut(self.whole.add(at).as_ptr(), EDGE) })
    }

    /// Its owner wants no huge pages.
    pub fn refuse_huge_pages(&mut self) {
        // SAFETY: the advice changes no contents.
        unsafe { madvise(self.whole.add(self.head).cast(), self.len, MmapAdvise::MADV_NOHUGEPAGE).unwrap() };
    }

    /// Bytes of it that lie in huge pages.
    pub fn huge(&self) -> usize {
        let start = self.whole.as_ptr().addr() + self.head;
        in_huge_pages(start..start + self.len)
    }

    /// A field of `/proc/self/smaps`, in bytes, such as how many of them are present.
    pub fn in_smaps(&self, field: &str) -> usize {
        let start = self.whole.as_ptr().addr() + self.head;
        in_smaps(start..start + self.len, |found| found == field)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: what `with` mapped.
        let _ = unsafe { munmap(self.whole.cast(), self.mapped) };
    }
}

/// Bytes in huge pages of the mappings that meet these addresses, anonymous or shared.
pub fn in_huge_pages(addresses: std::ops::Range<usize>) -> usize {
    in_smaps(addresses, |field| field.ends_with("HugePages"))
}

/// What `/proc/self/smaps` has in some fields of the mappings that meet these addresses, in bytes.
fn in_smaps(addresses: std::ops::Range<usize>, is_wanted: impl Fn(&str) -> bool) -> usize {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut inside, mut bytes) = (false, 0);
    for line in smaps.lines() {
        let hex = |text: &str| usize::from_str_radix(text, 16).ok();
        let ends = line.split_once(' ').and_then(|(ends, _)| ends.split_once('-'));
        if let Some((start, end)) = ends.and_then(|(start, end)| Some((hex(start)?, hex(end)?))) {
            inside = start < addresses.end && addresses.start < end;
        } else if let Some((_, kib)) = line.split_once(':').filter(|(field, _)| inside && is_wanted(field)) {
            bytes += kib.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10;
        }
    }
    bytes
}

/// Whether the kernel tells of pages and makes huge ones.
pub fn can_be_made() -> bool {
    let mut memory = Memory::fresh(HUGE);
    let works = aio::buf::use_huge_pages(memory.bytes());
    assert!(!works || memory.huge() == HUGE);
    if !works {
        println!("SKIPPED: the kernel does not tell of pages, or makes no huge ones (Linux 6.11)");
    }
    works
}

/// One op of all of this memory; gives how many bytes were staged.
pub fn transfer(aio: &AioHandle, path: &Path, direction: Direction, memory: &mut [u8]) -> usize {
    let before = aio.stats();
    let len = memory.len() as u64;
    aio.scope(|scope| match direction {
        Direction::Read => scope.read(&aio.open(path).unwrap(), memory, 0),
        Direction::Write => scope.write(&aio.create(path).unwrap(), &*memory, 0),
    })
    .unwrap();
    let after = aio.stats();
    assert_eq!(after.bytes_direct - before.bytes_direct, len, "past the page cache");
    (after.bytes_staged - before.bytes_staged) as usize
}
