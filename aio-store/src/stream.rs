//! Tensors one after the other, read in few large ops ahead of the consumer.

use std::ops::Range;
use std::sync::Arc;

use aio_core::buf::AlignedBuf;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::Result;
use crate::memory::Tensor;
use crate::read_ahead::{Piece, ReadAhead};
use crate::set::{Set, TensorInfo};

/// The tensors of [`SafeTensors::stream`](crate::SafeTensors::stream).
#[derive(Debug)]
pub struct Stream<'m> {
    set: &'m Set,
    verifies: bool,
    sections: ReadAhead<'m, Range<usize>, Sections<'m>>,
    /// What was read, from which byte of its file, and the tensors in it that are left.
    section: Option<(Arc<AlignedBuf>, u64, Range<usize>)>,
}

impl<'m> Stream<'m> {
    /// `most`: bytes of tensors that are read together.
    pub(crate) fn new(set: &'m Set, verifies: bool, tensors: Range<usize>, most: u64, budget: u64) -> Self {
        let sections = set.read_ahead(Sections { set, tensors, most }, budget);
        Self { set, verifies, sections, section: None }
    }

    fn step(&mut self) -> Result<Option<(&'m TensorInfo, Tensor)>> {
        loop {
            if let Some((memory, start, left)) = &mut self.section
                && let Some(index) = left.next()
            {
                let info = &self.set.tensors[index];
                let range = (info.range.start - *start) as usize..(info.range.end - *start) as usize;
                let tensor = Tensor::new(info.dtype, info.shape.clone(), memory.clone(), range);
                if self.verifies {
                    self.set.compare(info, xxh3_64(tensor.bytes()))?;
                }
                return Ok(Some((info, tensor)));
            }
            self.section = None;
            let Some(read) = self.sections.next() else { return Ok(None) };
            let (piece, memory) = read?;
            self.set.check_unchanged(piece.file)?;
            self.section = Some((Arc::new(memory), piece.range.start, piece.of));
        }
    }
}

impl<'m> Iterator for Stream<'m> {
    type Item = Result<(&'m TensorInfo, Tensor)>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step().transpose();
        if let Some(Err(_)) = &step {
            self.section = None;
            self.sections.stop();
        }
        step
    }
}

/// Cuts tensors that lie beside each other into what is read as one.
#[derive(Debug)]
struct Sections<'m> {
    set: &'m Set,
    /// Those that are left.
    tensors: Range<usize>,
    most: u64,
}

impl Iterator for Sections<'_> {
    /// Of which tensors.
    type Item = Piece<Range<usize>>;

    fn next(&mut self) -> Option<Self::Item> {
        let begin = self.tensors.next()?;
        let first = &self.set.tensors[begin];
        let mut range = first.range();
        // Of a file whose tensors begin anywhere, memory begins at the first, and all of it is copied on its way.
        let is_aligned = range.start.is_multiple_of(first.alignment());
        if is_aligned {
            range = self.set.whole_units(first.file, range);
        }
        while let Some(next) = self.set.tensors.get(self.tensors.start).filter(|_| !self.tensors.is_empty()) {
            let end = next.range.end;
            let fits = next.file == first.file
                && (next.range.start - range.start).is_multiple_of(next.alignment())
                && end - range.start <= self.most;
            if !fits {
                break;
            }
            range.end = range.end.max(end);
            self.tensors.start += 1;
        }
        if is_aligned {
            range = self.set.whole_units(first.file, range);
        }
        Some(Piece { file: first.file, range, of: begin..self.tensors.start })
    }
}
