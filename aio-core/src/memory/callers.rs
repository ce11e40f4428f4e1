//! Huge pages for memory that is not the arena's.

use std::ops::Range;

use crate::memory::huge_pages::{self, Collapsed};
use crate::memory::page_map::PageMap;
use crate::op::buf::IoBufMut;

/// Makes huge pages of the caller's own memory, so that transfers of it are as fast as those of an
/// [arena](crate::buf::Arena)'s. True if all of it is in huge pages then, but for what is less than one at its ends.
///
/// The best time is before memory is first touched: then it takes less time than to touch it. Touched memory keeps its
/// contents, and is copied. Nothing happens to what is shared or belongs to a file. The engine does the same by itself
/// with memory that ops use again and again, and with what is untouched when it is read into; the call is for memory
/// that is filled and then written once.
///
/// It takes Linux 6.11, `/proc`, and room for the pages, also in the control group; else it returns false, and memory
/// stays as it is. It works whatever `/sys/kernel/mm/transparent_hugepage/enabled` says, and not against
/// `MADV_NOHUGEPAGE`.
///
/// ```
/// let mut weights = vec![0.0_f32; 16 << 20]; // zeros from the system: nothing is touched yet
/// aio::buf::use_huge_pages(&mut weights);
/// ```
pub fn use_huge_pages(mut memory: impl IoBufMut) -> bool {
    let start = memory.byte_mut_ptr().addr();
    let all = make_all(&huge_pages::whole_pages(&(start..start + memory.byte_len())));
    huge_pages::tell_of_pause();
    all
}

/// Faults in what was never touched of the caller's own memory, in huge pages where it can be. No contents change; what
/// was swapped out comes back, and pages that a fork or a shared mapping of a file holds are made as a write would make
/// them.
///
/// Reading into fresh memory faults it in, too, but on the thread that keeps the device busy. A caller that has to wait
/// for its read anyway may rather do that itself: a part of the memory at a time, while those before it are read.
///
/// What the kernel refuses is left to the read: small pages come with Linux 5.14, huge ones with 6.11.
///
/// ```
/// let mut weights = vec![0.0_f32; 16 << 20];
/// aio::buf::fault_in(&mut weights);
/// ```
pub fn fault_in(mut memory: impl IoBufMut) {
    let start = memory.byte_mut_ptr().addr();
    if memory.byte_len() == 0 {
        return;
    }
    let range = start..start + memory.byte_len();
    let whole = huge_pages::whole_pages(&range);
    if !whole.is_empty()
        && huge_pages::are_of_known_size()
        && !huge_pages::is_paused()
        && let Ok(map) = PageMap::open()
    {
        for start in whole.clone().step_by(STRETCH) {
            let part = start..whole.end.min(start + STRETCH);
            let is_untouched = map.pages(&part).is_ok_and(|pages| pages.small + pages.huge == 0);
            if is_untouched && map.are_private_memory(&part) {
                huge_pages::make(&part, true);
            }
        }
    }
    huge_pages::tell_of_pause();
    huge_pages::populate_all(&range);
}

/// How much is looked at, and made huge, at a time. In bytes.
const STRETCH: usize = 16 << 20;

fn make_all(whole: &Range<usize>) -> bool {
    if whole.is_empty() {
        return true;
    }
    if !huge_pages::are_of_known_size() {
        return false;
    }
    let Ok(map) = PageMap::open() else { return false };
    map.are_private_memory(whole) && huge_pages::make(whole, true) == Collapsed::All
}
