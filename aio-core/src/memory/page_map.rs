//! What the kernel tells of the pages of this process: `PAGEMAP_SCAN` (Linux 6.7) and `PROCMAP_QUERY` (Linux 6.11).
//!
//! Neither libc nor nix has them yet, or their structures.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::ptr;

use crate::memory::page_size;

/// The page is present.
const PRESENT: u64 = 1 << 3;
/// It is the page of zeros that all who only read share.
const ZERO: u64 = 1 << 5;
/// It is part of a huge page that is mapped as one.
const HUGE: u64 = 1 << 6;
/// Of an entry of `pagemap`: the page is present, and mapped nowhere else. The page of zeros is not.
const OWN: u64 = 1 << 63 | 1 << 56;
const ENTRY: usize = size_of::<u64>();
/// What may be done with a mapping.
const READABLE: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const SHARED: u64 = 1 << 3;

/// `_IOWR('f', number, T)`
const fn request<T>(number: u64) -> u64 {
    3 << 30 | (size_of::<T>() as u64) << 16 | (b'f' as u64) << 8 | number
}
const PAGEMAP_SCAN: u64 = request::<Scan>(16);
const PROCMAP_QUERY: u64 = request::<Query>(17);
/// How many stretches are asked for at a time.
const STRETCHES: usize = 64;

/// `struct page_region`
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Stretch {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg`
#[repr(C)]
#[derive(Debug, Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct procmap_query`
#[repr(C)]
#[derive(Debug, Default)]
struct Query {
    size: u64,
    query_flags: u64,
    query_addr: u64,
    vma_start: u64,
    vma_end: u64,
    vma_flags: u64,
    vma_page_size: u64,
    vma_offset: u64,
    inode: u64,
    dev_major: u32,
    dev_minor: u32,
    vma_name_size: u32,
    build_id_size: u32,
    vma_name_addr: u64,
    build_id_addr: u64,
}

/// What lies in a range of addresses, in bytes. What is neither is not present, or the page of zeros.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pages {
    pub(crate) huge: usize,
    pub(crate) small: usize,
}

/// The files of this process in which the kernel answers.
#[derive(Debug)]
pub(crate) struct PageMap {
    pages: File,
    mappings: File,
}

impl PageMap {
    /// Fails where `/proc` is not mounted, or the kernel does not know the questions.
    pub(crate) fn open() -> io::Result<Self> {
        let map = Self { pages: File::open("/proc/self/pagemap")?, mappings: File::open("/proc/self/maps")? };
        let here = ptr::from_ref(&map).addr() / page_size() * page_size();
        map.pages(&(here..here + page_size()))?;
        map.mapping_at(here)?;
        Ok(map)
    }

    /// What lies at these addresses, whole pages.
    pub(crate) fn pages(&self, addresses: &Range<usize>) -> io::Result<Pages> {
        let (mut pages, mut from) = (Pages::default(), addresses.start as u64);
        while from < addresses.end as u64 {
            let mut stretches = [Stretch::default(); STRETCHES];
            let mut scan = Scan {
                size: size_of::<Scan>() as u64,
                start: from,
                end: addresses.end as u64,
                vec: stretches.as_mut_ptr().expose_provenance() as u64,
                vec_len: STRETCHES as u64,
                category_mask: PRESENT,
                return_mask: PRESENT | ZERO | HUGE,
                ..Scan::default()
            };
            let found = ask(&self.pages, PAGEMAP_SCAN, &mut scan)?;
            for stretch in stretches.iter().take(found) {
                let bytes = (stretch.end - stretch.start) as usize;
                match stretch.categories {
                    categories if categories & HUGE != 0 => pages.huge += bytes,
                    categories if categories & ZERO != 0 => {}
                    _ => pages.small += bytes,
                }
            }
            if scan.walk_end <= from {
                return Err(io::ErrorKind::InvalidData.into());
            }
            from = scan.walk_end;
        }
        Ok(pages)
    }

    /// Whether each page of these addresses, whole pages, is present and no other process's too, as those of a fork are
    /// until one writes there.
    pub(crate) fn are_present_and_own(&self, addresses: &Range<usize>) -> bool {
        let mut entries = [0; 512 * ENTRY];
        addresses.clone().step_by(512 * page_size()).all(|start| {
            let pages = ((addresses.end - start) / page_size()).min(512);
            let entries = &mut entries[..pages * ENTRY];
            let at = (start / page_size() * ENTRY) as u64;
            let is_own = |entry: &[u8; ENTRY]| u64::from_ne_bytes(*entry) & OWN == OWN;
            self.pages.read_exact_at(entries, at).is_ok() && entries.as_chunks().0.iter().all(is_own)
        })
    }

