//! What users hold of an arena.
#![allow(unsafe_code)]

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;

use crate::backend::RegionId;
use crate::error::{Error, Result};
use crate::memory::arena::Inner;
use crate::memory::pool::{Piece, Purpose};
use crate::op::buf::{IoBuf, IoBufMut};
use crate::op::elements::{self, Pod};

/// Memory from an [`Arena`](super::Arena): page-aligned, in huge pages where the system has them, and in a region that
/// backends can register unless it is larger than 1 GiB.
///
/// It is a slice of initialised bytes. Dropping it gives the memory back to the arena, and calls the wakers of the
/// [futures](crate::buf::Arena::alloc_async) that it lets go ahead, on the thread that drops: not to be done with a
/// lock held that a waker takes.
///
/// ```
/// # fn main() -> aio::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("weights");
/// let aio = aio::builder().build()?;
/// let mut tensor = aio.alloc(4 * 1000)?; // bytes; what they hold is unspecified
/// tensor.as_mut_slice_of::<f32>()?.fill(0.5);
/// let mut tensor = aio.write_path(&path, tensor).wait()?;
///
/// tensor[..4].copy_from_slice(&[0; 4]);
/// tensor.set_len(4096)?; // up to the capacity, which is whole pages
/// tensor.truncate(4000);
/// let tensor = aio.read_path(&path, tensor).wait()?;
/// assert_eq!(tensor.as_slice_of::<f32>()?[0], 0.5);
/// # Ok(())
/// # }
/// ```
pub struct AlignedBuf {
    ptr: NonNull<u8>,
    len: usize,
    /// `None`: an empty buffer, which needs no memory.
    home: Option<Home>,
}

struct Home {
    shared: Arc<Inner>,
    piece: Piece,
}

// SAFETY: a buffer is the only owner of its piece of the mapping, as a Box is of its heap block; the pointer is what
// keeps this from being derived.
unsafe impl Send for AlignedBuf {}
// SAFETY: as above; a shared reference only reads.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// `len` is at most the piece's.
    pub(super) fn new(shared: Arc<Inner>, piece: Piece, len: usize) -> Self {
        debug_assert!(len <= piece.len());
        Self { ptr: piece.ptr(), len, home: Some(Home { shared, piece }) }
    }

    pub(super) fn empty(page: usize) -> Self {
        // Aligned like any other buffer, though there is nothing behind it.
        let ptr = NonNull::new(ptr::without_provenance_mut(page)).unwrap_or(NonNull::dangling());
        Self { ptr, len: 0, home: None }
    }

    pub(super) fn piece(&self) -> Option<&Piece> {
        self.home.as_ref().map(|home| &home.piece)
    }

    /// Whether others wait for its memory while they wait for room.
    pub(crate) fn is_within_limit(&self) -> bool {
        self.piece().is_some_and(|piece| piece.purpose() != Purpose::Beyond)
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that [`set_len`](Self::set_len) can make it: the length it was allocated with, rounded up to whole pages.
    pub fn capacity(&self) -> usize {
        self.piece().map_or(0, Piece::len)
    }

    /// Makes it `len` bytes long, shorter or longer. Bytes that appear hold unspecified values.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] if `len` is more than the capacity; nothing changes then.
    pub fn set_len(&mut self, len: usize) -> Result<()> {
        if len > self.capacity() {
            let capacity = self.capacity();
            return Err(Error::InvalidInput(format!("cannot make a buffer of {capacity} bytes {len} bytes long")));
        }
        self.len = len;
        Ok(())
    }

    /// Makes it at most `len` bytes long.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Its bytes as numbers, in the machine's byte order.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] if the length is no multiple of the number's size. (The alignment is that of a page.)
    pub fn as_slice_of<T: Pod>(&self) -> Result<&[T]> {
        elements::slice_of(self)
    }

    /// Its bytes as numbers, to be changed.
    ///
    /// # Errors
    ///
    /// As [`as_slice_of`](Self::as_slice_of).
    pub fn as_mut_slice_of<T: Pod>(&mut self) -> Result<&mut [T]> {
        elements::slice_of_mut(self)
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if let Some(Home { shared, piece }) = self.home.take() {
            shared.release(piece);
        }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `ptr` is the start of a piece of at least `len` bytes that `home` keeps mapped, initialised (zeroed by
        // the kernel, or written since) and out of every other buffer; with `len` 0 it is not null and aligned.
        unsafe { slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and `&mut self` excludes every other reference to the bytes.
        unsafe { slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for AlignedBuf {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

// SAFETY: the bytes are in a mapping that does not move with the value and lives as long; only `&mut` access changes
// them; the piece was cut out of the region that it names.
unsafe impl IoBuf for AlignedBuf {
    fn byte_ptr(&self) -> *const u8 {
        self.ptr.as_ptr()
    }

    fn byte_len(&self) -> usize {
        self.len
    }

    fn region(&self) -> Option<RegionId> {
        self.piece().and_then(Piece::region)
    }
}

// SAFETY: as above; u8 has no invalid values.
unsafe impl IoBufMut for AlignedBuf {
    fn byte_mut_ptr(&mut self) -> *mut u8 {
        self.ptr.as_ptr()
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlignedBuf")
            .field("ptr", &self.ptr)
            .field("len", &self.len)
            .field("capacity", &self.capacity())
            .field("region", &IoBuf::region(self))
            .finish()
    }
}
