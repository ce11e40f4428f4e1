//! Counters that tell which way bytes went.

use std::cell::Cell;

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicU64, Ordering, process};

/// What a handle has done since it was made.
///
/// The four byte counters tell how bytes moved: each byte of a finished block is either direct or buffered, and may
/// in addition be staged (through a staging buffer) or fixed (in memory registered with the kernel).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Ops accepted, blocking calls included.
    pub ops: u64,
    /// Blocks finished.
    pub blocks: u64,
    /// Bytes that bypassed the page cache.
    pub bytes_direct: u64,
    /// Bytes that passed through a staging buffer.
    pub bytes_staged: u64,
    /// Bytes that went through the page cache.
    pub bytes_buffered: u64,
    /// Bytes in memory registered with the kernel.
    pub bytes_fixed: u64,
    /// Blocks submitted again after EINTR, EAGAIN or EBUSY.
    pub retries: u64,
    /// Blocks resumed after a short transfer.
    pub short_transfers: u64,
    /// Blocks with a queue or a copier now.
    pub in_flight: u64,
    /// Threads that were started to copy from and to the page cache, see
    /// [`copy_threads`](crate::AioConfig::copy_threads).
    pub copy_threads: u64,
}

/// Blocking calls of one block, which is what most of them are: counted by threads apart from each other, so that those
/// that read at the same time do not pass one cache line around.
#[derive(Debug, Default)]
pub(crate) struct Calls([CachePadded<CallsOfSome>; 8]);

#[derive(Debug, Default)]
struct CallsOfSome {
    calls: AtomicU64,
    bytes_direct: AtomicU64,
    bytes_buffered: AtomicU64,
}

impl Calls {
    /// Counts a call, and says how many came before it; other threads may count elsewhere.
    #[inline]
    pub(crate) fn add(&self, bytes: u64, direct: bool) -> u64 {
        let mine = &self.0[thread_number() % self.0.len()];
        let counter = if direct { &mine.bytes_direct } else { &mine.bytes_buffered };
        counter.fetch_add(bytes, Ordering::Relaxed);
        mine.calls.fetch_add(1, Ordering::Relaxed)
    }

    fn add_to(&self, stats: &mut Stats) {
        for some in &self.0 {
            let calls = some.calls.load(Ordering::Relaxed);
            stats.ops += calls;
            stats.blocks += calls;
            stats.bytes_direct += some.bytes_direct.load(Ordering::Relaxed);
            stats.bytes_buffered += some.bytes_buffered.load(Ordering::Relaxed);
        }
    }
}

/// Counts the threads that call.
#[inline]
fn thread_number() -> usize {
    static NEXT: process::AtomicUsize = process::AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    NUMBER.with(|number| {
        if number.get() == usize::MAX {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}

macro_rules! counters {
    ($($name:ident),*) => {
        /// The same counters, shared by all threads of a handle.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)*
            pub(crate) ops: CachePadded<AtomicU64>,
            pub(crate) in_flight: AtomicU64,
            pub(crate) copy_threads: AtomicU64,
            pub(crate) calls: Calls,
        }

        impl Counters {
            /// Adds what one thread counted.
            pub(crate) fn add(&self, counted: &mut Stats) {
                $(if counted.$name != 0 {
                    self.$name.fetch_add(counted.$name, Ordering::Relaxed);
                })*
                *counted = Stats::default();
            }

            /// All of them now.
            pub(crate) fn snapshot(&self) -> Stats {
                let mut stats = Stats {
                    $($name: self.$name.load(Ordering::Relaxed),)*
                    ops: self.ops.load(Ordering::Relaxed),
                    in_flight: self.in_flight.load(Ordering::Relaxed),
                    copy_threads: self.copy_threads.load(Ordering::Relaxed),
                };
                self.calls.add_to(&mut stats);
                stats
            }
        }
    };
}
counters!(blocks, bytes_direct, bytes_staged, bytes_buffered, bytes_fixed, retries, short_transfers);
