//! The expected content of each block, and which blocks are in flight.
//!
//! Two ops on one block, at least one of them a write, have no defined outcome: the read may be torn, and either write
//! may be the last. So a block that is being written is in no other op; if the next offset is not free, the next free
//! block takes its place.
//!
//! Inode number and time of birth identify a file: they outlast renaming, mounting elsewhere and restarts, and tell a
//! reused inode number apart. A copy is another file. Generations start from the clock, in nanoseconds, and rise by one
//! with each write of a block, so those of a later run are higher.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use aio_core::shown;
use xxhash_rust::xxh3::xxh3_64;

use aio_cli::failure::Failure;
use aio_cli::pattern::{self, Fault, Label};

/// Writes labels and checks them.
#[derive(Debug)]
pub(crate) struct Verifier {
    name: String,
    file: u64,
    blocks: u64,
    block_size: u64,
    /// The generation before this run's first.
    base: u64,
    /// How often the job has written each block. Empty if it writes none, and accepts any generation.
    writes: Vec<u64>,
    /// Blocks in flight, if the job writes.
    in_flight: HashMap<u64, Use>,
    bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Reads(usize),
    Write,
}

impl Verifier {
    /// A verifier of the first `blocks` of the file at `path`, which exists.
    pub(crate) fn new(path: &Path, blocks: u64, block_size: u64, writes: bool) -> Result<Self, Failure> {
        let name = shown(path).to_string();
        let metadata =
            fs::metadata(path).map_err(|error| Failure::Failed(format!("cannot look at {name}: {error}")))?;
        let mut counts = Vec::new();
        if writes {
            let len = usize::try_from(blocks).unwrap_or(usize::MAX);
            counts.try_reserve_exact(len).map_err(|_| {
                Failure::Failed(format!("what --verify has to remember of {blocks} blocks does not fit in memory"))
            })?;
            counts.resize(len, 0);
        }
        Ok(Self {
            name,
            file: identity(&metadata),
            blocks,
            block_size,
            base: since_epoch(SystemTime::now()),
            writes: counts,
            in_flight: HashMap::new(),
            bytes: 0,
        })
    }

    /// Claims a block for the next op: that at `offset`, or the next free one. [`run`](super::run) makes sure that the
    /// file has more blocks than are in flight.
    pub(crate) fn claim(&mut self, offset: u64, writes: bool) -> u64 {
        if self.writes.is_empty() {
            return offset;
        }
        let wanted = offset / self.block_size;
        let mut candidates = (wanted..self.blocks).chain(0..wanted);
        let is_free = |block: &u64| match self.in_flight.get(block) {
            None => true,
            Some(Use::Reads(_)) => !writes,
            Some(Use::Write) => false,
        };
        let block = candidates.find(is_free).unwrap_or(wanted);
        if writes {
            self.in_flight.insert(block, Use::Write);
        } else {
            let user = self.in_flight.entry(block).or_insert(Use::Reads(0));
            if let Use::Reads(reads) = user {
                *reads += 1;
            }
        }
        block * self.block_size
    }

    /// Ends the op on that block.
    pub(crate) fn release(&mut self, offset: u64) {
        let block = offset / self.block_size;
        match self.in_flight.get_mut(&block) {
            Some(Use::Reads(reads)) if *reads > 1 => *reads -= 1,
            _ => {
                self.in_flight.remove(&block);
            }
        }
    }

    /// Fills `block` with the next generation for `offset`.
    pub(crate) fn fill(&mut self, block: &mut [u8], offset: u64) {
        let generation = match self.writes.get_mut(index(offset / self.block_size)) {
            Some(writes) => {
                *writes += 1;
                self.base + *writes
            }
            None => self.base,
        };
        pattern::fill(block, Label { file: self.file, offset, generation });
    }

    /// Checks that `block` is what was last written at `offset`; the error says what it is instead.
    pub(crate) fn check(&mut self, block: &[u8], offset: u64) -> Result<(), String> {
        let found = pattern::check(block, self.file, offset).and_then(|generation| self.is_last(generation, offset));
        found.map_err(|fault| format!("{} does not verify: {fault}", self.name))?;
        self.bytes += block.len() as u64;
        Ok(())
    }

