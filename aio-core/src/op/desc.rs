//! Op descriptors: what one op moves, and what happens around the move.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use crate::backend::{Direction, RegionId};
use crate::error::Error;
use crate::file::OpenFile;

/// How an op ended: the bytes it moved, which are all of them, or why not.
pub type Outcome = Result<u64, Error>;

/// Describes one op to the engine: direction, file, extents with their memory, and the callbacks around the transfer.
///
/// Buffers, vectors of buffers and raw pointers come with descriptors of their own; implement this for memory of
/// another kind, such as a tensor on a device, and hand it to [`AioHandle::submit`](crate::AioHandle::submit).
///
/// The callbacks run on threads of the engine with no lock held. A panic in one fails this op alone.
///
/// ```
/// use std::ptr::NonNull;
/// use std::sync::Arc;
///
/// use aio::op::{Direction, Extent, ExtentMemory, IoOpDesc, Outcome, Target};
///
/// /// A type of the program's own, which knows nothing of I/O.
/// struct Tensor {
///     name: String,
///     weights: Vec<f32>,
/// }
///
/// /// Saves a tensor that the program goes on using.
/// struct Save {
///     tensor: Arc<Tensor>,
///     target: Target,
///     extents: [Extent; 1],
/// }
///
/// impl Save {
///     fn new(tensor: Arc<Tensor>, target: Target, offset: u64) -> Self {
///         let ptr = NonNull::from(&tensor.weights[..]).cast();
///         let memory = Some(ExtentMemory { ptr, region: None });
///         let extents = [Extent { offset, len: size_of_val(&tensor.weights[..]), memory }];
///         Self { tensor, target, extents }
///     }
/// }
///
/// // SAFETY: the fields never change. The descriptor outlives `fini`, and its `Arc` keeps the weights where they are
/// // and as they are; the op only reads them, and floats have no padding.
/// unsafe impl IoOpDesc for Save {
///     fn direction(&self) -> Direction {
///         Direction::Write
///     }
///
///     fn target(&self) -> &Target {
///         &self.target
///     }
///
///     fn extents(&self) -> &[Extent] {
///         &self.extents
///     }
///
///     fn fini(&self, outcome: &Outcome) {
///         match outcome {
///             Ok(bytes) => println!("{}: {bytes} bytes", self.tensor.name),
///             Err(error) => eprintln!("{}: {error}", self.tensor.name),
///         }
///     }
/// }
///
/// # fn main() -> aio::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("embedding");
/// let aio = aio::builder().build()?;
/// let file = aio.create(&path)?;
/// let tensor = Arc::new(Tensor { name: "embedding".to_owned(), weights: vec![0.5; 10_000] });
/// let saved = aio.submit(Save::new(tensor.clone(), file.target(), 0));
/// assert_eq!(tensor.weights[7], 0.5); // meanwhile
/// saved.wait()?;
/// # assert_eq!(file.len()?, 40_000);
/// # Ok(())
/// # }
/// ```
///
/// # Safety
///
/// - Every getter answers the same on every call.
/// - Memory that an extent names is valid until [`fini`](Self::fini) has returned or, if `fini` is never called, for
///   ever: for writes of any byte values when the direction is [`Direction::Read`], else for reads, and
///   nothing changes it meanwhile. The engine does not touch it after `fini`. The bytes are initialised.
/// - Extents of a read share no memory: workers and the kernel write to them at the same time.
/// - A [`Region`](crate::backend::Region) that an extent's memory names contains all of it.
/// - [`gather`](Self::gather) initialises every byte of `into`, unless it panics. It is also called for reads that are
///   [validated](Self::validate).
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not describe an op",
    label = "not an `IoOpDesc`",
    note = "buffers go to `AioFile::read` and `AioFile::write`, borrowed memory to `AioHandle::scope`, raw pointers to \
            `AioHandle::submit_raw`"
)]
pub unsafe trait IoOpDesc: Send + Sync {
    /// Which way bytes move.
    fn direction(&self) -> Direction;

    /// The file.
    fn target(&self) -> &Target;

    /// The byte ranges of the file, each with its own memory. Any number, of any length; an op is refused with
    /// [`Error::InvalidInput`] if one of them ends past 2^63 - 1 or all of them are longer together than 2^64 - 1
    /// bytes.
    fn extents(&self) -> &[Extent];

