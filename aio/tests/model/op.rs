//! An op with its places in the file, and how it ended.

use std::ops::Range;

use aio::error::OpError;
use aio::{AioFile, AioHandle, Error};

use crate::case::Op;
use crate::contents::Model;
use crate::support::{Memory, pattern};

/// What a vectored op owns.
pub(crate) type Buffers = Vec<(u64, Memory)>;

/// An op with its places in the file.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) op: Op,
    pub(crate) seed: u64,
    pub(crate) extents: Vec<Range<usize>>,
}

impl Placed {
    pub(crate) fn content(&self, extent: usize) -> Vec<u8> {
        pattern(self.seed * 100 + extent as u64 + 1, self.extents[extent].len())
    }

    pub(crate) fn memory(&self, aio: &AioHandle, extent: usize) -> Memory {
        let len = self.extents[extent].len();
        let mut memory = self.op.memory.memory(aio, len);
        match self.op.write {
            true => memory.bytes_mut().copy_from_slice(&self.content(extent)),
            false => memory.bytes_mut().fill(0xDB),
        }
        memory
    }

    pub(crate) fn buffers(&self, aio: &AioHandle) -> Buffers {
        let extents = self.extents.iter().enumerate();
        extents.map(|(index, range)| (range.start as u64, self.memory(aio, index))).collect()
    }

    pub(crate) fn file(&self, file: &AioFile) -> AioFile {
        let file = file.validated(self.op.validate);
        if self.op.background { file.background() } else { file }
    }

    /// How many bytes a read gets before the file ends, if it ends inside.
    pub(crate) fn eof(&self, len: usize) -> Option<u64> {
        let mut before = 0;
        for range in &self.extents {
            if !range.is_empty() && range.end > len {
                return Some(before + len.saturating_sub(range.start) as u64);
            }
            before += range.len() as u64;
        }
        None
    }

    pub(crate) fn ends_past(&self, len: usize) -> bool {
        self.extents.iter().any(|range| !range.is_empty() && range.end > len)
    }

    pub(crate) fn end(&self) -> usize {
        self.extents.iter().filter(|range| !range.is_empty()).map(|range| range.end).max().unwrap_or(0)
    }

    pub(crate) fn apply(&self, model: &mut Model) {
        for (index, range) in self.extents.iter().enumerate() {
            model.write(range.start, &self.content(index));
        }
    }
}

/// What became of an op.
#[derive(Debug)]
pub(crate) enum Ended {
    /// With the buffers that came back, for an op that gives them back.
    Ok(Option<Buffers>),
    Eof(u64, Option<Buffers>),
    Cancelled,
    /// The ticket was dropped.
    Unknown,
}

pub(crate) fn ended(result: Result<Buffers, OpError<Buffers>>) -> Ended {
    match result {
        Ok(buffers) => Ended::Ok(Some(buffers)),
        Err(failed) => {
            let (error, buffers) = failed.into_parts();
            assert!(buffers.is_some(), "no buffers with {error}");
            match error {
                Error::UnexpectedEof { read, .. } => Ended::Eof(read, buffers),
                Error::Cancelled { .. } => Ended::Cancelled,
                error => panic!("{error}"),
            }
        }
    }
}

pub(crate) fn blocking(result: aio::Result<()>) -> Ended {
    match result {
        Ok(()) => Ended::Ok(None),
        Err(Error::UnexpectedEof { read, .. }) => Ended::Eof(read, None),
        Err(error) => panic!("{error}"),
    }
}
