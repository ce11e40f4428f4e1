//! One backend's part: stints with a new handle each, on files that stay.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aio::backend::IoBackend;
use aio::{AioConfig, AioHandle, Backend, DirectMode};
use aio_core::shown;
use aio_testkit::fault::{FaultBackend, Faults, Injected, Plan};
use xxhash_rust::xxh3::xxh3_64;

use super::cells::Cells;
use super::counts::{Counts, Seen};
use super::stint::Stint;
use crate::failure::Failure;
use crate::generate::SplitMix64;
use crate::interrupt;

const FILES: u64 = 2;
/// Files that are written and read by path.
const TENSORS: u64 = 4;
/// Pages, per thousand, that a plan makes bad for reading, and as many for writing.
const BAD_PAGES: u32 = 2;

/// What a backend keeps from stint to stint.
pub(crate) struct Lane {
    pub(crate) name: &'static str,
    backend: Arc<dyn IoBackend>,
    pub(crate) plan: Option<Arc<Plan>>,
    folder: PathBuf,
    pub(crate) random: SplitMix64,
    pub(crate) files: Vec<Cells>,
    pub(crate) tensors: Vec<Tensor>,
    /// The number of the last write.
    generation: u64,
}

/// A file that is written and read as a whole.
#[derive(Debug)]
pub(crate) struct Tensor {
    pub(crate) label: u64,
    pub(crate) path: PathBuf,
    /// Length, and the number of the write; `None` if unknown.
    pub(crate) holds: Option<(usize, u64)>,
    pub(crate) busy: bool,
}

/// The result of a lane.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) backend: &'static str,
    pub(crate) seen: Seen,
    pub(crate) injected: Option<Injected>,
    pub(crate) sentences: Vec<String>,
}

impl Lane {
    /// A lane with files of at most `bytes` in all, in a new folder inside `dir`.
    pub(crate) fn new(backend: Backend, dir: &Path, bytes: u64, seed: u64, faults: bool) -> Result<Self, Failure> {
        let name = backend.name();
        let real = backend.implementation().ok_or_else(|| Failure::Failed(format!("{name} was not compiled in")))?;
        let folder = dir.join(name);
        std::fs::create_dir_all(&folder)
            .map_err(|error| Failure::Failed(format!("cannot make {}: {error}", shown(&folder))))?;
        let mut random = SplitMix64::new(seed ^ xxh3_64(name.as_bytes()));
        let plan = faults.then(|| {
            let faults = Faults { bad_pages: BAD_PAGES, ..Faults::survivable() };
            Arc::new(Plan::new(random.next_u64(), faults))
        });
        let backend: Arc<dyn IoBackend> = match &plan {
            Some(plan) => Arc::new(FaultBackend::new(real, plan.clone())),
            None => real,
        };
        let label = random.next_u64() & (u64::MAX << 8);
        // Half of the space is for the files, a quarter for the tensors, the rest for the file system's metadata.
        let files = (0..FILES).map(|file| Cells::new(label + file, bytes / (2 * FILES), &mut random)).collect();
        let tensor = |number| Tensor {
            label: label + FILES + number,
            path: folder.join(format!("tensor{number}")),
            holds: None,
            busy: false,
        };
        let tensors = (0..TENSORS).map(tensor).collect();
        Ok(Self { name, backend, plan, folder, random, files, tensors, generation: 0 })
    }

    /// Opens and closes a handle.
    pub(crate) fn warm_up(&mut self) -> Result<(), Failure> {
        let handle = self.handle()?;
        Ok(handle.close()?)
    }

    /// Works until `until` is true, and then reads everything of known content once more.
    pub(crate) fn run(mut self, counts: &Counts, until: &(dyn Fn() -> bool + Sync)) -> Ended {
        if let Err(failure) = self.stints(counts, until) {
            counts.error(format!("{} stopped early: {failure}", self.name));
        }
        Ended {
            backend: self.name,
            seen: counts.seen(),
            injected: self.plan.as_ref().map(|plan| plan.injected()),
            sentences: counts.sentences(),
        }
    }

    fn stints(&mut self, counts: &Counts, until: &dyn Fn() -> bool) -> Result<(), Failure> {
        while !until() {
            self.stint(counts, until)?;
        }
        // A user who interrupts does not want to wait for that.
        if interrupt::check().is_ok() { self.stint(counts, &|| true) } else { Ok(()) }
    }

    fn stint(&mut self, counts: &Counts, until: &dyn Fn() -> bool) -> Result<(), Failure> {
        let handle = self.handle()?;
        counts.count(|seen| seen.handles += 1);
        Stint::begin(self, handle, counts)?.run(until)
    }

    /// A handle of a random configuration.
    fn handle(&mut self) -> Result<AioHandle, Failure> {
        let random = &mut self.random;
        let mut pick = |choices: &[usize]| choices[random.below(choices.len() as u64) as usize];
        let mut config = AioConfig::default();
        config.intra_op_parallelism = pick(&[1, 1, 2, 3]);
        config.copy_threads = pick(&[0, 1, 4]);
        config.queue_depth = pick(&[1, 2, 8, 32]);
        config.block_size = pick(&[4096, 16 << 10, 64 << 10, 1 << 20]);
        config.max_pending_ops = pick(&[4, 1024]);
        config.direct = if pick(&[0, 0, 1]) == 0 { DirectMode::Auto } else { DirectMode::Off };
        config.overlap_events = pick(&[0, 1, 1]) == 1;
        config.single_submit = pick(&[0, 0, 1]) == 1;
        config.register_memory = pick(&[0, 1, 1]) == 1;
        config.register_files = pick(&[0, 1, 1]) == 1;
        config.preallocate = pick(&[0, 1, 1]) == 1;
        config.spin = Duration::from_micros(pick(&[0, 20]) as u64);
        Ok(AioHandle::with_backend(self.backend.clone(), config)?)
    }

    pub(crate) fn path(&self, file: usize) -> PathBuf {
        self.folder.join(format!("file{file}"))
    }

    /// The number of the next write.
    pub(crate) fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }
}
