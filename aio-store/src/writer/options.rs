//! How tensors are saved, and saves of all of them at once.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use aio_core::AioHandle;
use safetensors::Dtype;

use super::{Writer, not_saved};
use crate::error::Result;
use crate::memory::TensorView;

/// The most threads that copy and hash for [`SaveOptions::save`].
const THREADS: usize = 4;
/// The most bytes of tensors in one file of several.
const SHARD: u64 = 5_000_000_000;

/// Saves tensors with the defaults of [`SaveOptions`]: durable when it returns, with checksums.
///
/// ```
/// use aio::tensor::{TensorView, save};
///
/// # fn main() -> aio::tensor::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("model.safetensors");
/// let aio = aio::builder().build()?;
/// let (weight, bias) = (vec![0.5f32; 768 * 4], vec![0u8; 768 * 2]);
/// save(&aio, &path, [
///     ("fc.weight", TensorView::of([768, 4], &weight)?),
///     ("fc.bias", TensorView::new(aio::tensor::Dtype::BF16, [768], &bias)?),
/// ])?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// As [`SaveOptions::save`].
pub fn save<'a, N: Into<String>, V: Into<TensorView<'a>>>(
    aio: &AioHandle,
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = (N, V)>,
) -> Result<()> {
    SaveOptions::new().save(aio, path, tensors)
}

/// How tensors are saved.
#[derive(Debug, Clone)]
pub struct SaveOptions {
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) durable: bool,
    pub(super) checksums: bool,
    pub(super) max_shard_size: u64,
}

impl Default for SaveOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl SaveOptions {
    /// Durable, with checksums, shards of at most 5 GB.
    pub fn new() -> Self {
        Self { metadata: BTreeMap::new(), durable: true, checksums: true, max_shard_size: SHARD }
    }

    /// Adds an entry to the metadata. accelerate and transformers ask for `format`, which is `pt` for tensors of torch.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Whether the save returns only when all of it, names included, is on the device. Otherwise nothing is synced, and
    /// a power failure may leave the old file, the new one, or what the file system made of it.
    #[must_use]
    pub fn durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// Whether the XXH3-64 of each tensor is saved in the metadata, for [`SafeTensors::verify`](crate::SafeTensors::verify).
    #[must_use]
    pub fn checksums(mut self, checksums: bool) -> Self {
        self.checksums = checksums;
        self
    }

    /// The most bytes of tensors in a file, where there are several; a larger tensor has a file of its own. A save has all
    /// of its files open at once, up to five descriptors each: see `ulimit -n`.
    #[must_use]
    pub fn max_shard_size(mut self, bytes: u64) -> Self {
        self.max_shard_size = bytes;
        self
    }

    /// Saves tensors to the file `path`; to several files and an index if `path` is that of an index,
    /// `NAME.safetensors.index.json`.
    ///
    /// See [`begin`](Self::begin) for what is where. It takes 64 MiB of the handle's arena, and up to four threads that
    /// copy and hash.
    ///
    /// # Errors
    ///
    /// [`Error::NotSaved`](crate::Error::NotSaved) with the reason, in which case what was there before is as it was, or
    /// [`Error::NotDurable`](crate::Error::NotDurable).
    pub fn save<'a, N: Into<String>, V: Into<TensorView<'a>>>(
        &self,
        aio: &AioHandle,
        path: impl AsRef<Path>,
        tensors: impl IntoIterator<Item = (N, V)>,
    ) -> Result<()> {
        let tensors: Vec<(String, TensorView<'a>)> =
            tensors.into_iter().map(|(name, view)| (name.into(), view.into())).collect();
        let specs = tensors.iter().map(|(name, view)| TensorSpec::new(name.clone(), view.dtype, view.shape.clone()));
        let writer = self.begin(aio, path, specs)?;
        // In the order of the files, so that blocks fill one after the other.
        let mut order: Vec<_> = (0..tensors.len()).collect();
        order.sort_by_key(|tensor| (writer.tensors[*tensor].file, writer.tensors[*tensor].range.start));
        let next = AtomicUsize::new(0);
        let write = || {
            while let Some(tensor) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                writer.write_part(*tensor, 0, tensors[*tensor].1.memory)?;
            }
            Ok(())
        };
        let threads =
            thread::available_parallelism().map_or(1, usize::from).div_ceil(2).min(THREADS).min(order.len());
        let written: Result<()> = thread::scope(|scope| {
            // A thread that cannot be had is done without.
            let others: Vec<_> =
                (1..threads).map_while(|_| thread::Builder::new().spawn_scoped(scope, write).ok()).collect();
            let own = write();
            let join = |other: thread::ScopedJoinHandle<'_, Result<()>>| {
                other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            others.into_iter().map(join).fold(own, Result::and)
        });
        written.map_err(|error| writer.not_saved(error))?;
        writer.finish()
    }

    /// Begins to save tensors whose bytes come later.
    ///
    /// In a file they lie by falling size of element, and else in the order given, so that each begins at a multiple of
    /// its element's size. The first begins at a multiple of 4096. The whole space is allocated at once, so a full disk
    /// is found here.
    ///
    /// Of an index, `NAME.safetensors.index.json`, the files are `NAME-00001-of-00003.safetensors` and so on, or with
    /// another word after `NAME` where the index or such files are there already: the old ones are in use until the
    /// index is replaced, in one step. After that all files `NAME-..-of-..` that an index was there for are removed.
    ///
    /// # Errors
    ///
    /// [`Error::NotSaved`](crate::Error::NotSaved).
    pub fn begin(
        &self,
        aio: &AioHandle,
        path: impl AsRef<Path>,
        tensors: impl IntoIterator<Item = TensorSpec>,
    ) -> Result<Writer> {
        let path = path.as_ref();
        Writer::begin(aio, path, self, tensors.into_iter().collect()).map_err(|error| not_saved(path, error))
    }
}

/// Name, dtype and shape of a tensor that is to be saved.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorSpec {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
}

impl TensorSpec {
    /// A tensor.
    pub fn new(name: impl Into<String>, dtype: Dtype, shape: impl Into<Vec<usize>>) -> Self {
        Self { name: name.into(), dtype, shape: shape.into() }
    }
}