    /// Copies memory into staging: bytes `at..at + into.len()` of an extent, all of which must be written. Called by
    /// several workers at once, with disjoint ranges but for those that are tried again. The default copies from the
    /// extent's memory; with an extent that has none, it panics, which fails the op.
    fn gather(&self, extent: usize, at: usize, into: &mut [MaybeUninit<u8>]) {
        let Some(memory) = self.extents()[extent].memory else { panic!("an extent without memory needs `gather`") };
        // SAFETY: the implementor vouches for `len` bytes from `ptr` (trait contract), and the engine asks for ranges
        // inside the extent only; staging memory is the engine's own, so the two do not overlap.
        unsafe { copy(memory.ptr.as_ptr().add(at), into.as_mut_ptr().cast::<u8>(), into.len()) }
    }

    /// Copies staging into memory: `from` are the bytes from `at` of an extent. Called with disjoint ranges, by
    /// several workers at once. The default copies to the extent's memory.
    fn scatter(&self, extent: usize, at: usize, from: &[u8]) {
        let Some(memory) = self.extents()[extent].memory else { panic!("an extent without memory needs `scatter`") };
        // SAFETY: as for `gather`; the memory of a read is valid for writes, and no other worker has this range.
        unsafe { copy(from.as_ptr(), memory.ptr.as_ptr().add(at), from.len()) }
    }

    /// Whether to read every block back and compare.
    fn validate(&self) -> bool {
        false
    }

    /// Called once, when the op has ended and the engine is done with the memory: release it, publish the result.
    /// Must not wait for I/O of the same handle, nor for a write, by any handle, to a file that this handle writes.
    /// One that waits for other I/O holds up its own handle meanwhile; callbacks of two handles that wait for each
    /// other wait for ever.
    fn fini(&self, outcome: &Outcome) {
        let _ = outcome;
    }
}

/// Bytes copied at a time: fewer than those from which the C library's `memcpy` on x86-64 uses `rep movsb`, which is
/// slow where the addresses differ modulo 64, as they do when memory needs staging (docs/performance.md).
const COPY: usize = 512;

/// Copies memory in small pieces.
///
/// # Safety
///
/// As for [`std::ptr::copy_nonoverlapping`].
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    for at in (0..len).step_by(COPY) {
        // SAFETY: `at` is below `len`, so the piece lies within what the caller vouches for.
        unsafe { std::ptr::copy_nonoverlapping(from.add(at), to.add(at), COPY.min(len - at)) }
    }
}

/// The file of an op.
#[derive(Debug, Clone)]
pub enum Target {
    /// An open file; see [`AioFile::target`](crate::AioFile::target).
    File(OpenFile),
    /// A path that is opened when the op begins, and closes when the op has ended.
    Path(PathBuf, PathMode),
}

impl Target {
    pub(crate) fn at(path: impl AsRef<Path>, mode: PathMode) -> Self {
        Self::Path(path.as_ref().to_owned(), mode)
    }
}

/// How the path of an op is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathMode {
    /// An existing file, to be read.
    Read,
    /// A file that must not exist yet. If the op fails, the file is removed again.
    WriteNew,
    /// A file that is made if it does not exist. It ends where the op's last extent ends: what was longer is cut.
    Write,
}

/// One byte range of a file and the memory that belongs to it.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// First byte in the file.
    pub offset: u64,
    /// Bytes. May be 0.
    pub len: usize,
    /// Where the bytes are in memory; `None` sends them through staging with `gather` and `scatter`.
    pub memory: Option<ExtentMemory>,
}

/// Memory of an extent.
#[derive(Debug, Clone, Copy)]
pub struct ExtentMemory {
    /// First byte.
    pub ptr: NonNull<u8>,
    /// The arena region that contains all of it, if there is one.
    pub region: Option<RegionId>,
}

// SAFETY: an address and an id; the code that dereferences the address does so under the contract of `IoOpDesc`,
// which allows any thread.
unsafe impl Send for ExtentMemory {}
// SAFETY: as above; nothing is changed through a shared reference.
unsafe impl Sync for ExtentMemory {}

impl ExtentMemory {
    /// The memory `bytes` further on.
    pub(crate) fn advance(self, bytes: usize) -> Self {
        // Wrapping, because an address past the extent is never used; the planner stays inside.
        let ptr = NonNull::new(self.ptr.as_ptr().wrapping_add(bytes)).unwrap_or(self.ptr);
        Self { ptr, region: self.region }
    }

    /// The address, for alignment checks.
    pub(crate) fn address(self) -> usize {
        self.ptr.as_ptr().addr()
    }
}
