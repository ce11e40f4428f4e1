//! Memory that blocks pass through when the user's own cannot be transferred directly, and the copies between the two.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use crate::backend::Direction;
use crate::engine::in_flight::PendingBlock;
use crate::engine::transfer::Transfer;
use crate::error::Error;
use crate::memory::{AlignedBuf, Arena};
use crate::op::plan::{BlockRange, Segment};

/// So many buffers in use keep a device busy, since a worker copies little between two submissions.
const ENOUGH: usize = 8;

/// Staging buffers of one user, each one block long. Made when needed and reused.
#[derive(Debug)]
pub(crate) struct Staging {
    arena: Arena,
    size: usize,
    /// How many there are.
    made: usize,
    /// How many there may be, and how many of these may go beyond the arena's limit.
    most: usize,
    beyond: usize,
    free: Vec<AlignedBuf>,
}

impl Staging {
    /// At most `most` buffers of `size` bytes; the first `beyond` can be had even while users' buffers leave no room.
    pub(crate) fn new(arena: Arena, size: usize, most: usize, beyond: usize) -> Self {
        Self { arena, size, made: 0, most, beyond, free: Vec::new() }
    }

    /// Whether so many buffers are in use that a block that could do without one waits for one of them: more would be
    /// mapped, and faster by nothing.
    pub(crate) fn has_enough(&self) -> bool {
        self.made - self.free.len() >= ENOUGH
    }

    /// A buffer for a block that could do without, never beyond the arena's limit.
    pub(crate) fn take_spare(&mut self, len: usize) -> Option<AlignedBuf> {
        self.take_with(len, 0)
    }

    /// A buffer of at least `len` bytes, if one can be had. Blocks longer than a staging buffer (the file system's
    /// units are larger than `block_size`) make the buffers longer.
    pub(crate) fn take(&mut self, len: usize) -> Option<AlignedBuf> {
        self.take_with(len, self.beyond)
    }

    fn take_with(&mut self, len: usize, beyond: usize) -> Option<AlignedBuf> {
        if len > self.size {
            self.size = len;
            self.give_back_unused();
        }
        if let Some(buffer) = self.free.pop() {
            return Some(buffer);
        }
        if self.made >= self.most {
            return None;
        }
        let buffer = self.arena.alloc_staging(self.size, self.made < beyond)?;
        self.made += 1;
        Some(buffer)
    }

    /// Takes a buffer back.
    pub(crate) fn give(&mut self, buffer: AlignedBuf) {
        let is_wanted = buffer.is_within_limit() && self.arena.is_waited_for();
        if buffer.len() == self.size && !is_wanted {
            self.free.push(buffer);
        } else {
            self.made -= 1;
        }
    }

    /// Gives the buffers that are not in use back to the arena.
    pub(crate) fn give_back_unused(&mut self) {
        self.made -= self.free.len();
        self.free.clear();
    }
}

/// The same bytes, to be overwritten.
pub(crate) fn as_uninit(bytes: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    // SAFETY: the layout is the same, and the borrow stays exclusive. A `MaybeUninit` could be left uninitialised;
    // only `IoOpDesc::gather` gets this slice, and its contract is to write every byte of it.
    unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len()) }
}

/// Bytes compared at a time.
const COMPARE: usize = 64 << 10;

/// Copies the bytes of a block that is to be written from the op's memory into its staging buffer.
pub(super) fn fill(
    op: &Transfer,
    segment: &Segment,
    range: BlockRange,
    buffer: &mut AlignedBuf,
) -> Result<(), Error> {
    let (into, at) = (as_uninit(&mut buffer[..range.len]), segment.at + range.from);
    op.call("gather", |desc| desc.gather(segment.extent, at, into))
}

/// Brings what has arrived of a block in its staging buffer, if it has one, to where it belongs.
#[inline]
pub(super) fn deliver(op: &Transfer, block: &PendingBlock) -> Result<(), Error> {
    let Some(buffer) = &block.staging else { return Ok(()) };
    let Some(segment) = op.state.plan().and_then(|plan| plan.segments.get(block.range.segment)) else {
        return Ok(());
    };
    let (from, at) = (&buffer[..block.done()], segment.at + block.range.from);
    if op.state.is_verifying() {
        compare(op, segment, at, from)
    } else if block.piece.direction == Direction::Read {
        op.call("scatter", |desc| desc.scatter(segment.extent, at, from))
    } else {
        Ok(())
    }
}

/// Compares what came back with the op's memory.
fn compare(op: &Transfer, segment: &Segment, at: usize, from: &[u8]) -> Result<(), Error> {
    let mut expected = vec![0u8; COMPARE.min(from.len())];
    for (index, chunk) in from.chunks(COMPARE).enumerate() {
        let expected = &mut expected[..chunk.len()];
        let at = at + index * COMPARE;
        op.call("gather", |desc| desc.gather(segment.extent, at, as_uninit(expected)))?;
        if let Some(differs) = expected.iter().zip(chunk).position(|(expected, found)| expected != found) {
            let offset = segment.offset + (at - segment.at + differs) as u64;
            let written = op.desc.direction() == Direction::Write;
            return Err(Error::Mismatch { path: op.path().to_owned(), offset, written });
        }
    }
    Ok(())
}
