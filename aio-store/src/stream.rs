//! Tensors one after the other, read in few large ops ahead of the consumer.

use std::ops::Range;
use std::sync::Arc;

use aio_core::buf::AlignedBuf;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::Result;
use crate::memory::Tensor;
use crate::read_ahead::{Piece, ReadAhead};
use crate::set::{CHUNK, Set, TensorInfo};

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
    pub(crate) fn new(set: &'m Set, verifies: bool, sections: Sections<'m>, budget: u64) -> Self {
        Self { set, verifies, sections: set.read_ahead(sections, budget), section: None }
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
#[derive(Debug, Clone)]
pub(crate) struct Sections<'m> {
    set: &'m Set,
    /// Those that are left.
    tensors: Range<usize>,
    /// Bytes of tensors that are read together, now and in the end: the device is not to wait until much memory is
    /// there.
    now: u64,
    most: u64,
    /// It gives one section of so many, and passes over so many before.
    of: usize,
    pass: usize,
}

impl<'m> Sections<'m> {
    pub(crate) fn new(set: &'m Set, tensors: Range<usize>, most: u64) -> Self {
        Self { set, tensors, now: CHUNK.min(most), most, of: 1, pass: 0 }
    }

    /// The sections of one thread of several, from 0.
    pub(crate) fn of_thread(self, thread: usize, threads: usize) -> Self {
        Self { of: threads, pass: thread, ..self }
    }

    fn cut(&mut self) -> Option<Piece<Range<usize>>> {
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
                && end - range.start <= self.now;
            if !fits {
                break;
            }
            range.end = range.end.max(end);
            self.tensors.start += 1;
        }
        if is_aligned {
            range = self.set.whole_units(first.file, range);
        }
        self.now = (self.now * 2).min(self.most);
        Some(Piece { file: first.file, range, of: begin..self.tensors.start })
    }
}

impl Iterator for Sections<'_> {
    /// Of which tensors.
    type Item = Piece<Range<usize>>;

    fn next(&mut self) -> Option<Self::Item> {
        for _ in 0..std::mem::replace(&mut self.pass, self.of - 1) {
            self.cut()?;
        }
        self.cut()
    }
}
