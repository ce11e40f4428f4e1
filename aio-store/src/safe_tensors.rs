//! Sets of tensors in safetensors files, as users read them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use aio_core::{AioFile, AioHandle};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};
use crate::memory::{MemoryMut, Tensor};
use crate::set::{CHUNK, Set, TensorInfo};
use crate::sources::{self, Sources};
use crate::stream::{Sections, Stream};
use crate::verify::Verify;

/// The most bytes of tensors that are read as one op and share memory; a larger tensor is alone.
const SECTION: u64 = 64 << 20;
/// The most threads that load.
const THREADS: usize = 8;

/// How often a set is looked for that is replaced all the time.
const ATTEMPTS: usize = 100;

/// The tensors of one or several safetensors files, open for reading.
///
/// ```
/// use aio::tensor::{SafeTensors, TensorView, save};
///
/// # fn main() -> aio::tensor::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("model.safetensors");
/// let aio = aio::builder().build()?;
/// let weights = vec![0.5f32; 4 * 768];
/// save(&aio, &path, [("wte.weight", TensorView::of([4, 768], &weights)?)])?; // durable when it returns
///
/// let model = SafeTensors::open(&aio, &path)?; // reads the header only
/// for tensor in model.tensors() {
///     println!("{} {} {:?}", tensor.name(), tensor.dtype(), tensor.shape());
/// }
/// let row = model.slice("wte.weight", &[1..2])?;
/// assert_eq!(row.elements::<f32>()?, &weights[768..1536]);
/// let all = model.load()?; // by name
/// assert_eq!(all["wte.weight"].shape(), [4, 768]);
/// # Ok(())
/// # }
/// ```
///
/// Files stay open as long as this, or a clone, is there: what is renamed over or removed meanwhile is read to its end
/// as it was. A file that was cut is an error, and so is one that was written to, if its length or time of
/// modification tell.
///
/// All calls block the calling thread; in async code, make them on a thread for blocking calls, such as tokio's
/// `spawn_blocking`.
#[derive(Debug, Clone)]
pub struct SafeTensors {
    set: Arc<Set>,
    verifies: bool,
}

impl SafeTensors {
    /// Opens a safetensors file, the files of a folder, or those of an index (`NAME.safetensors.index.json`), and reads
    /// their headers.
    ///
    /// Of a folder it is the index, or without one all files `NAME.safetensors` but hidden ones, of which none may be
    /// missing if they say in their names how many there are.
    ///
    /// # Errors
    ///
    /// [`Error::System`] or [`Error::Io`] if something cannot be opened or read, [`Error::Malformed`] for what is no
    /// safetensors file, [`Error::Incomplete`] if the files make no set.
    pub fn open(aio: &AioHandle, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut before = None;
        for _ in 0..ATTEMPTS {
            match sources::find(path).and_then(|sources| Set::open(aio, path, &sources)) {
                // A sharded save may have taken its place in between, and removed what the old index names. Then it is
                // another file that is missing this time.
                Err(error) if !matches!(error, Error::Malformed { .. }) && before != Some(error.to_string()) => {
                    before = Some(error.to_string());
                }
                opened => return opened.map(Self::new),
            }
        }
        Err(Error::incomplete(path, "it was replaced each time that it was read"))
    }

    /// Opens these safetensors files together.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open); also if there is no file.
    pub fn open_files<P: AsRef<Path>>(aio: &AioHandle, files: impl IntoIterator<Item = P>) -> Result<Self> {
        let files: Vec<_> = files.into_iter().map(|file| file.as_ref().to_owned()).collect();
        let first = files.first().cloned().ok_or_else(|| Error::InvalidInput("no file to open".to_owned()))?;
        for file in &files {
            let found = std::fs::metadata(file).map_err(Error::system("open", file))?;
            if !found.is_file() {
                return Err(Error::incomplete(file, "it is not a regular file"));
            }
        }
        Set::open(aio, &first, &Sources { files, index: None }).map(Self::new)
    }

