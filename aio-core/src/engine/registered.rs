//! Which regions and files a worker's queue knows.

use std::ops::Range;
use std::sync::Arc;

use crate::arena::Arena;
use crate::backend::{FileId, IoQueue, Region, RegionId};
use crate::file::OpenFile;
use crate::foreign::log;
use crate::registry::FileTable;

/// What was registered with one queue, and what it refused.
#[derive(Debug)]
pub(crate) struct Registrations {
    /// By region id.
    regions: Vec<Known>,
    /// By slot, the generation that is registered.
    files: Vec<Option<u32>>,
    use_regions: bool,
    use_files: bool,
    warned: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Unknown,
    /// With the addresses it covers.
    Registered {
        start: usize,
        end: usize,
    },
    Refused,
}

impl Registrations {
    pub(crate) fn new(use_regions: bool, use_files: bool) -> Self {
        Self { regions: Vec::new(), files: Vec::new(), use_regions, use_files, warned: false }
    }

    /// Whether a block of this memory may name this region; registers it the first time it is seen. Memory of another
    /// engine's arena, whose ids mean other regions, is told by its address.
    pub(crate) fn region(
        &mut self,
        queue: &mut dyn IoQueue,
        arena: &Arena,
        id: RegionId,
        memory: Range<usize>,
    ) -> bool {
        if !self.use_regions {
            return false;
        }
        let index = id.0 as usize;
        if self.regions.len() <= index {
            self.regions.resize(index + 1, Known::Unknown);
        }
        if self.regions[index] == Known::Unknown {
            let Some(region) = arena.region(id) else { return false };
            self.regions[index] = self.add_region(queue, &region);
        }
        match self.regions[index] {
            Known::Registered { start, end } => start <= memory.start && memory.end <= end,
            Known::Unknown | Known::Refused => false,
        }
    }

    fn add_region(&mut self, queue: &mut dyn IoQueue, region: &Region) -> Known {
        match queue.add_region(region) {
            Ok(()) => {
                let start = region.ptr().addr();
                return Known::Registered { start, end: start + region.len() };
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
        Known::Refused
    }

    /// The id under which blocks may name this file; registers it the first time it is seen.
    /// A file of another engine, whose ids mean other files, goes without.
    pub(crate) fn file(
        &mut self,
        queue: &mut dyn IoQueue,
        table: &Arc<FileTable>,
        file: &OpenFile,
    ) -> Option<FileId> {
        let id = file.registered().filter(|registered| self.use_files && registered.is_in(table))?.id();
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
