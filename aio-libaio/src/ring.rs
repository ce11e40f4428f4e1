//! The completion ring that the kernel maps into the process, read without a system call.
//!
//! The kernel puts an event into the slot at `tail`, then moves `tail`; whoever reaps reads the slot at `head`, then
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
pub(crate) struct Ring {
    header: NonNull<aio_ring>,
    /// Slots, as they were at setup: a stray write to the header later cannot lead us out of the mapping.
    slots: u32,
}

impl Ring {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, AtomicU64};

    use super::*;

    const SLOTS: usize = 5;

    /// A ring with the kernel's part played by the test. The slots are atomics so that a race would be a wrong
    /// number and not undefined behaviour.
    #[repr(C, align(8))]
    struct Mapped {
        header: aio_ring,
        slots: [[AtomicU64; 4]; SLOTS],
    }

    impl Mapped {
        fn new() -> Self {
            let header = aio_ring {
                id: 0,
                nr: SLOTS as u32,
                head: AtomicU32::new(0),
                tail: AtomicU32::new(0),
                magic: AIO_RING_MAGIC,
                compat_features: 1,
                incompat_features: 0,
                header_length: 32,
            };
            Self { header, slots: Default::default() }
        }

        fn context(&self) -> io_context_t {
            std::ptr::from_ref(self).cast_mut().cast()
        }

        fn ring(&self) -> Ring {
            // SAFETY: the tests keep `self` alive longer than the ring and consume on one thread.
            unsafe { Ring::of(self.context()) }.expect("a ring as the kernel lays it out")
        }

        /// What `aio_complete` does, and whether there was room.
        fn complete(&self, data: u64) -> bool {
            let tail = self.header.tail.load(Ordering::Relaxed);
            let next = (tail + 1) % SLOTS as u32;
            if next == self.header.head.load(Ordering::Acquire) {
                return false;
            }
            for (at, word) in self.slots[tail as usize].iter().enumerate() {
                word.store(data + at as u64, Ordering::Relaxed);
            }
            self.header.tail.store(next, Ordering::Release);
            true
        }
    }

    fn taken(ring: &mut Ring) -> Vec<u64> {
        let mut data = Vec::new();
        ring.consume(|event| data.push(event.data));
        data
    }

    #[test]
    fn events_come_in_order_and_wrap_around() {
        let mapped = Mapped::new();
        let mut ring = mapped.ring();
        assert!(taken(&mut ring).is_empty());
        for round in 0..20 {
            for at in 0..3 {
                assert!(mapped.complete(round * 3 + at));
            }
            assert_eq!(taken(&mut ring), [round * 3, round * 3 + 1, round * 3 + 2]);
            assert_eq!(mapped.header.head.load(Ordering::Relaxed), ((round as u32 + 1) * 3) % SLOTS as u32);
        }
    }

    #[test]
    fn a_full_ring_is_emptied_whole() {
        let mapped = Mapped::new();
        let mut ring = mapped.ring();
        let held = (0..10).take_while(|data| mapped.complete(*data)).count();
        assert_eq!(held, SLOTS - 1);
        assert_eq!(taken(&mut ring), [0, 1, 2, 3]);
    }

    #[test]
    fn a_scribbled_header_stays_inside_the_ring() {
        let mapped = Mapped::new();
        let mut ring = mapped.ring();
        mapped.header.head.store(u32::MAX - 1, Ordering::Relaxed);
        mapped.header.tail.store(u32::MAX, Ordering::Relaxed);
        assert!(taken(&mut ring).len() < SLOTS);
    }

    #[test]
    fn unknown_layouts_are_left_to_the_kernel() {
        let spoilers: [fn(&mut aio_ring); 4] = [
            |ring| ring.magic = 0,
            |ring| ring.incompat_features = 1,
            |ring| ring.header_length = 64,
            |ring| ring.nr = 0,
        ];
        for spoil in spoilers {
            let mut mapped = Mapped::new();
            spoil(&mut mapped.header);
            // SAFETY: the header is alive during the call, and refused.
            assert!(unsafe { Ring::of(mapped.context()) }.is_none());
        }
        // SAFETY: null is refused before it is read.
        assert!(unsafe { Ring::of(std::ptr::null_mut()) }.is_none());
    }

    #[test]
    fn a_producer_on_another_thread_loses_and_doubles_nothing() {
        const EVENTS: u64 = 100_000;
        let mapped = Mapped::new();
        let mut next = 0;
        std::thread::scope(|scope| {
            let mapped = &mapped;
            scope.spawn(move || {
                for data in 0..EVENTS {
                    while !mapped.complete(data) {
                        std::thread::yield_now();
                    }
                }
            });
            let mut ring = mapped.ring();
            while next < EVENTS {
                let before = next;
                ring.consume(|event| {
                    let whole = io_event { data: next, obj: next + 1, res: next as i64 + 2, res2: next as i64 + 3 };
                    assert_eq!(*event, whole);
                    next += 1;
                });
                if next == before {
                    std::thread::yield_now();
                }
            }
        });
        assert_eq!(next, EVENTS);
    }
}
