//! Huge pages, by whatever makes the kernel give them.
//!
//! `MADV_HUGEPAGE` is advice for later faults, and nothing comes of it where `transparent_hugepage/enabled` is `never`.
//! `MADV_COLLAPSE` (Linux 6.1) makes a huge page of what is there now, whatever that setting says, for 2 MiB of which
//! one page at least is present. Neither changes contents.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use nix::time::{ClockId, clock_gettime};

use crate::foreign::log;
use crate::memory::page_map::PageMap;
use crate::memory::page_size;
use crate::sync::{Ordering, process};

/// The size that huge pages have and the alignment they need, in bytes.
pub(crate) const HUGE_PAGE: usize = 2 << 20;
/// Of `linux/mman.h`, for all architectures.
const MADV_COLLAPSE: libc::c_int = 25;
const MADV_POPULATE_WRITE: libc::c_int = 23;
/// The settings of the kernel.
const SETTINGS: &str = "/sys/kernel/mm/transparent_hugepage";
/// How much to collapse per system call, in bytes. It holds the address space's lock.
const STEP: usize = 64 << 20;
/// The time for a huge page, of a CPU, from which on it is too long: 0.1 to 1.5 ms were measured where there is room.
const LONG: Duration = Duration::from_millis(5);
/// How much longer they may take in all: single ones were seen to take long where a hypervisor had to find the memory.
const MOST_EXCESS: Duration = Duration::from_millis(50);
/// How long nothing is collapsed after the system had no room, or took long to make it: it would do so each time.
const PAUSE: Duration = Duration::from_secs(10);

/// What came of collapsing a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Collapsed {
    /// All of it lies in huge pages.
    All,
    /// Some pages of it cannot be moved, such as pinned ones, or not be filled, or the kernel cannot do it.
    NotAll,
    /// The machine, or the control group, has no room.
    NoRoom,
}

/// Whether memory that was advised gets huge pages when it is faulted in, as the machine was set up when this was first
/// asked.
pub(crate) fn come_by_advice() -> bool {
    static ADVICE: OnceLock<bool> = OnceLock::new();
    let chosen = |path: &str| {
        let text = fs::read_to_string(format!("{SETTINGS}/{path}")).ok()?;
        let (_, rest) = text.split_once('[')?;
        rest.split_once(']').map(|(chosen, _)| chosen.to_owned())
    };
    *ADVICE.get_or_init(|| {
        // Since Linux 6.8 each size has a setting, which may be to do as the general one.
        let own = chosen("hugepages-2048kB/enabled").filter(|chosen| chosen != "inherit");
        // Where nothing tells, advice is all that is tried.
        own.or_else(|| chosen("enabled")).is_none_or(|chosen| chosen != "never")
    })
}

/// Whether the kernel's huge pages have the size that this module knows.
pub(crate) fn are_of_known_size() -> bool {
    check_size().is_ok()
}

/// Fails with EINVAL if the kernel's huge pages have another size.
fn check_size() -> Result<(), Errno> {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    let is_known = match KNOWN.get() {
        Some(is_known) => *is_known,
        None => match fs::read_to_string(format!("{SETTINGS}/hpage_pmd_size")) {
            Ok(size) => *KNOWN.get_or_init(|| size.trim().parse() == Ok(HUGE_PAGE)),
            Err(error) => return Err(errno_of(error)),
        },
    };
    if is_known { Ok(()) } else { Err(Errno::EINVAL) }
}

fn errno_of(error: io::Error) -> Errno {
    Errno::try_from(error).unwrap_or(Errno::EINVAL)
}

/// Opens the page map, where the kernel makes huge pages too.
pub(crate) fn open_map() -> Result<PageMap, Errno> {
    let map = PageMap::open().map_err(errno_of)?;
    match try_collapse() {
        Ok(()) => Ok(map),
        Err(errno) => {
            if matches!(errno, Errno::ENOMEM | Errno::EBUSY) {
                pause(errno as u32);
            }
            Err(errno)
        }
    }
}

/// Whether the kernel makes huge pages of memory that is in use. It is tried out, on a little memory of its own.
pub fn can_collapse() -> bool {
    try_collapse().is_ok()
}

