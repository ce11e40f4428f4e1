//! Checksums of tensors, compared with those that were saved.

use std::fmt;

use aio_core::buf::AlignedBuf;
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, Quoted, Result};
use crate::read_ahead::{Piece, ReadAhead};
use crate::set::{AHEAD, CHUNK, Set, TensorInfo};

/// What [`SafeTensors::verify`](crate::SafeTensors::verify) found of a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verified<'m> {
    /// The tensor.
    pub info: &'m TensorInfo,
    /// The XXH3-64 of its bytes; `None` if there is [nothing to compare](TensorInfo::checksum) with, and it was not
    /// read.
    pub found: Option<u64>,
}

impl Verified<'_> {
    /// Whether its bytes are not those that were saved.
    pub fn is_damaged(&self) -> bool {
        self.found.is_some() && self.found != self.info.checksum
    }
}

/// The findings of [`SafeTensors::verify`](crate::SafeTensors::verify).
pub struct Verify<'m> {
    set: &'m Set,
    chunks: ReadAhead<'m, (), Chunks<'m>>,
    chunk: Option<(Piece<()>, AlignedBuf)>,
    /// The tensor that is being read, and how many of its bytes the hash has.
    next: usize,
    hashed: u64,
    hasher: Xxh3,
}

impl fmt::Debug for Verify<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verify").field("next", &self.next).finish_non_exhaustive()
    }
}

impl<'m> Verify<'m> {
    pub(crate) fn new(set: &'m Set) -> Self {
        let chunks = set.read_ahead(Chunks::new(set), AHEAD);
        Self { set, chunks, chunk: None, next: 0, hashed: 0, hasher: Xxh3::new() }
    }

    fn step(&mut self) -> Result<Option<Verified<'m>>> {
        loop {
            let Some(info) = self.set.tensors.get(self.next) else { return Ok(None) };
            self.set.check_checksums(info)?;
            let at = info.range.start + self.hashed;
            if info.checksum.is_none() || at == info.range.end {
                let found = info.checksum.map(|_| self.hasher.digest());
                self.hasher.reset();
                (self.next, self.hashed) = (self.next + 1, 0);
                return Ok(Some(Verified { info, found }));
            }
            let chunk = self.chunk.as_ref().filter(|(chunk, _)| chunk.file == info.file && chunk.range.contains(&at));
            let Some((chunk, bytes)) = chunk else {
                // The next one may need its memory.
                self.chunk = None;
                let nothing =
                    || Err(Error::InvalidInput(format!("nothing was read of tensor {}", Quoted(&info.name))));
                let (chunk, bytes) = self.chunks.next().unwrap_or_else(nothing)?;
                self.set.check_unchanged(chunk.file)?;
                self.chunk = Some((chunk, bytes));
                continue;
            };
            let end = info.range.end.min(chunk.range.end);
            self.hasher.update(&bytes[(at - chunk.range.start) as usize..(end - chunk.range.start) as usize]);
            self.hashed += end - at;
        }
    }
}

impl<'m> Iterator for Verify<'m> {
    type Item = Result<Verified<'m>>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step().transpose();
        if let Some(Err(_)) = &step {
            self.next = self.set.tensors.len();
            self.chunks.stop();
        }
        step
    }
}

/// The parts of files in which tensors lie that have checksums.
#[derive(Debug)]
struct Chunks<'m> {
    set: &'m Set,
    /// The next tensor, and the next byte of it.
    tensor: usize,
    from: u64,
    /// The file and the end of the chunk before.
    before: (usize, u64),
}

impl<'m> Chunks<'m> {
    fn new(set: &'m Set) -> Self {
        Self { set, tensor: 0, from: 0, before: (0, 0) }
    }
}

impl Iterator for Chunks<'_> {
    type Item = Piece<()>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let info = self.set.tensors.get(self.tensor)?;
            let read_before = if self.before.0 == info.file { self.before.1 } else { 0 };
            let from = info.range.start.max(self.from).max(read_before);
            if info.checksum.is_none() || from >= info.range.end {
                (self.tensor, self.from) = (self.tensor + 1, 0);
                continue;
            }
            let start = from / CHUNK * CHUNK;
            let end = (start + CHUNK).min(self.set.versions[info.file].0);
            self.before = (info.file, end);
            self.from = end;
            return Some(Piece { file: info.file, range: start..end, of: () });
        }
    }
}
