//! The memory that direct I/O is fastest with: few, large, contiguous, registered mappings, cut into buffers.
//!
//! A direct transfer hands the device physical addresses. Over 4 KiB pages a 1 MiB block is up to 256 scattered
//! pieces, each looked up, pinned and described to the device; over a huge page it is one piece, and at queue depth
//! 32 that alone was measured to be worth a factor of two to three. So regions are mapped 2 MiB-aligned with
//! `MADV_HUGEPAGE`; where the system is set to give none for that, `MADV_COLLAPSE` makes them ([`huge_pages`]). Memory
//! that a ring has registered is pinned once instead of once per block; a ring takes few registrations of at most 1 GiB
//! each, so regions are large and buffers are cut out of them.
//!
//! # What is given back
//!
//! Freed memory stays mapped and registered for the next buffer, until something else needs the room. Then whole
//! regions without buffers are unmapped, and if that is not enough, what is free beside buffers is returned to the
//! system. A region that no queue has registered yet is shortened; others end, and the buffers in them live on
//! unregistered. So fragmentation never makes an allocation wait: what is not in buffers can be had, in one piece.
//!
//! **Registered memory is given back last.** A ring goes on using the physical pages it pinned: if a region were
//! unmapped and the addresses mapped again, a read into them would succeed and the new memory would never see the
//! bytes. So every queue that got a region is asked to remove it first ([`queues`]), which it does when no block in
//! flight names it; meanwhile nothing is cut from the region, and no queue can get it anew. And whatever may use a
//! mapping holds it alive: the arena, each buffer, and each [`Region`](crate::backend::Region) that a queue keeps.
//! Addresses of an ended region are used again only when all are gone.
//!
//! # What is faulted in, and what a fork leaves
//!
//! Pages are faulted in when a buffer first covers them, not one by one under the transfer. Regions are
//! `MADV_DONTFORK`: copy-on-write after a fork could move a page away from under a transfer in flight, so a forked
//! child does not get these mappings at all.

mod arena;
mod buffer;
mod callers;
mod free_list;
pub(crate) mod huge_pages;
mod limit;
mod mapping;
pub(crate) mod page_map;
mod pool;
mod queues;
mod turns;

pub use arena::{Allocation, Arena};
pub use buffer::AlignedBuf;
pub use callers::{fault_in, use_huge_pages};
pub use huge_pages::can_collapse;
pub(crate) use mapping::page_size;
pub(crate) use queues::Holder;
