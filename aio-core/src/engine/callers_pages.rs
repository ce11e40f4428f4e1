//! Memory of the caller's in 4 KiB pages: a direct transfer of it is slow, and made faster here.
//!
//! A worker asks the kernel about a stretch of an op's memory before it issues the first block there. Only whole huge
//! pages inside the memory of one extent are looked at, and made only of private memory, which no other process and no
//! file sees:
//!
//! - What a read finds absent gets huge pages now, instead of small ones from the transfer.
//! - What lies in small pages passes through staging, which has huge ones: to copy it costs less than to make them.
//! - What comes again, op after op, is made to lie in huge pages after all, which pays from the next op on.
//!
//! A write takes no memory for that, and does not copy what a forked process shares: it makes huge pages only where
//! each small one is present, and no other process's too.
//!
//! All of this is `MADV_COLLAPSE`: no contents change, and the mapping keeps its flags. Advice (`MADV_HUGEPAGE`) would
//! stay, and split the mapping at its ends, of which a process may have 65530.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Weak};

use nix::errno::Errno;

use crate::backend::Direction;
use crate::foreign::log;
use crate::memory::huge_pages::{self, Collapsed, HUGE_PAGE};
use crate::memory::page_map::PageMap;
use crate::sync::{Mutex, Ordering, lock, process};

/// Extents of fewer bytes have no whole huge page, or are over before looking pays.
pub(crate) const LEAST: usize = HUGE_PAGE;
/// How much is looked at, and made, at a time, in bytes: some milliseconds' work, in which the device has the blocks
/// that it was given before.
const STRETCH: usize = 4 << 20;
/// How many stretches are remembered: 64 GiB.
const REMEMBERED: usize = 16 << 10;

/// The use for which huge pages are first made. It takes as long as some transfers.
const AGAIN: u32 = 4;

/// What an engine knows of its callers' memory.
#[derive(Debug, Default)]
pub(crate) struct CallersPages {
    /// The workers own it, so that its files are closed when they end.
    map: Mutex<Weak<PageMap>>,
    recent: Mutex<Recent>,
}

/// A worker's share of the page map, once it has looked. `None`: the kernel does not tell, or makes no huge pages.
#[derive(Debug, Default)]
pub(crate) struct WorkersMap(OnceCell<Option<Arc<PageMap>>>);

/// How blocks that begin at addresses below `until` are transferred.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stretch {
    pub(crate) until: usize,
    /// Through staging, if there is some.
    pub(crate) staged: bool,
}

/// The memory of an extent of an op.
#[derive(Debug)]
pub(crate) struct ExtentPages<'a> {
    pub(crate) direction: Direction,
    pub(crate) addresses: Range<usize>,
    pub(crate) op: &'a OpNumber,
}

impl CallersPages {
    /// Looks at the memory of an extent from a block of it on, `block` its addresses, and makes huge pages where that
    /// is better: of how many bytes.
    pub(crate) fn look(&self, map: &WorkersMap, extent: &ExtentPages<'_>, block: &Range<usize>) -> (Stretch, usize) {
        let until = (block.start / STRETCH + 1) * STRETCH;
        let until = until.max(block.end).min(extent.addresses.end);
        let as_it_is = Stretch { until, staged: false };
        let inside = huge_pages::whole_pages(&extent.addresses);
        let touched = block.start / HUGE_PAGE * HUGE_PAGE..until.next_multiple_of(HUGE_PAGE);
        let whole = inside.start.max(touched.start)..inside.end.min(touched.end);
        if whole.is_empty() || huge_pages::is_paused() {
            return (as_it_is, 0);
        }
        let Some(map) = self.page_map(map) else { return (as_it_is, 0) };
        let Ok(pages) = map.pages(&whole) else { return (as_it_is, 0) };
        let a_part = whole.len() / 4;
        let is_small = pages.small > a_part;
        let is_absent = whole.len() - pages.small - pages.huge > a_part;
        let reads = extent.direction == Direction::Read;
        if !(is_small || is_absent && reads) || !map.are_private_memory(&whole) {
            return (as_it_is, 0);
        }
        if is_small && !lock(&self.recent).comes_again(block.start, extent.op.get()) {
            return (Stretch { until, staged: true }, 0);
        }
        let may_make = reads || map.are_present_and_own(&whole);
        let all = may_make && huge_pages::make(&whole, reads) == Collapsed::All;
        huge_pages::tell_of_pause();
        if all {
            return (as_it_is, whole.len());
        }
        if is_small {
            lock(&self.recent).give_up(block.start);
        }
        (Stretch { until, staged: is_small }, 0)
    }