    /// Whether all of these addresses are mapped, as private memory that can be read and written, in pages of the usual
    /// size, of no file.
    pub(crate) fn are_private_memory(&self, addresses: &Range<usize>) -> bool {
        let mut from = addresses.start;
        while from < addresses.end {
            let Ok(mapping) = self.mapping_at(from) else { return false };
            let is_private = mapping.vma_flags & (READABLE | WRITABLE | SHARED) == READABLE | WRITABLE
                && mapping.vma_page_size == page_size() as u64
                && (mapping.inode, mapping.dev_major, mapping.dev_minor) == (0, 0, 0);
            let end = usize::try_from(mapping.vma_end).unwrap_or(0);
            if !is_private || end <= from {
                return false;
            }
            from = end;
        }
        true
    }

    fn mapping_at(&self, address: usize) -> io::Result<Query> {
        let mut query = Query { size: size_of::<Query>() as u64, query_addr: address as u64, ..Query::default() };
        ask(&self.mappings, PROCMAP_QUERY, &mut query)?;
        Ok(query)
    }
}

/// Asks; gives what the call returned.
fn ask<T>(file: &File, request: u64, argument: &mut T) -> io::Result<usize> {
    // SAFETY: `argument` is the structure of the request, as its number says, and what it points to is alive: both
    // callers are in this module. The kernel writes to these alone.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), request as libc::Ioctl, ptr::from_mut(argument)) };
    usize::try_from(answer).map_err(|_| io::Error::last_os_error())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::os::fd::AsFd;

    use nix::sys::mman::{MapFlags, ProtFlags, mmap};

    use super::*;
    use crate::memory::huge_pages::tests::{addresses, can_be_tested, plain_memory};
    use crate::memory::huge_pages::{Collapsed, HUGE_PAGE, collapse};

    fn opened() -> Option<PageMap> {
        let map = PageMap::open();
        if let Err(error) = &map {
            println!("SKIPPED: the kernel does not tell of pages (Linux 6.11): {error}");
        }
        map.ok().filter(|_| can_be_tested())
    }

    #[test]
    fn pages_are_absent_small_and_huge() {
        let Some(map) = opened() else { return };
        let memory = plain_memory(2);
        let at = addresses(memory);
        let page = page_size();
        assert_eq!(map.pages(&at).unwrap(), Pages::default());
        // Read only: the page of zeros.
        assert_eq!(std::hint::black_box(&memory)[0], 0);
        assert_eq!(map.pages(&at).unwrap(), Pages::default());
        // Every second page, so that the answer comes in many parts.
        memory.iter_mut().step_by(2 * page).for_each(|byte| *byte = 1);
        assert_eq!(map.pages(&at).unwrap(), Pages { huge: 0, small: HUGE_PAGE });
        assert_eq!(collapse(&(at.start..at.start + HUGE_PAGE)), Collapsed::All);
        assert_eq!(map.pages(&at).unwrap(), Pages { huge: HUGE_PAGE, small: HUGE_PAGE / 2 });
    }

    #[test]
    fn pages_that_are_absent_or_of_zeros_are_not_own() {
        let Some(map) = opened() else { return };
        let memory = plain_memory(2);
        let at = addresses(memory);
        assert!(!map.are_present_and_own(&at));
        memory[page_size()..].fill(1);
        assert!(!map.are_present_and_own(&at), "one is absent");
        assert_eq!(std::hint::black_box(&memory)[0], 0);
        assert!(!map.are_present_and_own(&at), "one is the page of zeros");
        memory[0] = 1;
        assert!(map.are_present_and_own(&at));
        assert_eq!(collapse(&(at.start..at.start + HUGE_PAGE)), Collapsed::All);
        assert!(map.are_present_and_own(&at), "one is huge");
        let last = memory.len() - page_size();
        // SAFETY: memory of this test, which reads as zeros then.
        unsafe { libc::madvise(memory[last..].as_mut_ptr().cast(), page_size(), libc::MADV_DONTNEED) };
        assert!(!map.are_present_and_own(&at), "the last one is absent");
    }

    #[test]
    fn mappings_of_files_and_shared_ones_are_not_private_memory() {
        let Some(map) = opened() else { return };
        let at = addresses(plain_memory(1));
        assert!(map.are_private_memory(&at));
        assert!(!map.are_private_memory(&(at.start..usize::MAX / 2)), "not all of it is mapped");
        let file = tempfile::tempfile().unwrap();
        file.set_len(HUGE_PAGE as u64).unwrap();
        let len = std::num::NonZeroUsize::new(HUGE_PAGE).unwrap();
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let mapped = |flags, file: &File| {
            // SAFETY: a new mapping that nothing refers to; it stays until the process ends.
            let memory = unsafe { mmap(None, len, access, flags, file.as_fd(), 0).unwrap() };
            memory.addr().get()..memory.addr().get() + HUGE_PAGE
        };
        for flags in [MapFlags::MAP_SHARED, MapFlags::MAP_PRIVATE] {
            assert!(!map.are_private_memory(&mapped(flags, &file)), "{flags:?}, of a file");
        }
        // SAFETY: as above.
        let shared = unsafe { nix::sys::mman::mmap_anonymous(None, len, access, MapFlags::MAP_SHARED).unwrap() };
        assert!(!map.are_private_memory(&(shared.addr().get()..shared.addr().get() + HUGE_PAGE)));
    }
}