fn try_collapse() -> Result<(), Errno> {
    let len = check_size().and(NonZeroUsize::new(2 * HUGE_PAGE).ok_or(Errno::EINVAL))?;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory that anyone has.
    let mapped = unsafe { mmap_anonymous(None, len, access, MapFlags::MAP_PRIVATE) }?;
    let address = mapped.addr().get();
    let whole = whole_pages(&(address..address + len.get()));
    let one = whole.start..whole.start + HUGE_PAGE;
    let tried = populate(one.start).and_then(|()| advise(&one, MADV_COLLAPSE));
    // SAFETY: the mapping made above, of which nothing is in use any more.
    let _ = unsafe { munmap(mapped, len.get()) };
    tried
}

/// The whole huge pages of a range of addresses; empty if there are none.
pub(crate) fn whole_pages(range: &Range<usize>) -> Range<usize> {
    let start = range.start.checked_next_multiple_of(HUGE_PAGE).unwrap_or(usize::MAX);
    start..(range.end / HUGE_PAGE * HUGE_PAGE).max(start)
}

/// Makes the page at an address present and its own where it was shared with others, without a change of its contents.
fn populate(address: usize) -> Result<(), Errno> {
    advise(&(address..address + page_size()), MADV_POPULATE_WRITE)
}

/// Makes the pages present that lie within a range of addresses, as [`populate`]; as far as the kernel does that.
pub(super) fn populate_all(range: &Range<usize>) {
    let page = page_size();
    let Some(start) = range.start.checked_next_multiple_of(page) else { return };
    let end = range.end / page * page;
    for start in (start..end).step_by(STEP) {
        let _ = advise(&(start..end.min(start + STEP)), MADV_POPULATE_WRITE);
    }
}

/// Makes huge pages of these addresses, whole huge pages of private memory. `fill`: also where nothing is present.
pub(crate) fn make(addresses: &Range<usize>, fill: bool) -> Collapsed {
    let mut made = Collapsed::All;
    for start in addresses.clone().step_by(STEP) {
        let part = start..addresses.end.min(start + STEP);
        // One page of each has to be there.
        let is_there = !fill || part.clone().step_by(HUGE_PAGE).all(|page| populate(page).is_ok());
        match if is_there { collapse(&part) } else { Collapsed::NotAll } {
            Collapsed::All => {}
            Collapsed::NotAll => made = Collapsed::NotAll,
            Collapsed::NoRoom => return Collapsed::NoRoom,
        }
    }
    made
}

/// Makes huge pages of these addresses, where something is present in each. It takes from 0.1 to some milliseconds for
/// each, during which accesses to it wait.
pub(super) fn collapse(addresses: &Range<usize>) -> Collapsed {
    debug_assert!(addresses.start.is_multiple_of(HUGE_PAGE) && addresses.end.is_multiple_of(HUGE_PAGE));
    if is_paused() {
        return Collapsed::NoRoom;
    }
    let began = cpu_time();
    let once = || advise(addresses, MADV_COLLAPSE);
    // EAGAIN: something has a page, for a moment (the kernel moves it) or for long (it is pinned).
    let done = once().or_else(|errno| if errno == Errno::EAGAIN { once() } else { Err(errno) });
    let took = cpu_time().saturating_sub(began);
    match done {
        // EBUSY: the control group has none, unless it is for this memory alone, as where user space handles the faults
        // of what is absent.
        Err(errno) if errno == Errno::ENOMEM || errno == Errno::EBUSY && !can_collapse() => {
            pause(errno as u32);
            return Collapsed::NoRoom;
        }
        _ if is_slow(&EXCESS, took, addresses.len()) => pause(SLOW),
        _ => {}
    }
    if done.is_ok() { Collapsed::All } else { Collapsed::NotAll }
}

/// By how much collapsing took too long of late, in microseconds. Fast ones make up for slow ones.
static EXCESS: process::AtomicUsize = process::AtomicUsize::new(0);

