//! The work of each contender: the same blocks of the same files.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::unistd::syncfs;

use super::contender::Contender;
use super::files::Files;
use super::measure::{Measured, Summary, Workload};
use super::plan::{Spec, Start};
use aio_cli::failure::Failure;
use aio_cli::generate::{self, SplitMix64};
use aio_cli::interrupt;

/// A workload with its files, which contenders can repeat.
///
/// A block's number is its place in the one file, or the number of its file if each has its own. A block begins and
/// ends with eight bytes that name it and the write it comes from, so that a check finds wrong bytes.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) spec: Spec,
    files: Files,
    /// The blocks to move, in this order.
    order: Vec<u64>,
    /// The generation of the blocks in the files, or of those about to be written.
    generation: u64,
}

impl Work {
    /// Makes the files in a new folder in `dir`; drop removes them.
    pub(crate) fn make(spec: Spec, dir: &Path) -> Result<Self, Failure> {
        let files = Files::make(dir, (0..spec.files()).map(|number| number.to_string()))?;
        let mut numbers = SplitMix64::new(0);
        let order = match spec.random {
            true => (0..spec.moved).map(|_| numbers.below(spec.blocks)).collect(),
            false => (0..spec.blocks).collect(),
        };
        let work = Self { spec, files, order, generation: 0 };
        if spec.start != Start::New {
            work.fill().map_err(|error| work.cannot("write", &error))?;
        }
        Ok(work)
    }

    /// The folder of the files, which are named by number.
    pub(crate) fn folder(&self) -> &Path {
        self.files.folder()
    }

    /// The files, by number.
    pub(crate) fn files(&self) -> &[PathBuf] {
        self.files.paths()
    }

    /// The blocks to move, in order.
    pub(crate) fn order(&self) -> &[u64] {
        &self.order
    }

    /// Bytes of each file.
    pub(crate) fn file_len(&self) -> u64 {
        self.spec.blocks * self.spec.block as u64 / self.spec.files()
    }

    /// The file of a block, and its offset there.
    pub(crate) fn place(&self, block: u64) -> (&Path, u64) {
        match self.spec.file_per_block {
            true => (&self.files()[block as usize], 0),
            false => (&self.files()[0], block * self.spec.block as u64),
        }
    }

    /// Stamps a block before it is written. Fails when a signal asked for an early end.
    #[inline]
    pub(crate) fn stamp(&self, block: u64, bytes: &mut [u8]) -> Result<(), Failure> {
        self.sign(block, bytes);
        interrupt::check()
    }

    fn sign(&self, block: u64, bytes: &mut [u8]) {
        let (word, end) = (self.word(block), bytes.len() - WORD);
        bytes[..WORD].copy_from_slice(&word);
        bytes[end..].copy_from_slice(&word);
    }

    /// Fails unless these are the bytes of the block, and when a signal asked for an early end.
    #[inline]
    pub(crate) fn check(&self, block: u64, bytes: &[u8]) -> Result<(), Failure> {
        let word = self.word(block);
        if bytes.len() != self.spec.block || bytes[..WORD] != word || !bytes.ends_with(&word) {
            return Err(Failure::Failed(format!("block {block} did not come back as it was written")));
        }
        interrupt::check()
    }

    /// Checks what was written, through the page cache. Not timed.
    pub(crate) fn verify(&self) -> Result<(), Failure> {
        let mut word = [0; WORD];
        for &block in &self.order {
            interrupt::check()?;
            let (path, offset) = self.place(block);
            let file = File::open(path).map_err(|error| self.cannot("open", &error))?;
            for at in [offset, offset + (self.spec.block - WORD) as u64] {
                file.read_exact_at(&mut word, at).map_err(|error| self.cannot("read", &error))?;
                if word != self.word(block) {
                    return Err(Failure::Failed(format!("block {block} was not written as it should be")));
                }
            }
        }
        Ok(())
    }

    fn word(&self, block: u64) -> [u8; WORD] {
        SplitMix64::new(block << 20 | self.generation).next_u64().to_le_bytes()
    }

    fn fill(&self) -> io::Result<()> {
        let mut bytes = vec![0; self.spec.block];
        generate::fill(&mut bytes, 0);
        for (file, number) in self.files().iter().zip(0..) {
            let file = File::create_new(file)?;
            let blocks = self.spec.blocks / self.spec.files();
            for at in 0..blocks {
                self.sign(number * blocks + at, &mut bytes);
                file.write_all_at(&bytes, at * self.spec.block as u64)?;
            }
        }
        syncfs(File::open(self.folder())?)?;
        Ok(())
    }

    fn cannot(&self, what: &str, error: &io::Error) -> Failure {
        self.files.cannot(what, error)
    }
}

impl Workload for Work {
    fn summary(&self) -> Summary {
        let Spec { name, what, block, .. } = self.spec;
        Summary { name, what, bytes: self.spec.bytes(), block: Some(block), files: self.spec.files() }
    }

    fn prepare(&mut self) -> Result<(), Failure> {
        if self.spec.writes {
            self.generation += 1;
        }
        self.files.prepare(self.spec.start)
    }

    fn pass(&self, contender: &mut dyn Contender, most: u64) -> Result<Measured, Failure> {
        let measured = contender.repeat(self, most)?;
        if self.spec.writes && contender.stamps() {
            self.verify()?;
        }
        Ok(measured)
    }
}

/// Bytes of a stamp, which is at the beginning and at the end of a block.
const WORD: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn blocks_are_known_by_their_bytes() {
        let dir = tempfile::tempdir().unwrap();
        for file_per_block in [false, true] {
            let mut work = Work::make(Spec::example(false, Start::Cold, file_per_block), dir.path()).unwrap();
            work.prepare().unwrap();
            let mut bytes = [[0; 64]; 4];
            for &block in work.order() {
                let (path, offset) = work.place(block);
                File::open(path).unwrap().read_exact_at(&mut bytes[block as usize], offset).unwrap();
                work.check(block, &bytes[block as usize]).unwrap();
            }
            assert!(work.check(0, &bytes[1]).is_err() && work.check(0, &bytes[0][..63]).is_err());
            bytes[0][63] ^= 1;
            assert!(work.check(0, &bytes[0]).is_err(), "its last byte counts");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_was_written_before_does_not_pass_for_what_should_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut work = Work::make(Spec::example(true, Start::Cold, false), dir.path()).unwrap();
        work.prepare().unwrap();
        let write = |work: &Work, blocks: &[u64]| {
            for &block in blocks {
                let mut bytes = [7; 64];
                work.stamp(block, &mut bytes).unwrap();
                let file = fs::OpenOptions::new().write(true).open(&work.files()[0]).unwrap();
                file.write_all_at(&bytes, block * 64).unwrap();
            }
        };
        assert!(work.verify().is_err(), "nothing was written");
        write(&work, &[0, 1, 2, 3]);
        work.verify().unwrap();
        work.prepare().unwrap();
        write(&work, &[0, 1, 3]);
        let error = work.verify().unwrap_err().to_string();
        assert_eq!(error, "block 2 was not written as it should be");
    }

    #[test]
    fn new_files_are_not_there_yet() {
        let dir = tempfile::tempdir().unwrap();
        let mut work = Work::make(Spec::example(true, Start::New, true), dir.path()).unwrap();
        for _ in 0..2 {
            work.prepare().unwrap();
            assert_eq!((work.files().len(), fs::read_dir(work.folder()).unwrap().count()), (4, 0));
            work.files().iter().for_each(|file| fs::write(file, b"x").unwrap());
        }
    }
}
