//! Buffers in a mapping that the test keeps: a buffer that is dropped is filled with a pattern, and a byte of it that
//! changes later was written by an op that had no right to it.
#![allow(unreachable_pub, dead_code, reason = "each test file uses its part")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aio::buf::{IoBuf, IoBufMut};

const PAGE: usize = 4096;
/// What a buffer is filled with when it is dropped.
const RELEASED: u8 = 0xC5;

/// One mapping, cut into buffers.
pub struct Watched(Arc<Mapping>);

#[derive(Debug)]
struct Mapping {
    ptr: *mut u8,
    len: usize,
    each: usize,
    shift: usize,
    drops: Vec<AtomicUsize>,
}

// SAFETY: each buffer's part is used by that buffer alone until it is dropped, and only read by the test afterwards.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Watched {
    /// `count` buffers of `each` bytes, each `shift` bytes behind a page boundary.
    pub fn new(count: usize, each: usize, shift: usize) -> Self {
        let len = count * (each + PAGE);
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let ptr = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        assert_ne!(ptr, libc::MAP_FAILED);
        let drops = (0..count).map(|_| AtomicUsize::new(0)).collect();
        Self(Arc::new(Mapping { ptr: ptr.cast(), len, each, shift, drops }))
    }

    pub fn buffer(&self, index: usize) -> WatchedBuffer {
        WatchedBuffer { mapping: self.0.clone(), index }
    }

    pub fn buffers(&self) -> impl Iterator<Item = WatchedBuffer> + '_ {
        (0..self.0.drops.len()).map(|index| self.buffer(index))
    }

    pub fn dropped(&self) -> usize {
        self.0.drops.iter().map(|drops| drops.load(Ordering::SeqCst)).sum()
    }

    /// Each buffer was dropped once, and none was touched since.
    #[track_caller]
    pub fn assert_released(&self) {
        for (index, drops) in self.0.drops.iter().enumerate() {
            assert_eq!(drops.load(Ordering::SeqCst), 1, "buffer {index}");
            // SAFETY: in the mapping, and its buffer is gone.
            let bytes = unsafe { std::slice::from_raw_parts(self.0.at(index), self.0.each) };
            assert!(bytes.iter().all(|byte| *byte == RELEASED), "buffer {index} was touched after its release");
        }
    }
}

impl Mapping {
    fn at(&self, index: usize) -> *mut u8 {
        self.ptr.wrapping_add(index * (self.each + PAGE) + self.shift)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and no buffer is left.
        unsafe { libc::munmap(self.ptr.cast(), self.len) };
    }
}

#[derive(Debug)]
pub struct WatchedBuffer {
    mapping: Arc<Mapping>,
    index: usize,
}

impl WatchedBuffer {
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: this buffer's part of the mapping, borrowed as long as the buffer is.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.at(self.index), self.mapping.each) }
    }
}

impl Drop for WatchedBuffer {
    fn drop(&mut self) {
        self.bytes().fill(RELEASED);
        self.mapping.drops[self.index].fetch_add(1, Ordering::SeqCst);
    }
}

// SAFETY: the part of the mapping does not move, and no other buffer has it while this one lives.
unsafe impl IoBuf for WatchedBuffer {
    fn byte_ptr(&self) -> *const u8 {
        self.mapping.at(self.index)
    }

    fn byte_len(&self) -> usize {
        self.mapping.each
    }
}

// SAFETY: the same address, and u8 has no invalid values.
unsafe impl IoBufMut for WatchedBuffer {
    fn byte_mut_ptr(&mut self) -> *mut u8 {
        self.mapping.at(self.index)
    }
}
