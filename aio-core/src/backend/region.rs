//! What a queue may register with the kernel: memory and files, by ids that blocks name.

use std::fmt;
use std::sync::Arc;

/// Names a registered region: a slot, and which of its successive users is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegionId {
    /// Index into a queue's table of regions.
    pub slot: u32,
    /// Differs from that of every other region of the process, until 2^32 were made.
    pub generation: u32,
}

/// Names a registered file: a slot, and which of its successive users is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Index into a queue's file table.
    pub slot: u32,
    /// Grows each time the slot is given to another file.
    pub generation: u32,
}

/// A stretch of memory that queues may register. Cloning it keeps the mapping alive.
#[derive(Debug, Clone)]
pub struct Region {
    id: RegionId,
    memory: Arc<dyn RegionMemory>,
}

/// The owner of a region's mapping.
///
/// # Safety
///
/// `ptr` and `len` describe memory that is mapped readable and writable from before the first call until the value is
/// dropped, and answer the same on every call.
pub unsafe trait RegionMemory: Send + Sync + fmt::Debug {
    /// First byte.
    fn ptr(&self) -> *mut u8;
    /// Bytes; at most 1 GiB, the most the kernel registers as one buffer.
    fn len(&self) -> usize;
    /// Whether the region has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Region {
    /// Gives `memory` an id.
    pub fn new(id: RegionId, memory: Arc<dyn RegionMemory>) -> Self {
        Self { id, memory }
    }

    /// Its id.
    pub fn id(&self) -> RegionId {
        self.id
    }

    /// First byte.
    pub fn ptr(&self) -> *mut u8 {
        self.memory.ptr()
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty()
    }
}