/// Whether collapsing takes so long that transfers are better off without: the system moves other memory to get room.
fn is_slow(excess: &process::AtomicUsize, took: Duration, bytes: usize) -> bool {
    let fair = LONG.as_micros() as usize * (bytes / HUGE_PAGE);
    let sum = (excess.load(Ordering::Relaxed) + took.as_micros() as usize).saturating_sub(fair);
    let is_slow = sum > MOST_EXCESS.as_micros() as usize;
    // What another thread adds at the same time may be lost.
    excess.store(if is_slow { 0 } else { sum }, Ordering::Relaxed);
    is_slow
}

/// The time that this thread has had of a CPU: a thread that others keep from running is not slow at collapsing.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Gives one of the two kinds of advice that this module knows.
fn advise(addresses: &Range<usize>, advice: libc::c_int) -> Result<(), Errno> {
    debug_assert!([MADV_COLLAPSE, MADV_POPULATE_WRITE].contains(&advice));
    let start = ptr::without_provenance_mut(addresses.start);
    loop {
        // SAFETY: neither advice changes contents or what is mapped, wherever it is given, and the kernel refuses it
        // for what is not mapped.
        match Errno::result(unsafe { libc::madvise(start, addresses.len(), advice) }) {
            Err(Errno::EINTR) => {}
            result => return result.map(drop),
        }
    }
}

/// Until when nothing is collapsed, in milliseconds since [`since`].
static PAUSED_UNTIL: process::AtomicUsize = process::AtomicUsize::new(0);

fn since() -> Instant {
    static SINCE: OnceLock<Instant> = OnceLock::new();
    *SINCE.get_or_init(Instant::now)
}

/// Why nothing is collapsed, until it is logged: an error number, or [`SLOW`].
static REASON: process::AtomicU32 = process::AtomicU32::new(0);
const SLOW: u32 = u32::MAX;

fn pause(reason: u32) {
    let until = since().elapsed() + PAUSE;
    PAUSED_UNTIL.store(usize::try_from(until.as_millis()).unwrap_or(usize::MAX), Ordering::Relaxed);
    REASON.store(reason, Ordering::Relaxed);
}

/// Logs why nothing is collapsed any more, once. Not under a lock: what gets the log is foreign code.
pub(crate) fn tell_of_pause() {
    let reason = REASON.load(Ordering::Relaxed);
    // One thread tells of it.
    if reason == 0 || REASON.compare_exchange(reason, 0, Ordering::Relaxed, Ordering::Relaxed).is_err() {
        return;
    }
    let seconds = PAUSE.as_secs();
    if reason == SLOW {
        log(|| tracing::debug!("huge pages take long to make: memory stays in small ones for {seconds} s"));
    } else {
        let errno = Errno::from_raw(reason.cast_signed());
        log(|| tracing::debug!(%errno, "no room for huge pages: memory stays in small ones for {seconds} s"));
    }
}

pub(crate) fn is_paused() -> bool {
    let until = PAUSED_UNTIL.load(Ordering::Relaxed);
    until > 0 && since().elapsed().as_millis() < until as u128
}

#[cfg(all(test, not(loom)))]
pub(crate) mod tests {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

    use super::*;

    /// Bytes of the mappings that begin in a range of addresses that lie in huge pages.
    pub(crate) fn in_huge_pages(addresses: Range<usize>) -> usize {
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

    pub(crate) fn can_be_tested() -> bool {
        let can = can_collapse();
        if !can {
            println!("SKIPPED: the kernel does not collapse memory into huge pages (Linux 6.1)");
        }
        can
    }

    /// Memory of some huge pages at a boundary of theirs, for which no advice was given.
    pub(crate) fn plain_memory(huge_pages: usize) -> &'static mut [u8] {
        let bytes = (huge_pages + 1) * HUGE_PAGE;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, which stays until the process ends.
        let mapped = unsafe {
            mmap_anonymous(None, NonZeroUsize::new(bytes).unwrap(), access, MapFlags::MAP_PRIVATE).unwrap()
        };
        let head = mapped.cast::<u8>().as_ptr().align_offset(HUGE_PAGE);
        // SAFETY: within the mapping, zeroed, and nothing else refers to it.
        unsafe { std::slice::from_raw_parts_mut(mapped.cast::<u8>().as_ptr().add(head), huge_pages * HUGE_PAGE) }
    }