    fn new(set: Set) -> Self {
        Self { set: Arc::new(set), verifies: false }
    }

    /// The same tensors; what reads whole tensors through this clone compares them with their checksums, where there
    /// are any, or does not.
    #[must_use]
    pub fn verified(&self, verifies: bool) -> Self {
        Self { set: self.set.clone(), verifies }
    }

    /// All tensors, in the order of the files, and in each file of their bytes.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.set.tensors
    }

    /// The tensor of that name.
    ///
    /// # Errors
    ///
    /// [`Error::NoTensor`].
    pub fn info(&self, name: &str) -> Result<&TensorInfo> {
        Ok(&self.set.tensors[self.set.index(name)?])
    }

    /// What the headers say besides; where files differ, the first counts. Checksums are not part of it.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.set.metadata
    }

    /// The files.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.set.files.iter().map(AioFile::path)
    }

    /// Bytes of all tensors.
    pub fn byte_len(&self) -> u64 {
        self.set.tensors.iter().map(TensorInfo::byte_len).sum()
    }

    /// Reads all tensors, by name.
    ///
    /// They take memory of the handle's arena, of whose [limit](aio_core::AioConfig::arena_limit) there has to be as
    /// much left.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if reading fails or memory is lacking, [`Error::Changed`], and with
    /// [`verified`](Self::verified) [`Error::Mismatch`].
    pub fn load(&self) -> Result<BTreeMap<String, Tensor>> {
        let (needed, arena) = (self.byte_len(), self.set.aio.arena());
        if needed > arena.limit() {
            let (requested, in_use, limit) = (needed, arena.in_use(), arena.limit());
            return Err(aio_core::Error::OutOfMemory { requested, in_use, limit }.into());
        }
        // Several threads, since to get memory from the system takes a CPU, too.
        let sections = Sections::new(&self.set, 0..self.set.tensors.len(), SECTION);
        let useful = usize::try_from(needed / SECTION).unwrap_or(THREADS).clamp(1, THREADS);
        let threads = thread::available_parallelism().map_or(1, usize::from).min(useful);
        let load = |thread| {
            let sections = sections.clone().of_thread(thread, threads);
            let named = |(info, tensor): (&TensorInfo, Tensor)| (info.name.clone(), tensor);
            Stream::new(&self.set, self.verifies, sections, u64::MAX).map(|read| read.map(named)).collect()
        };
        thread::scope(|scope| {
            let start = |number| thread::Builder::new().spawn_scoped(scope, move || load(number));
            let others: Vec<_> = (1..threads).map(|number| (number, start(number))).collect();
            let mut loaded: Result<BTreeMap<_, _>> = load(0);
            for (number, other) in others {
                // What a thread that cannot be had was to do is done here.
                let other: Result<_> = match other {
                    Ok(other) => other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                    Err(_) => load(number),
                };
                loaded = loaded.and_then(|all| Ok(all.into_iter().chain(other?).collect()));
            }
            loaded
        })
    }

    /// Reads one tensor.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load), and [`Error::NoTensor`].
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let index = self.set.index(name)?;
        let read = self.sections(index..index + 1, SECTION, 0).next();
        let (_, tensor) =
            read.unwrap_or_else(|| Err(Error::InvalidInput(format!("nothing was read of {name:?}"))))?;
        Ok(tensor)
    }

    /// Reads a part of a tensor: a range per dimension, the slowest first; dimensions without one are whole.
    ///
    /// ```
    /// # use aio::tensor::{Result, SafeTensors};
    /// # fn columns(model: &SafeTensors) -> Result<()> {
    /// let columns = model.slice("wte.weight", &[0..4, 100..200])?; // as [0:4, 100:200] in Python
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A part is never compared with the checksum, which is that of the whole.
    ///
    /// # Errors
    ///
    /// As [`tensor`](Self::tensor); [`Error::InvalidInput`] for ranges outside of the shape, and of dtypes smaller
    /// than a byte for parts that are no whole bytes.
    pub fn slice(&self, name: &str, ranges: &[Range<usize>]) -> Result<Tensor> {
        let info = self.info(name)?;
        let runs = info.runs(ranges)?;
        let mut shape = info.shape.clone();
        shape.iter_mut().zip(ranges).for_each(|(length, range)| *length = range.len());
        let bytes = usize::try_from(runs.bytes()).map_err(|error| Error::InvalidInput(error.to_string()))?;
        let mut memory = self.set.aio.try_alloc(bytes)?;
        self.set.read_runs(info, runs, &mut memory)?;
        Ok(Tensor::new(info.dtype, shape, Arc::new(memory), 0..bytes))
    }

    /// As [`slice`](Self::slice), into memory of the caller's.
    ///
    /// # Errors
    ///
    /// As [`slice`](Self::slice); [`Error::InvalidInput`] if the memory is of another size than the part.
    pub fn slice_into<'a>(
        &self,
        name: &str,
        ranges: &[Range<usize>],
        memory: impl Into<MemoryMut<'a>>,
    ) -> Result<()> {
        let info = self.info(name)?;
        let (runs, memory) = (info.runs(ranges)?, memory.into());
        check_size(name, runs.bytes(), &memory)?;
        self.set.read_runs(info, runs, memory.host())
    }

    /// Reads tensors into memory of the caller's, all at once.
    ///
    /// Fresh memory that was never touched is made huge pages where it can be; see
    /// [`use_huge_pages`](aio_core::buf::use_huge_pages).
    ///
    /// # Errors
    ///
    /// As [`tensor`](Self::tensor); [`Error::InvalidInput`] if memory is of another size than its tensor, in which
    /// case nothing is read. Otherwise the contents of the memory are unspecified.
    pub fn read_into<'a, N, M>(&self, into: impl IntoIterator<Item = (N, M)>) -> Result<()>
    where
        N: AsRef<str>,
        M: Into<MemoryMut<'a>>,
    {
        let mut targets = Vec::new();
        for (name, memory) in into {
            let (index, memory) = (self.set.index(name.as_ref())?, memory.into());
            check_size(name.as_ref(), self.set.tensors[index].byte_len(), &memory)?;
            targets.push((index, memory.host()));
        }
        targets.sort_by_key(|(index, _)| *index);
        self.set.read_extents(targets.iter_mut().map(|(index, memory)| {
            let info = &self.set.tensors[*index];
            (info.file, info.range.start, &mut **memory)
        }))?;
        for (index, memory) in targets.iter().filter(|_| self.verifies) {
            self.set.compare(&self.set.tensors[*index], xxh3_64(memory))?;
        }
        Ok(())
    }

    /// Reads all tensors in the order of the files, with at most `budget` bytes in flight or ready ahead of the
    /// consumer; one op at least, which is of one tensor if that is larger.
    ///
    /// What the iterator has given is the consumer's, and not part of the budget. After an error it gives nothing more.
    pub fn stream(&self, budget: u64) -> Stream<'_> {
        self.sections(0..self.set.tensors.len(), (budget / 4).clamp(CHUNK, SECTION), budget)
    }

    /// Reads all tensors that have checksums and compares, in the order of the files; in 64 MiB of memory.
    ///
    /// After an error of reading it gives nothing more; a tensor that differs is no error here.
    pub fn verify(&self) -> Verify<'_> {
        Verify::new(&self.set)
    }

    fn sections(&self, tensors: Range<usize>, most: u64, budget: u64) -> Stream<'_> {
        Stream::new(&self.set, self.verifies, Sections::new(&self.set, tensors, most), budget)
    }
}

fn check_size(name: &str, expected: u64, memory: &MemoryMut<'_>) -> Result<()> {
    let len = memory.len();
    if len as u64 == expected {
        return Ok(());
    }
    Err(Error::InvalidInput(format!("of tensor {name:?} {expected} bytes are to be read, and the memory has {len}")))
}