    /// The page map for a worker. A failure that may pass, as for too many open files, is not remembered.
    fn page_map<'a>(&self, map: &'a WorkersMap) -> Option<&'a PageMap> {
        if map.0.get().is_none() {
            let opened = match self.open() {
                Ok(opened) => Some(opened),
                Err(error @ (Errno::ENOTTY | Errno::EINVAL | Errno::ENOENT | Errno::EACCES)) => {
                    log(|| tracing::debug!(%error, "the kernel cannot do it: callers' memory is taken as it is"));
                    None
                }
                Err(_) => {
                    huge_pages::tell_of_pause();
                    return None;
                }
            };
            let _first = map.0.set(opened);
        }
        map.0.get()?.as_deref()
    }

    fn open(&self) -> Result<Arc<PageMap>, Errno> {
        let opened = lock(&self.map).upgrade();
        if let Some(opened) = opened {
            return Ok(opened);
        }
        let map = Arc::new(huge_pages::open_map()?);
        *lock(&self.map) = Arc::downgrade(&map);
        Ok(map)
    }
}

/// Numbers the ops whose memory lies in small pages, in the order in which they are first looked at.
#[derive(Debug, Default)]
pub(crate) struct OpNumber(process::AtomicU32);

impl OpNumber {
    fn get(&self) -> u32 {
        static NEXT: process::AtomicU32 = process::AtomicU32::new(1);
        match self.0.load(Ordering::Relaxed) {
            0 => {
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                // Another worker may have been faster.
                match self.0.compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => number,
                    Err(number) => number,
                }
            }
            number => number,
        }
    }
}

/// Memory that lay in small pages when an op used it last, by the stretch that it lies in, so that an op finds the
/// memory of earlier ones also where it uses more or less of it.
#[derive(Debug, Default)]
struct Recent(HashMap<usize, Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// The latest op that used it.
    op: u32,
    /// How many ops used it.
    uses: u32,
    /// Whether huge pages are made of it now.
    makes: bool,
}

impl Recent {
    /// Whether earlier ops used the memory at an address often enough, so that huge pages are to be made of it. If it
    /// is small all the same after that, it was mapped anew, or cannot be moved: then they are made at each use whose
    /// number is a power of [`AGAIN`], which costs little where it is of no use.
    fn comes_again(&mut self, address: usize, op: u32) -> bool {
        let stretch = address / STRETCH;
        // Where ops go through more memory than that, all of it stays small.
        if self.0.len() >= REMEMBERED && !self.0.contains_key(&stretch) {
            self.0.clear();
        }
        let seen = self.0.entry(stretch).or_default();
        // Blocks of ops take turns. An older op was counted before the newer one.
        if seen.uses == 0 || op.wrapping_sub(seen.op).cast_signed() > 0 {
            seen.op = op;
            seen.uses = seen.uses.saturating_add(1);
            seen.makes = seen.uses >= AGAIN && seen.uses == AGAIN.pow(seen.uses.ilog(AGAIN));
        }
        seen.makes
    }

    /// No more huge pages are made of the memory at an address for the op that uses it.
    fn give_up(&mut self, address: usize) {
        if let Some(seen) = self.0.get_mut(&(address / STRETCH)) {
            seen.makes = false;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// For which of these ops, all with a block at the same address, huge pages are made.
    fn made(ops: impl IntoIterator<Item = u32>) -> Vec<u32> {
        let mut recent = Recent::default();
        ops.into_iter().filter(|op| recent.comes_again(STRETCH, *op)).collect()
    }

    #[test]
    fn huge_pages_are_made_for_later_ops_ever_more_rarely() {
        assert_eq!(made(1..=70), [4, 16, 64]);
        let mut recent = Recent::default();
        for op in 1..4 {
            assert!(!recent.comes_again(STRETCH, op));
            assert!(!recent.comes_again((1 + op as usize) * STRETCH, op), "other memory");
        }
        // More of it, or from another address on.
        assert!(recent.comes_again(2 * STRETCH - 1, 4) && recent.comes_again(STRETCH + 4096, 4));
    }

    #[test]
    fn ops_that_take_turns_are_counted_once() {
        assert!(made([1, 2, 1, 2, 1, 2, 1, 2]).is_empty());
        assert_eq!(
            made([1, 2, 1, 2, 3, 4, 3, 4, 3]),
            [4, 3, 4, 3],
            "the older one finds what the newer one has made"
        );
        assert_eq!(made([u32::MAX - 1, u32::MAX, u32::MAX - 1, 0, 1]), [1], "the numbers begin anew");
    }

    #[test]
    fn an_op_whose_memory_cannot_be_moved_gives_up_and_a_later_one_tries() {
        let mut recent = Recent::default();
        assert!((1..4).all(|op| !recent.comes_again(STRETCH, op)) && recent.comes_again(STRETCH, 4));
        recent.give_up(STRETCH);
        assert!(!recent.comes_again(STRETCH, 4));
        for op in 5..=16 {
            assert_eq!(recent.comes_again(STRETCH, op), op == 16);
        }
    }

    #[test]
    fn little_is_remembered() {
        let mut recent = Recent::default();
        for stretch in 0..REMEMBERED + 1 {
            recent.comes_again(stretch * STRETCH, 1);
        }
        assert_eq!(recent.0.len(), 1);
        (0..2 * REMEMBERED).for_each(|stretch| _ = recent.comes_again(stretch * STRETCH, 2));
        assert!(recent.0.len() <= REMEMBERED);
    }
}
