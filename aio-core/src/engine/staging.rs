//! Memory that blocks pass through when the user's own cannot be transferred directly.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use crate::arena::{AlignedBuf, Arena};

/// A worker's staging buffers, each one block long. Made when needed, at most one per block in flight, and reused.
#[derive(Debug)]
pub(crate) struct Staging {
    arena: Arena,
    size: usize,
    left: usize,
    free: Vec<AlignedBuf>,
}

impl Staging {
    pub(crate) fn new(arena: Arena, size: usize, most: usize) -> Self {
        Self { arena, size, left: most, free: Vec::new() }
    }

    /// A buffer of at least `len` bytes, if one can be had. Blocks longer than a staging buffer (the file system's
    /// units are larger than `block_size`) make the buffers longer.
    pub(crate) fn take(&mut self, len: usize) -> Option<AlignedBuf> {
        if len > self.size {
            self.size = len;
            self.left += self.free.len();
            self.free.clear();
        }
        if let Some(buffer) = self.free.pop() {
            return Some(buffer);
        }
        if self.left == 0 {
            return None;
        }
        let buffer = self.arena.alloc_unlimited(self.size).ok()?;
        self.left -= 1;
        Some(buffer)
    }

    /// Takes a buffer back.
    pub(crate) fn give(&mut self, buffer: AlignedBuf) {
        if buffer.len() == self.size {
            self.free.push(buffer);
        } else {
            self.left += 1;
        }
    }
}

/// The same bytes, to be overwritten.
pub(crate) fn as_uninit(bytes: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    // SAFETY: the layout is the same, and the borrow stays exclusive. A `MaybeUninit` could be left uninitialised;
    // only `IoOpDesc::gather` gets this slice, and its contract is to write every byte of it.
    unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len()) }
}
