//! Which regions and files a worker's queue knows.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use crate::backend::{FileId, IoQueue, Region, RegionId};
use crate::file::OpenFile;
use crate::file::slots::FileTable;
use crate::foreign::log;
use crate::memory::{Arena, Holder};

/// How many regions to remember that the arena does not have.
const MOST_UNKNOWN: usize = 1024;
/// The largest region that a queue registers, in bytes.
const LARGEST_REGION: usize = 1 << 30;

/// What was registered with one queue, and what it refused.
#[derive(Debug)]
pub(crate) struct Registrations {
    /// Whom the arena asks to give regions back.
    holder: Holder,
    /// By slot.
    regions: Vec<Option<Known>>,
    /// By slot: what blocks have used of regions that are not registered.
    used: Vec<Option<Used>>,
    /// Regions that the arena does not have, and so never will: not asked for again for each block of a buffer.
    unknown: HashSet<RegionId>,
    /// By slot, the generation that is registered.
    files: Vec<Option<u32>>,
    use_regions: bool,
    use_files: bool,
    warned: bool,
}

/// A region that the queue was asked to register.
#[derive(Debug, Clone)]
struct Known {
    id: RegionId,
    /// The addresses that blocks may use; none if it was refused.
    addresses: Range<usize>,
}

/// What blocks have used of a region.
#[derive(Debug, Clone)]
struct Used {
    id: RegionId,
    /// From the first address to the last.
    addresses: Range<usize>,
    bytes: usize,
}

impl Registrations {
    pub(crate) fn new(holder: Holder, use_regions: bool, use_files: bool) -> Self {
        let (regions, used, unknown, files) = (Vec::new(), Vec::new(), HashSet::new(), Vec::new());
        Self { holder, regions, used, unknown, files, use_regions, use_files, warned: false }
    }

    /// Whether a block of this memory may name this region; registers it when memory of it is used again. The
    /// address shows memory of another arena, whose ids mean other regions.
    pub(crate) fn region(
        &mut self,
        queue: &mut dyn IoQueue,
        arena: &Arena,
        id: RegionId,
        memory: Range<usize>,
    ) -> bool {
        let index = id.slot as usize;
        let known = self.regions.get(index).and_then(Option::as_ref).filter(|known| known.id == id);
        let addresses = match known.map(|known| known.addresses.clone()) {
            Some(addresses) => addresses,
            None if !self.use_regions || self.unknown.contains(&id) => return false,
            None if !self.is_used_again(id, &memory) => return false,
            None => {
                let Some(region) = arena.region(id, &self.holder) else {
                    // Buffers may name ever other regions that have ended.
                    if self.unknown.len() >= MOST_UNKNOWN {
                        self.unknown.clear();
                    }
                    self.unknown.insert(id);
                    return false;
                };
                if self.regions.len() <= index {
                    self.regions.resize(index + 1, None);
                }
                let addresses = self.add_region(queue, &region);
                self.regions[index] = Some(Known { id, addresses: addresses.clone() });
                addresses
            }
        };
        addresses.start <= memory.start && memory.end <= addresses.end
    }

    /// Whether memory of the region was used before, as far as sums tell. What is used once, as the memory of a model
    /// that is loaded, is not worth a registration: with many regions the kernel looks through all pages of all of them
    /// for each that is added (55 % of the CPU time of loading 2 GiB into 64 MiB at a time).
    fn is_used_again(&mut self, id: RegionId, memory: &Range<usize>) -> bool {
        let index = id.slot as usize;
        if self.used.len() <= index {
            self.used.resize(index + 1, None);
        }
        let around = |of: &Range<usize>| of.start.min(memory.start)..of.end.max(memory.end);
        let used = self.used[index].take().filter(|used| used.id == id);
        // What is that far away is memory of another arena, whose ids mean other regions.
        let used = used.filter(|used| around(&used.addresses).len() <= LARGEST_REGION.max(memory.len()));
        let mut used = used.unwrap_or(Used { id, addresses: memory.clone(), bytes: 0 });
        used.addresses = around(&used.addresses);
        used.bytes = used.bytes.saturating_add(memory.len());
        let again = used.bytes > used.addresses.len();
        self.used[index] = Some(used).filter(|_| !again);
        again
    }

    /// The addresses that blocks may use from now on.
    fn add_region(&mut self, queue: &mut dyn IoQueue, region: &Region) -> Range<usize> {
        match queue.add_region(region) {
            Ok(()) => {
                let start = region.ptr().addr();
                return start..start + region.len();
            }
            // The backend has no registered memory at all: nothing to tell, and nothing to try again.
            Err(error) if error.kind() == std::io::ErrorKind::Unsupported => self.use_regions = false,
            Err(error) if !self.warned => {
                self.warned = true;
                log(|| {
                    tracing::warn!(%error, "memory could not be registered with the kernel: using it unregistered, \
                        which costs speed (see RLIMIT_MEMLOCK, ulimit -l)");
                });
            }
            Err(_) => {}
        }
        0..0
    }

    /// No more blocks name this region.
    pub(crate) fn retire_region(&mut self, id: RegionId) {
        if let Some(known) =
            self.regions.get_mut(id.slot as usize).and_then(Option::as_mut).filter(|known| known.id == id)
        {
            known.addresses = 0..0;
        }
    }

    /// Gives regions back that no block in flight names.
    pub(crate) fn remove_regions(queue: &mut dyn IoQueue, regions: &[RegionId]) {
        for &id in regions {
            if let Err(error) = queue.remove_region(id) {
                log(|| tracing::warn!(%error, "a queue could not give memory back"));
            }
        }
    }

    /// The id under which blocks may name this file; registers it the first time it is seen.
    /// A file of another engine, whose ids mean other files, goes without.
    pub(crate) fn file(
        &mut self,
        queue: &mut dyn IoQueue,
        table: &Arc<FileTable>,
        file: &OpenFile,
    ) -> Option<FileId> {
        let id = file.slot().filter(|slot| self.use_files && slot.is_in(table))?.id();
        let index = id.slot as usize;
        if self.files.len() <= index {
            self.files.resize(index + 1, None);
        }
        if self.files[index] != Some(id.generation) {
            match queue.add_file(id, file.fd()) {
                Ok(()) => self.files[index] = Some(id.generation),
                Err(error) => {
                    log(|| tracing::debug!(%error, "files are not registered with this queue"));
                    self.use_files = error.kind() != std::io::ErrorKind::Unsupported;
                    return None;
                }
            }
        }
        Some(id)
    }

    /// Gives a slot back, if this queue has it.
    pub(crate) fn remove_file(&mut self, queue: &mut dyn IoQueue, id: FileId) {
        let Some(entry) = self.files.get_mut(id.slot as usize) else { return };
        if *entry == Some(id.generation) {
            *entry = None;
            if let Err(error) = queue.remove_file(id) {
                log(|| tracing::warn!(%error, "a queue could not give a file's slot back"));
            }
        }
    }
}
