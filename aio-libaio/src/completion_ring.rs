//! The completion ring that the kernel maps into the process, read without a system call.
//!
//! The kernel puts an event into the slot at `tail`, then moves `tail`; the reaper reads the slot at `head`, then
//! moves `head`. `io_getevents` does that in the kernel and a process may do it itself: the kernel respects a `head`
//! it finds moved, and counts the slots before it as free the next time it needs one.
//!
//! # Ordering
//!
//! *Event before tail.* `aio_complete` writes the event, then `smp_wmb()`, then `tail`. Our load of `tail` is an
//! acquire: seeing the new tail means seeing the event. (fio loads it plainly, which x86 forgives.)
//!
//! *Event before head.* The kernel overwrites a slot only after a request was admitted because `head` had passed that
//! slot. Our store of `head` is a release, so the reads of the event cannot drift behind it. fio does the same.
//!
//! *One reader.* `head` is written by us and, inside `io_getevents`, by the kernel on behalf of the same thread:
//! these two never overlap, because the owner of a context is one thread. So the load of `head` is relaxed.

use std::mem::size_of;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use crate::abi::{AIO_RING_MAGIC, aio_ring, io_context_t, io_event};

/// A context's completion ring. Not `Send`: see the module's last paragraph.
#[derive(Debug)]
pub(crate) struct CompletionRing {
    header: NonNull<aio_ring>,
    /// Slots, as they were at setup: a stray write to the header later cannot lead us out of the mapping.
    slots: u32,
}

impl CompletionRing {
    /// The ring of `context`, or `None` where its layout is not the one we know.
    ///
    /// # Safety
    ///
    /// `context` came from `io_setup` and stays live as long as the result. This thread alone reaps it.
    pub(crate) unsafe fn of(context: io_context_t) -> Option<Self> {
        let header = NonNull::new(context)?;
        // SAFETY: the id is the address of a mapping that starts with this header: the kernel itself reads the
        // context's index there on every call. What is not atomic in it does not change after `io_setup`.
        let seen = unsafe { header.as_ref() };
        let known = seen.magic == AIO_RING_MAGIC
            && seen.incompat_features == 0
            && usize::try_from(seen.header_length) == Ok(size_of::<aio_ring>())
            && seen.nr > 1;
        known.then_some(Self { header, slots: seen.nr })
    }

    /// Takes every event that is there now, oldest first.
    pub(crate) fn consume(&mut self, mut each: impl FnMut(&io_event)) {
        // SAFETY: `of` was promised that the mapping lives as long as `self`; `head` and `tail` are atomics, and the
        // rest does not change.
        let header = unsafe { self.header.as_ref() };
        let tail = header.tail.load(Ordering::Acquire) % self.slots;
        let mut head = header.head.load(Ordering::Relaxed) % self.slots;
        if head == tail {
            return;
        }
        while head != tail {
            // SAFETY: `header_length` was checked to be the header's size, so `slots` events follow it, and `head` is
            // below `slots`. The kernel does not write between `head` and `tail`; volatile, as it is not our memory.
            let event = unsafe { self.header.add(1).cast::<io_event>().add(head as usize).read_volatile() };
            each(&event);
            head = (head + 1) % self.slots;
        }
        header.head.store(head, Ordering::Release);
    }
}
