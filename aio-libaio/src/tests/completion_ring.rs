//! The mapped ring, with the kernel's part played by the test.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::abi::{AIO_RING_MAGIC, aio_ring, io_context_t, io_event};
use crate::completion_ring::CompletionRing;

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

    fn ring(&self) -> CompletionRing {
        // SAFETY: the tests keep `self` alive longer than the ring and consume on one thread.
        unsafe { CompletionRing::of(self.context()) }.expect("a ring as the kernel lays it out")
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

fn taken(ring: &mut CompletionRing) -> Vec<u64> {
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
        assert!(unsafe { CompletionRing::of(mapped.context()) }.is_none());
    }
    // SAFETY: null is refused before it is read.
    assert!(unsafe { CompletionRing::of(std::ptr::null_mut()) }.is_none());
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
