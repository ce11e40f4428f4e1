//! Counters that tell which way bytes went.

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicU64, Ordering};

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
    /// Blocks with a queue now.
    pub in_flight: u64,
}

macro_rules! counters {
    ($($name:ident),*) => {
        /// The same counters, shared by all threads of a handle.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)*
            pub(crate) ops: CachePadded<AtomicU64>,
            pub(crate) in_flight: AtomicU64,
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
                Stats {
                    $($name: self.$name.load(Ordering::Relaxed),)*
                    ops: self.ops.load(Ordering::Relaxed),
                    in_flight: self.in_flight.load(Ordering::Relaxed),
                }
            }
        }
    };
}
counters!(blocks, bytes_direct, bytes_staged, bytes_buffered, bytes_fixed, retries, short_transfers);
