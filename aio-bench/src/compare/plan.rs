//! The workloads that tensor I/O consists of.

use crate::cli::CompareArgs;

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

/// Bytes of a block of large files.
pub(crate) const LARGE: usize = 1 << 20;
/// Bytes of a block of random reads.
const SMALL: usize = 4 << 10;

/// All workloads.
pub(crate) fn specs(args: &CompareArgs) -> Vec<Spec> {
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
