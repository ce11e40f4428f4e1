//! The descriptors of ops on ordinary memory: owned or borrowed buffers, and raw pointers.
#![allow(unsafe_code)]

use std::path::PathBuf;
use std::ptr::NonNull;

use smallvec::{SmallVec, smallvec};

use crate::backend::Direction;
use crate::foreign::report_drop;
use crate::op::buf::{IoBuf, IoBufMut};
use crate::op::desc::{Extent, ExtentMemory, IoOpDesc, Outcome, Target};
use crate::op::lent::Lent;

/// A descriptor that owns what the ticket of its op gives back.
pub(crate) trait Owner<T> {
    fn give_back(&self) -> Option<T>;
}

/// An op that owns its memory, as a buffer or as a list of extents with a buffer each.
pub(crate) struct Owned<T> {
    direction: Direction,
    target: Target,
    extents: SmallVec<[Extent; 1]>,
    value: Lent<T>,
    validate: bool,
    /// What it owns is borrowed, and must be gone when the op ends rather than when its ticket does.
    scoped: bool,
}

impl<B: IoBufMut> Owned<B> {
    /// A read into `buffer`.
    pub(crate) fn read(target: Target, buffer: B, offset: u64) -> Self {
        Self::new(Direction::Read, target, buffer, |buffer| smallvec![extent_mut(buffer, offset)])
    }
}

impl<B: IoBuf> Owned<B> {
    /// A write from `buffer`.
    pub(crate) fn write(target: Target, buffer: B, offset: u64) -> Self {
        Self::new(Direction::Write, target, buffer, |buffer| smallvec![extent(buffer, offset)])
    }
}

impl<B: IoBufMut> Owned<Vec<(u64, B)>> {
    /// A read of many extents.
    pub(crate) fn read_vectored(target: Target, extents: Vec<(u64, B)>) -> Self {
        Self::new(Direction::Read, target, extents, |extents| {
            extents.iter_mut().map(|(offset, buffer)| extent_mut(buffer, *offset)).collect()
        })
    }
}

impl<B: IoBuf> Owned<Vec<(u64, B)>> {
    /// A write of many extents.
    pub(crate) fn write_vectored(target: Target, extents: Vec<(u64, B)>) -> Self {
        Self::new(Direction::Write, target, extents, |extents| {
            extents.iter().map(|(offset, buffer)| extent(buffer, *offset)).collect()
        })
    }
}

impl<T> Owned<T> {
    fn new(
        direction: Direction,
        target: Target,
        value: T,
        extents: impl FnOnce(&mut T) -> SmallVec<[Extent; 1]>,
    ) -> Self {
        let (value, extents) = Lent::new(value, extents);
        Self { direction, target, extents, value, validate: false, scoped: false }
    }

    pub(crate) fn validated(mut self, validate: bool) -> Self {
        self.validate = validate;
        self
    }

    pub(crate) fn scoped(mut self) -> Self {
        self.scoped = true;
        self
    }
}

fn extent_mut<B: IoBufMut>(buffer: &mut B, offset: u64) -> Extent {
    let (len, region) = (buffer.byte_len(), buffer.region());
    Extent { offset, len, memory: NonNull::new(buffer.byte_mut_ptr()).map(|ptr| ExtentMemory { ptr, region }) }
}

fn extent<B: IoBuf>(buffer: &B, offset: u64) -> Extent {
    // Never written through: the direction is a write to the file.
    let ptr = NonNull::new(buffer.byte_ptr().cast_mut());
    Extent { offset, len: buffer.byte_len(), memory: ptr.map(|ptr| ExtentMemory { ptr, region: buffer.region() }) }
}

// SAFETY: the fields do not change after construction, so the getters are constant. The extents name memory of
// `value`, whose `IoBuf` promise is that it stays put and unchanged while the value is kept; it is kept in `value`
// until `fini` (scoped) or until the ticket takes it after the op has ended, and an op that is lost is leaked whole.
unsafe impl<T: Send> IoOpDesc for Owned<T> {
    fn direction(&self) -> Direction {
        self.direction
    }

