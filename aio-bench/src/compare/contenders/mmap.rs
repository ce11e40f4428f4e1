//! Mapping files into memory and copying: how formats made for mapping are often read.
#![allow(unsafe_code)]

use std::fs::OpenOptions;
use std::path::Path;

use memmap2::MmapMut;

use crate::compare::contender::{Contender, PAGE_CACHE, failed, timed};
use crate::compare::plan::Start;
use crate::compare::work::Work;
use aio_cli::failure::Failure;
use aio_cli::generate;
use aio_cli::host::cpu::Elapsed;

/// The name in tables.
pub(crate) const NAME: &str = "mmap + copy";

/// mmap on one thread.
pub(crate) struct Mmap;

impl Contender for Mmap {
    fn note(&self) -> Option<&'static str> {
        Some(PAGE_CACHE)
    }

    fn run(&mut self, work: &Work) -> Result<Elapsed, Failure> {
        let mut memory = vec![0; work.spec.block];
        generate::fill(&mut memory, 1);
        timed(|| {
            if !work.spec.file_per_block {
                return whole(work, &work.files()[0], work.order(), &mut memory);
            }
            work.order().iter().try_for_each(|&block| whole(work, work.place(block).0, &[block], &mut memory))
        })
    }
}

/// Maps one file, and copies these blocks from or to it.
fn whole(work: &Work, path: &Path, blocks: &[u64], memory: &mut [u8]) -> Result<(), Failure> {
    let new = (work.spec.start == Start::New).then(|| work.file_len());
    let mut map = map(path, work.spec.writes, new).map_err(failed)?;
    for &block in blocks {
        // The offset is within the file, which is mapped.
        let at = work.place(block).1 as usize;
        let place = &mut map[at..at + memory.len()];
        if work.spec.writes {
            work.stamp(block, memory)?;
            place.copy_from_slice(memory);
        } else {
            memory.copy_from_slice(place);
            work.check(block, memory)?;
        }
    }
    if work.spec.durable { map.flush().map_err(failed) } else { Ok(()) }
}

/// Maps a file of a workload, which is made if it is to be `new`, of that length.
pub(super) fn map(path: &Path, writes: bool, new: Option<u64>) -> std::io::Result<MmapMut> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(writes).create_new(new.is_some()).open(path)?;
    if let Some(len) = new {
        file.set_len(len)?;
    }
    let options = memmap2::MmapOptions::new();
    // SAFETY: bytes behind a mapping must not change unnoticed, and the file must not shrink. It lies in a folder that
    // this process made, and no other thread has it open while this contender runs.
    unsafe { if writes { options.map_mut(&file) } else { options.map_copy(&file) } }
}
