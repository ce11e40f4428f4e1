//! Huge pages, by whatever makes the kernel give them.
//!
//! `MADV_HUGEPAGE` is advice for later faults, and nothing comes of it where `transparent_hugepage/enabled` is `never`.
//! `MADV_COLLAPSE` (Linux 6.1) makes a huge page of what is there now, whatever that setting says, for 2 MiB of which one
//! page at least is present. Neither changes contents.
#![allow(unsafe_code)]

use std::fs;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::foreign::log;
use crate::memory::page_size;
use crate::sync::{Ordering, process};

/// The size that huge pages have and the alignment they need, in bytes.
pub(crate) const HUGE_PAGE: usize = 2 << 20;
/// Of `linux/mman.h`, for all architectures.
const MADV_COLLAPSE: libc::c_int = 25;
const MADV_POPULATE_WRITE: libc::c_int = 23;
/// The settings of the kernel.
const SETTINGS: &str = "/sys/kernel/mm/transparent_hugepage";
/// How long nothing is collapsed after the system had no room: it would look for room each time.
const PAUSE: Duration = Duration::from_secs(10);

/// What came of collapsing a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Collapsed {
    /// All of it lies in huge pages.
    All,
    /// Some pages of it cannot be moved, such as pinned ones, or the kernel cannot do it.
    NotAll,
    /// The machine, or the control group, has no room.
    NoRoom,
}

/// Whether memory that was advised gets huge pages when it is faulted in, as the machine is set up now.
pub(crate) fn come_by_advice() -> bool {
    let chosen = |path: &str| {
        let text = fs::read_to_string(format!("{SETTINGS}/{path}")).ok()?;
        let (_, rest) = text.split_once('[')?;
        rest.split_once(']').map(|(chosen, _)| chosen.to_owned())
    };
    // Since Linux 6.8 each size has a setting, which may be to do as the general one.
    let own = chosen("hugepages-2048kB/enabled").filter(|chosen| chosen != "inherit");
    // Where nothing tells, advice is all that is tried.
    own.or_else(|| chosen("enabled")).is_none_or(|chosen| chosen != "never")
}

/// Whether the kernel's huge pages have the size that this module knows.
pub(crate) fn are_of_known_size() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        let size = fs::read_to_string(format!("{SETTINGS}/hpage_pmd_size"));
        size.is_ok_and(|size| size.trim().parse() == Ok(HUGE_PAGE))
    })
}

/// Whether the kernel makes huge pages of memory that is in use. It is tried out, on a little memory of its own.
pub fn can_collapse() -> bool {
    if !are_of_known_size() {
        return false;
    }
    let Some(len) = std::num::NonZeroUsize::new(2 * HUGE_PAGE) else { return false };
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory that anyone has.
    let Ok(mapped) =
        (unsafe { mmap_anonymous(None, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE) })
    else {
        return false;
    };
    let ptr: NonNull<u8> = mapped.cast();
    let head = ptr.as_ptr().align_offset(HUGE_PAGE);
    // SAFETY: a huge page within the mapping, which is this function's.
    let done = unsafe {
        let ptr = ptr.add(head);
        touch(ptr) && madvise(ptr, HUGE_PAGE, MADV_COLLAPSE).is_ok()
    };
    // SAFETY: the mapping made above, of which nothing is in use any more.
    let _ = unsafe { munmap(mapped, len.get()) };
    done
}

/// Makes the page at `ptr` present, and its own where it was shared with others or with the page of zeros.
///
/// # Safety
///
/// The page is mapped, private, and no one unmaps it meanwhile. Contents do not change.
pub(super) unsafe fn touch(ptr: NonNull<u8>) -> bool {
    // SAFETY: the caller's word.
    unsafe { madvise(ptr, page_size(), MADV_POPULATE_WRITE) }.is_ok()
}

/// Makes huge pages of the memory at `ptr`, of `len` bytes; both are multiples of [`HUGE_PAGE`]. It may take a
/// millisecond for each, during which accesses wait. Not under a lock: it may log.
///
/// # Safety
///
/// The range is private anonymous memory that no one unmaps meanwhile. Contents do not change.
pub(crate) unsafe fn collapse(ptr: NonNull<u8>, len: usize) -> Collapsed {
    debug_assert!(ptr.addr().get().is_multiple_of(HUGE_PAGE) && len.is_multiple_of(HUGE_PAGE));
    if is_paused() {
        return Collapsed::NoRoom;
    }
    // SAFETY: the caller's word.
    match unsafe { madvise(ptr, len, MADV_COLLAPSE) } {
        Ok(()) => Collapsed::All,
        // EBUSY: the control group has none.
        Err(errno @ (Errno::ENOMEM | Errno::EBUSY)) => {
            pause();
            log(|| tracing::debug!(%errno, "no room for huge pages: memory stays in small ones"));
            Collapsed::NoRoom
        }
        Err(_) => Collapsed::NotAll,
    }
}

/// Until when nothing is collapsed, in milliseconds since [`since`].
static PAUSED_UNTIL: process::AtomicUsize = process::AtomicUsize::new(0);

fn since() -> Instant {
    static SINCE: OnceLock<Instant> = OnceLock::new();
    *SINCE.get_or_init(Instant::now)
}

fn pause() {
    let until = since().elapsed() + PAUSE;
    PAUSED_UNTIL.store(usize::try_from(until.as_millis()).unwrap_or(usize::MAX), Ordering::Relaxed);
}

fn is_paused() -> bool {
    let until = PAUSED_UNTIL.load(Ordering::Relaxed);
    until > 0 && since().elapsed().as_millis() < until as u128
}

/// # Safety
///
/// The range is mapped, no one unmaps it meanwhile, and the advice changes no contents.
pub(super) unsafe fn madvise(ptr: NonNull<u8>, len: usize, advice: libc::c_int) -> Result<(), Errno> {
    loop {
        // SAFETY: the caller's word.
        match Errno::result(unsafe { libc::madvise(ptr.as_ptr().cast(), len, advice) }) {
            Err(Errno::EINTR) => {}
            result => return result.map(drop),
        }
    }
}

#[cfg(all(test, not(loom)))]
pub(super) mod tests {
    use std::ops::Range;

    use super::*;

    /// Bytes of the mappings that begin in a range of addresses that lie in huge pages.
    pub(in crate::memory) fn in_huge_pages(addresses: Range<usize>) -> usize {
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let (mut inside, mut bytes) = (false, 0);
        for line in smaps.lines() {
            let start = line.split_once('-').and_then(|(start, _)| usize::from_str_radix(start, 16).ok());
            if let Some(start) = start {
                inside = addresses.contains(&start);
            } else if let Some(kib) = line.strip_prefix("AnonHugePages:").filter(|_| inside) {
                bytes += kib.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10;
            }
        }
        bytes
    }

    pub(in crate::memory) fn can_be_tested() -> bool {
        let can = can_collapse();
        if !can {
            println!("SKIPPED: the kernel does not collapse memory into huge pages (Linux 6.1)");
        }
        can
    }
}