    fn is_last(&self, generation: u64, at: u64) -> Result<(), Fault> {
        let Some(writes) = self.writes.get(index(at / self.block_size)) else { return Ok(()) };
        let expected = self.base + writes;
        if generation > expected {
            return Err(Fault::Newer { at });
        }
        match expected - generation {
            0 => Ok(()),
            behind => Err(Fault::Older { at, behind: (generation > self.base).then_some(behind) }),
        }
    }

    /// Offsets of all blocks that the job has written, in order.
    pub(crate) fn written(&self) -> Vec<u64> {
        let blocks = self.writes.iter().zip(0..).filter(|(writes, _)| **writes > 0);
        blocks.map(|(_, block): (_, u64)| block * self.block_size).collect()
    }

    /// Bytes that were read and found right.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn index(block: u64) -> usize {
    usize::try_from(block).unwrap_or(usize::MAX)
}

/// On file systems without a time of birth, the inode number alone.
fn identity(metadata: &fs::Metadata) -> u64 {
    let born = metadata.created().map_or(0, since_epoch);
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&metadata.ino().to_le_bytes());
    bytes[8..].copy_from_slice(&born.to_le_bytes());
    xxh3_64(&bytes)
}

/// Nanoseconds, which fit until 2554.
fn since_epoch(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 512;

    fn verifier(writes: bool) -> (tempfile::NamedTempFile, Verifier) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let verifier = Verifier::new(file.path(), 4, BLOCK, writes).unwrap();
        (file, verifier)
    }

    fn next(verifier: &mut Verifier, offset: u64) -> Vec<u8> {
        let mut block = vec![0; BLOCK as usize];
        verifier.fill(&mut block, offset);
        block
    }

    #[test]
    fn only_the_last_generation_will_do() {
        let (file, mut verifier) = verifier(true);
        let blocks = [0; 3].map(|_| next(&mut verifier, BLOCK));
        assert_eq!(verifier.check(&blocks[2], BLOCK), Ok(()));
        let lost = verifier.check(&blocks[1], BLOCK).unwrap_err();
        assert!(lost.contains("before the last write"), "{lost}");
        let lost = verifier.check(&blocks[0], BLOCK).unwrap_err();
        assert!(lost.contains("2 writes ago"), "{lost}");
        assert_eq!((verifier.bytes(), verifier.written()), (BLOCK, vec![BLOCK]));

        // To a later run, blocks of this one are old; to this one, blocks of the later run are unknown.
        let mut later = Verifier::new(file.path(), 4, BLOCK, true).unwrap();
        let block = next(&mut later, BLOCK);
        assert_eq!(later.check(&block, BLOCK), Ok(()));
        assert!(later.check(&blocks[2], BLOCK).unwrap_err().contains("an earlier run"));
        assert!(verifier.check(&block, BLOCK).unwrap_err().contains("not of this run"));
    }

    #[test]
    fn a_reader_takes_every_generation_but_no_other_file() {
        let (file, mut writer) = verifier(true);
        let blocks = [0; 2].map(|_| next(&mut writer, 0));
        let mut reader = Verifier::new(file.path(), 4, BLOCK, false).unwrap();
        assert!(blocks.iter().all(|block| reader.check(block, 0).is_ok()));
        let (_other, mut other) = verifier(false);
        assert!(other.check(&blocks[0], 0).unwrap_err().contains("another file"));
    }

    #[test]
    fn a_block_that_is_written_is_in_no_other_op() {
        let (_file, mut verifier) = verifier(true);
        assert_eq!([true, true, false].map(|writes| verifier.claim(0, writes)), [0, BLOCK, 2 * BLOCK]);
        // Reads share a block; a write does not.
        assert_eq!([false, true].map(|writes| verifier.claim(2 * BLOCK, writes)), [2 * BLOCK, 3 * BLOCK]);
        verifier.release(2 * BLOCK);
        verifier.release(0);
        assert_eq!(verifier.claim(2 * BLOCK, true), 0, "one read is still there, and the search starts over");
        verifier.release(2 * BLOCK);
        assert_eq!(verifier.claim(0, true), 2 * BLOCK);
    }
}