    fn target(&self) -> &Target {
        &self.target
    }

    fn extents(&self) -> &[Extent] {
        &self.extents
    }

    fn validate(&self) -> bool {
        self.validate
    }

    fn fini(&self, _outcome: &Outcome) {
        if self.scoped {
            report_drop(self.value.take());
        }
    }
}

impl<T: Send> Owner<T> for Owned<T> {
    fn give_back(&self) -> Option<T> {
        self.value.take()
    }
}

/// An op on memory that the caller vouches for, for callers that cannot give an owner: FFI above all.
///
/// ```
/// use aio::op::{Direction, RawOp};
///
/// # fn main() -> aio::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("weights");
/// # std::fs::write(&path, [7; 4096]).unwrap();
/// let aio = aio::builder().build()?;
/// let file = aio.open(&path)?;
/// let memory: &mut [u8] = vec![0; 4096].leak(); // such as another library's
/// let op = RawOp::new(Direction::Read, file.target(), 0, memory.as_mut_ptr(), memory.len());
/// // SAFETY: the memory is valid for ever, and not used before the op has ended.
/// unsafe { aio.submit_raw(op) }.wait()?;
/// assert!(memory.iter().all(|byte| *byte == 7));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct RawOp {
    /// Which way.
    pub direction: Direction,
    /// The file.
    pub target: Target,
    /// Byte ranges of the file and their memory. Of a read, they share no memory.
    pub extents: Vec<Extent>,
    /// Read back and compare.
    pub validate: bool,
}

impl RawOp {
    /// One range of an op on `target`.
    pub fn new(direction: Direction, target: Target, offset: u64, ptr: *mut u8, len: usize) -> Self {
        let memory = NonNull::new(ptr).map(|ptr| ExtentMemory { ptr, region: None });
        Self { direction, target, extents: vec![Extent { offset, len, memory }], validate: false }
    }

    /// An op on the file at `path`, from its first byte, which the engine opens.
    pub fn on_path(
        direction: Direction,
        path: impl Into<PathBuf>,
        mode: crate::op::PathMode,
        ptr: *mut u8,
        len: usize,
    ) -> Self {
        Self::new(direction, Target::Path(path.into(), mode), 0, ptr, len)
    }
}

/// A [`RawOp`] whose maker has promised what `AioHandle::submit_raw` asks for.
pub(crate) struct AssertValid(pub(crate) RawOp);

// SAFETY: the fields do not change, and the maker of the value promised that the memory is good until the op has
// ended (the contract of `AioHandle::submit_raw`).
unsafe impl IoOpDesc for AssertValid {
    fn direction(&self) -> Direction {
        self.0.direction
    }

    fn target(&self) -> &Target {
        &self.0.target
    }

    fn extents(&self) -> &[Extent] {
        &self.0.extents
    }

    fn validate(&self) -> bool {
        self.0.validate
    }
}

impl Owner<()> for AssertValid {
    fn give_back(&self) -> Option<()> {
        Some(())
    }
}

/// A descriptor of the user's own; its ticket gives nothing back, `fini` publishes the result.
pub(crate) struct Custom<D>(pub(crate) D);

// SAFETY: forwards everything to the user's descriptor, which made the promise.
unsafe impl<D: IoOpDesc> IoOpDesc for Custom<D> {
    fn direction(&self) -> Direction {
        self.0.direction()
    }

    fn target(&self) -> &Target {
        self.0.target()
    }

    fn extents(&self) -> &[Extent] {
        self.0.extents()
    }

    fn gather(&self, extent: usize, at: usize, into: &mut [std::mem::MaybeUninit<u8>]) {
        self.0.gather(extent, at, into);
    }

    fn scatter(&self, extent: usize, at: usize, from: &[u8]) {
        self.0.scatter(extent, at, from);
    }

    fn validate(&self) -> bool {
        self.0.validate()
    }

    fn fini(&self, outcome: &Outcome) {
        self.0.fini(outcome);
    }
}

impl<D: IoOpDesc> Owner<()> for Custom<D> {
    fn give_back(&self) -> Option<()> {
        Some(())
    }
}
