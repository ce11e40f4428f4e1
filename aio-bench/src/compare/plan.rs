//! The workloads that tensor I/O consists of.

use std::path::Path;

use super::measure::Workload;
use super::model::Model;
use super::work::Work;
use crate::cli::CompareArgs;
use aio_cli::failure::Failure;

/// The state of files and page cache when the clock starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// The files exist, but not in the page cache.
    Cold,
    /// The files are in the page cache.
    Cached,
    /// The files do not exist yet.
    New,
}

/// A workload that can be made.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Plan {
    Blocks(Spec),
    Model(ModelSpec),
}

/// A workload of blocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spec {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) writes: bool,
    pub(crate) start: Start,
    /// Whether it ends with a sync.
    pub(crate) durable: bool,
    pub(crate) file_per_block: bool,
    /// The blocks are tensors that are known together: one vectored op, if the contender has that.
    pub(crate) at_once: bool,
    pub(crate) random: bool,
    /// Bytes of a block.
    pub(crate) block: usize,
    /// Blocks in all files.
    pub(crate) blocks: u64,
    /// Blocks that move.
    pub(crate) moved: u64,
}

/// A workload of a model in safetensors files: new ones are saved, durable, others are loaded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ModelSpec {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) start: Start,
    /// Bytes of all tensors.
    pub(crate) bytes: u64,
}

/// Bytes of a block of large files.
pub(crate) const LARGE: usize = 1 << 20;
/// Bytes of a block of random reads.
const SMALL: usize = 4 << 10;

/// All workloads.
pub(crate) fn plans(args: &CompareArgs) -> Vec<Plan> {
    let models = [
        ("load-cold", "a model is loaded into fresh memory, cold", Start::Cold),
        ("load-warm", "a model that lies in the page cache is loaded into fresh memory", Start::Cached),
        ("save-model", "a new model is saved, and synced", Start::New),
    ];
    let bytes = args.size / LARGE as u64 * LARGE as u64;
    let models = models.map(|(name, what, start)| Plan::Model(ModelSpec { name, what, start, bytes }));
    specs(args).into_iter().map(Plan::Blocks).chain(models).collect()
}

fn specs(args: &CompareArgs) -> Vec<Spec> {
    let blocks = args.size / LARGE as u64;
    let read = Spec {
        name: "read",
        what: "a large file is read, cold",
        writes: false,
        start: Start::Cold,
        durable: false,
        file_per_block: false,
        at_once: false,
        random: false,
        block: LARGE,
        blocks,
        moved: blocks,
    };
    let write = Spec { writes: true, ..read };
    let tensors = u64::from(args.tensors);
    let files = Spec { file_per_block: true, block: args.tensor_size, blocks: tensors, moved: tensors, ..read };
    let extents = Spec { file_per_block: false, at_once: true, ..files };
    vec![
        read,
        Spec { name: "overwrite", what: "a large file is overwritten, and synced", durable: true, ..write },
        Spec { name: "save", what: "a new large file is written", start: Start::New, ..write },
        Spec {
            name: "save-durable",
            what: "a new large file is written, and synced",
            start: Start::New,
            durable: true,
            ..write
        },
        Spec {
            name: "cached-read",
            what: "a large file that lies in the page cache is read",
            start: Start::Cached,
            ..read
        },
        Spec { name: "tensors-in", what: "small tensors are read, a file each, cold", ..files },
        Spec {
            name: "tensors-out",
            what: "small tensors are written, each to a new file",
            writes: true,
            start: Start::New,
            ..files
        },
        Spec { name: "extents-in", what: "small tensors are read, extents of one file, cold", ..extents },
        Spec {
            name: "extents-out",
            what: "small tensors are written over extents of one file, and synced",
            writes: true,
            durable: true,
            ..extents
        },
        Spec {
            name: "random-read",
            what: "4 KiB are read at random places of a large file, cold",
            random: true,
            block: SMALL,
            blocks: blocks * (LARGE / SMALL) as u64,
            moved: u64::from(args.random_reads),
            ..read
        },
    ]
}

impl Plan {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Blocks(spec) => spec.name,
            Self::Model(spec) => spec.name,
        }
    }

    /// Files that it makes, and bytes of all of them.
    pub(crate) fn room(&self) -> (u64, u64) {
        match self {
            Self::Blocks(spec) => (spec.files(), spec.bytes_on_disk()),
            Self::Model(spec) => (Model::SHARDS as u64, spec.bytes),
        }
    }

    /// Makes the workload with its files in `dir`; drop removes them.
    pub(crate) fn make(self, dir: &Path) -> Result<Box<dyn Workload>, Failure> {
        match self {
            Self::Blocks(spec) => Ok(Box::new(Work::make(spec, dir)?)),
            Self::Model(spec) => Ok(Box::new(Model::make(spec, dir)?)),
        }
    }
}

impl Spec {
    /// A tiny workload for tests: four blocks of 64 bytes.
    #[cfg(test)]
    pub(crate) fn example(writes: bool, start: Start, file_per_block: bool) -> Self {
        let (name, what, durable, at_once, random) = ("", "", false, false, false);
        Self { name, what, writes, start, durable, file_per_block, at_once, random, block: 64, blocks: 4, moved: 4 }
    }

    /// The number of files.
    pub(crate) fn files(&self) -> u64 {
        if self.file_per_block { self.blocks } else { 1 }
    }

    /// Bytes that move in a pass.
    pub(crate) fn bytes(&self) -> u64 {
        self.moved * self.block as u64
    }

    /// Bytes of all files.
    pub(crate) fn bytes_on_disk(&self) -> u64 {
        self.blocks * self.block as u64
    }
}
