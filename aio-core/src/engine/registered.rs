//! Which regions and files a worker's queue knows.

use crate::arena::Arena;
use crate::backend::{FileId, IoQueue, RegionId};
use crate::file::OpenFile;

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
    Registered,
    Refused,
}

impl Registrations {
    pub(crate) fn new(use_regions: bool, use_files: bool) -> Self {
        Self { regions: Vec::new(), files: Vec::new(), use_regions, use_files, warned: false }
    }

    /// Whether blocks may name this region; registers it the first time it is seen.
    pub(crate) fn region(&mut self, queue: &mut dyn IoQueue, arena: &Arena, id: RegionId) -> bool {
        if !self.use_regions {
            return false;
        }
        let index = id.0 as usize;
        if self.regions.len() <= index {
            self.regions.resize(index + 1, Known::Unknown);
        }
        if self.regions[index] == Known::Unknown {
            let added = match arena.region(id) {
                Some(region) => queue.add_region(&region),
                None => Err(std::io::Error::from(std::io::ErrorKind::NotFound)),
            };
            self.regions[index] = if added.is_ok() { Known::Registered } else { Known::Refused };
            match added {
                // The backend has no registered memory at all: nothing to tell, and nothing to try again.
                Err(error) if error.kind() == std::io::ErrorKind::Unsupported => self.use_regions = false,
                Err(error) if !self.warned => {
                    self.warned = true;
                    tracing::warn!(%error, "memory could not be registered with the kernel: using it unregistered, \
                        which costs speed (see RLIMIT_MEMLOCK, ulimit -l)");
                }
                _ => {}
            }
        }
        self.regions[index] == Known::Registered
    }

    /// The id under which blocks may name this file; registers it the first time it is seen.
    pub(crate) fn file(&mut self, queue: &mut dyn IoQueue, file: &OpenFile) -> Option<FileId> {
        let id = file.file_id().filter(|_| self.use_files)?;
        let index = id.slot as usize;
        if self.files.len() <= index {
            self.files.resize(index + 1, None);
        }
        if self.files[index] != Some(id.generation) {
            match queue.add_file(id, file.fd()) {
                Ok(()) => self.files[index] = Some(id.generation),
                Err(error) => {
                    tracing::debug!(%error, "files are not registered with this queue");
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
                tracing::warn!(%error, "a queue could not give a file's slot back");
            }
        }
    }
}