    pub(crate) fn addresses(memory: &[u8]) -> Range<usize> {
        let start = memory.as_ptr().addr();
        start..start + memory.len()
    }

    #[test]
    fn collapsing_keeps_every_byte() {
        if !can_be_tested() {
            return;
        }
        let memory = plain_memory(3);
        let byte = |at: usize| (at * 31 + at / 4099) as u8;
        memory.iter_mut().enumerate().for_each(|(at, to)| *to = byte(at));
        assert_eq!(collapse(&addresses(memory)), Collapsed::All);
        assert!(memory.iter().enumerate().all(|(at, &found)| found == byte(at)));
    }

    #[test]
    fn what_is_not_there_or_not_wanted_is_not_collapsed() {
        let memory = plain_memory(2);
        assert_eq!(collapse(&addresses(memory)), Collapsed::NotAll, "nothing was touched");
        memory.fill(1);
        // SAFETY: memory of this test, whose contents the advice does not change.
        unsafe { libc::madvise(memory.as_mut_ptr().cast(), memory.len(), libc::MADV_NOHUGEPAGE) };
        assert_eq!(collapse(&addresses(memory)), Collapsed::NotAll, "the owner wants none");
    }

    #[test]
    fn what_takes_long_again_and_again_is_slow() {
        let excess = process::AtomicUsize::new(0);
        // All of a time that is fair, and a single one that is not.
        (0..1000).for_each(|_| assert!(!is_slow(&excess, 2 * LONG, 2 * HUGE_PAGE)));
        assert!(!is_slow(&excess, MOST_EXCESS, HUGE_PAGE));
        (0..9).for_each(|_| assert!(!is_slow(&excess, Duration::ZERO, HUGE_PAGE)));
        assert!(!is_slow(&excess, MOST_EXCESS, HUGE_PAGE));
        assert!(is_slow(&excess, MOST_EXCESS, HUGE_PAGE));
        // It begins anew after the pause.
        assert!(!is_slow(&excess, MOST_EXCESS, HUGE_PAGE));
        let began = cpu_time();
        while cpu_time() == began {}
    }

    /// Has user space handle the faults of absent pages, as far as the system lets it: `userfaultfd(2)`.
    fn handle_faults(addresses: &Range<usize>) -> Option<OwnedFd> {
        const API: libc::c_ulong = 0xC018_AA3F;
        const REGISTER: libc::c_ulong = 0xC020_AA00;
        const MISSING: u64 = 1;
        // SAFETY: it makes a descriptor, and the structures of the two requests live as long as the calls.
        unsafe {
            let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC);
            let fd = OwnedFd::from_raw_fd(i32::try_from(fd).ok().filter(|fd| *fd >= 0)?);
            let raw = fd.as_raw_fd();
            let mut api = [0xAA_u64, 0, 0];
            let mut register = [addresses.start as u64, addresses.len() as u64, MISSING, 0];
            let done = libc::ioctl(raw, API as libc::Ioctl, api.as_mut_ptr()) == 0
                && libc::ioctl(raw, REGISTER as libc::Ioctl, register.as_mut_ptr()) == 0;
            done.then_some(fd)
        }
    }

    #[test]
    fn memory_whose_faults_user_space_handles_stops_nothing_else() {
        if !can_be_tested() {
            return;
        }
        let memory = plain_memory(2);
        memory[0] = 1;
        let Some(_handler) = handle_faults(&addresses(memory)) else {
            println!("SKIPPED: the system lets user space handle no faults");
            return;
        };
        assert!(advise(&addresses(memory), MADV_COLLAPSE).is_err());
        assert_eq!(collapse(&addresses(memory)), Collapsed::NotAll);
        assert!(!is_paused());
    }

    #[test]
    fn whole_pages_lie_inside() {
        for (range, whole) in [
            (0..HUGE_PAGE, 0..HUGE_PAGE),
            (1..3 * HUGE_PAGE - 1, HUGE_PAGE..2 * HUGE_PAGE),
            (1..HUGE_PAGE, HUGE_PAGE..HUGE_PAGE),
        ] {
            assert_eq!(whole_pages(&range), whole);
        }
        assert!(whole_pages(&(usize::MAX - 5..usize::MAX)).is_empty());
    }
}
