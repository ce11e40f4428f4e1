//! Sets of tensors in safetensors files, as users read them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use aio_core::{AioFile, AioHandle, OpenOptions};
use safetensors::Dtype;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::error::{Error, Result};
use crate::header::{self, ALIGNMENT, Header, LENGTH_FIELD};
use crate::memory::{MemoryMut, Tensor};
use crate::read_ahead::{Piece, ReadAhead};
use crate::runs::Runs;
use crate::sources::{self, Sources};

/// Bytes that are read at first for a header; most are shorter.
const FIRST: u64 = 64 << 10;
/// The most bytes of tensors that are read as one op and share memory; a larger tensor is alone.
const SECTION: u64 = 64 << 20;
/// Bytes in flight where nothing but reading is to be done with them.
const AHEAD: u64 = 64 << 20;
/// Bytes at a time for checksums, and for slices of many small runs.
const CHUNK: u64 = 4 << 20;
/// Runs of a slice that are closer than this are read together, with what is between them. In bytes.
const GAP: u64 = 64 << 10;
/// Extents of one op.
const EXTENTS: usize = 256;

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

#[derive(Debug)]
struct Set {
    aio: AioHandle,
    /// What was opened, for errors.
    path: PathBuf,
    files: Vec<AioFile>,
    /// Length and time of modification of each file when it was opened.
    versions: Vec<(u64, SystemTime)>,
    /// In the order of files, and in each of bytes.
    tensors: Vec<TensorInfo>,
    names: HashMap<String, usize>,
    metadata: BTreeMap<String, String>,
}

/// What the header of its file says of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    file: usize,
    range: Range<u64>,
    checksum: Option<u64>,
}

impl TensorInfo {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type of its elements.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Its lengths, the slowest dimension first; of a scalar there are none.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its bytes.
    pub fn byte_len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Which of [`SafeTensors::files`] it is in.
    pub fn file(&self) -> usize {
        self.file
    }

    /// Its bytes in that file.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// The XXH3-64 of its bytes, if the program that saved it left one.
    pub fn checksum(&self) -> Option<u64> {
        self.checksum
    }
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
        let open = || Self::open_sources(aio, path, &sources::find(path)?);
        // A sharded save may have taken its place in between, and removed what the old index names.
        open().or_else(|error| if matches!(error, Error::Malformed { .. }) { Err(error) } else { open() })
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
        Self::open_sources(aio, &first, &Sources { files, index: None })
    }

    fn open_sources(aio: &AioHandle, path: &Path, sources: &Sources) -> Result<Self> {
        let mut set = Set {
            aio: aio.clone(),
            path: path.to_owned(),
            files: Vec::new(),
            versions: Vec::new(),
            tensors: Vec::new(),
            names: HashMap::new(),
            metadata: BTreeMap::new(),
        };
        for path in &sources.files {
            set.add(path)?;
        }
        if let Some((index, weight_map)) = &sources.index {
            for (name, file) in weight_map {
                let found = set.names.get(name).map(|at| sources.files[set.tensors[*at].file].as_path());
                if found != Some(file) {
                    let why = format_args!("its index has tensor {name:?} in {}, where it is not", file.display());
                    return Err(Error::incomplete(index, why));
                }
            }
        }
        Ok(Self { set: Arc::new(set), verifies: false })
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
        self.sections(0..self.set.tensors.len(), SECTION, u64::MAX)
            .map(|read| read.map(|(info, tensor)| (info.name.clone(), tensor)))
            .collect()
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
        let set = &*self.set;
        Verify {
            set,
            chunks: set.read_ahead(Chunks::new(set), AHEAD),
            chunk: None,
            next: 0,
            hashed: 0,
            hasher: Xxh3::new(),
        }
    }

    fn sections(&self, tensors: Range<usize>, most: u64, budget: u64) -> Stream<'_> {
        let set = &*self.set;
        let sections = set.read_ahead(Sections { set, tensors, most }, budget);
        Stream { set, verifies: self.verifies, sections, section: None }
    }
}

impl TensorInfo {
    fn runs(&self, ranges: &[Range<usize>]) -> Result<Runs> {
        Runs::new(self.dtype, &self.shape, ranges)
            .map_err(|why| Error::InvalidInput(format!("no slice of tensor {:?}: {why}", self.name)))
    }

    /// What its address is a multiple of, in bytes.
    fn alignment(&self) -> u64 {
        (self.dtype.bitsize() as u64 / 8).max(1)
    }
}

impl Set {
    /// Opens a file, and adds its tensors.
    fn add(&mut self, path: &Path) -> Result<()> {
        let file = self.aio.open_with(path, &OpenOptions::new().read(true))?;
        let version = (file.len()?, file.modified()?);
        let Header { entries, metadata } = read_header(&file, version.0)?;
        let index = self.files.len();
        for entry in entries {
            let header::Entry { name, dtype, shape, range, checksum } = entry;
            if let Some(other) = self.names.insert(name.clone(), self.tensors.len()) {
                let other = self.files[self.tensors[other].file].path().display().to_string();
                let why = format_args!("tensor {name:?} is in {other}, too");
                return Err(Error::incomplete(path, why));
            }
            self.tensors.push(TensorInfo { name, dtype, shape, file: index, range, checksum });
        }
        for (key, value) in metadata {
            self.metadata.entry(key).or_insert(value);
        }
        self.files.push(file);
        self.versions.push(version);
        Ok(())
    }

    fn index(&self, name: &str) -> Result<usize> {
        self.names.get(name).copied().ok_or_else(|| Error::NoTensor {
            name: name.to_owned(),
            path: self.path.clone(),
            count: self.tensors.len(),
        })
    }

    fn read_ahead<T, I: Iterator<Item = Piece<T>>>(&self, pieces: I, budget: u64) -> ReadAhead<'_, T, I> {
        ReadAhead::new(&self.aio, &self.files, pieces, budget)
    }

    /// Whole units of direct I/O around a range of a file, as far as the file goes.
    fn whole_units(&self, file: usize, range: Range<u64>) -> Range<u64> {
        range.start / ALIGNMENT * ALIGNMENT..range.end.next_multiple_of(ALIGNMENT).min(self.versions[file].0)
    }

    /// Fails if the file is not as it was when it was opened.
    fn check_unchanged(&self, file: usize) -> Result<()> {
        let (opened, file) = (self.versions[file], &self.files[file]);
        if (file.len()?, file.modified()?) == opened {
            return Ok(());
        }
        Err(Error::Changed { path: file.path().to_owned() })
    }

    /// Fails if a tensor has another checksum.
    fn compare(&self, info: &TensorInfo, found: u64) -> Result<()> {
        match info.checksum {
            Some(expected) if expected != found => {
                let path = self.files[info.file].path().to_owned();
                Err(Error::Mismatch { name: info.name.clone(), path, expected, found })
            }
            _ => Ok(()),
        }
    }

    /// Reads extents, each a file, an offset and memory, in the order of files.
    fn read_extents<'a>(&self, extents: impl Iterator<Item = (usize, u64, &'a mut [u8])>) -> Result<()> {
        let mut touched = Vec::new();
        self.aio.scope(|scope| {
            let mut some = Vec::new();
            for (file, offset, memory) in extents {
                if touched.last() != Some(&file) || some.len() == EXTENTS {
                    if let Some(before) = touched.last() {
                        scope.read_vectored(&self.files[*before], std::mem::take(&mut some));
                    }
                    touched.push(file);
                }
                some.push((offset, memory));
            }
            if let Some(last) = touched.last() {
                scope.read_vectored(&self.files[*last], some);
            }
        })?;
        touched.dedup();
        touched.into_iter().try_for_each(|file| self.check_unchanged(file))
    }

    /// Reads runs of a tensor, one after the other, into `memory`, which is as long.
    fn read_runs(&self, info: &TensorInfo, runs: Runs, memory: &mut [u8]) -> Result<()> {
        let Some(first) = runs.clone().next().filter(|first| !first.is_empty()) else { return Ok(()) };
        let (len, start) = ((first.end - first.start) as usize, info.range.start);
        if len as u64 >= GAP {
            let extents = runs.zip(memory.chunks_mut(len));
            return self.read_extents(extents.map(|(run, memory)| (info.file, start + run.start, memory)));
        }
        let mut into = memory.chunks_mut(len);
        for read in self.read_ahead(Spans { set: self, info, runs: runs.peekable() }, AHEAD) {
            let (piece, buffer) = read?;
            for (run, into) in piece.of.iter().zip(&mut into) {
                let at = (start + run.start - piece.range.start) as usize;
                into.copy_from_slice(&buffer[at..at + len]);
            }
        }
        self.check_unchanged(info.file)
    }
}

fn check_size(name: &str, expected: u64, memory: &MemoryMut<'_>) -> Result<()> {
    let len = memory.len();
    if len as u64 == expected {
        return Ok(());
    }
    Err(Error::InvalidInput(format!("of tensor {name:?} {expected} bytes are to be read, and the memory has {len}")))
}

fn read_header(file: &AioFile, len: u64) -> Result<Header> {
    let malformed = |reason: String| Error::malformed(file.path(), reason);
    if len < LENGTH_FIELD {
        return Err(malformed(format!("it has {len} bytes, too few for the length of a header")));
    }
    let mut bytes = vec![0; len.min(FIRST) as usize];
    file.read_at(&mut bytes, 0)?;
    let mut field = [0; LENGTH_FIELD as usize];
    field.copy_from_slice(&bytes[..LENGTH_FIELD as usize]);
    let end = LENGTH_FIELD + header::length(field, len).map_err(malformed)?;
    let first = bytes.len();
    bytes.resize(end as usize, 0);
    if let Some(rest) = bytes.get_mut(first..).filter(|rest| !rest.is_empty()) {
        file.read_at(rest, first as u64)?;
    }
    header::parse(&bytes[LENGTH_FIELD as usize..], len - end).map_err(malformed)
}

/// Cuts tensors that lie beside each other into what is read as one.
#[derive(Debug)]
struct Sections<'m> {
    set: &'m Set,
    /// Those that are left.
    tensors: Range<usize>,
    most: u64,
}

impl Iterator for Sections<'_> {
    /// Of which tensors.
    type Item = Piece<Range<usize>>;

    fn next(&mut self) -> Option<Self::Item> {
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
                && end - range.start <= self.most;
            if !fits {
                break;
            }
            range.end = range.end.max(end);
            self.tensors.start += 1;
        }
        if is_aligned {
            range = self.set.whole_units(first.file, range);
        }
        Some(Piece { file: first.file, range, of: begin..self.tensors.start })
    }
}

/// The tensors of [`SafeTensors::stream`].
#[derive(Debug)]
pub struct Stream<'m> {
    set: &'m Set,
    verifies: bool,
    sections: ReadAhead<'m, Range<usize>, Sections<'m>>,
    /// What was read, from which byte of its file, and the tensors in it that are left.
    section: Option<(Arc<aio_core::buf::AlignedBuf>, u64, Range<usize>)>,
}

impl<'m> Stream<'m> {
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

/// Small runs of a slice that are read together.
#[derive(Debug)]
struct Spans<'m> {
    set: &'m Set,
    info: &'m TensorInfo,
    runs: std::iter::Peekable<Runs>,
}

impl Iterator for Spans<'_> {
    /// Of which runs.
    type Item = Piece<Vec<Range<u64>>>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = self.runs.next()?;
        let (begin, mut end) = (first.start, first.end);
        let mut of = vec![first];
        while let Some(run) = self.runs.next_if(|run| run.start - end < GAP && run.end - begin <= CHUNK) {
            end = run.end;
            of.push(run);
        }
        let start = self.info.range.start;
        let range = self.set.whole_units(self.info.file, start + begin..start + end);
        Some(Piece { file: self.info.file, range, of })
    }
}

/// The parts of files in which tensors lie that have checksums.
#[derive(Debug)]
struct Chunks<'m> {
    set: &'m Set,
    /// The next tensor, and the next byte of it.
    tensor: usize,
    from: u64,
    /// The file and the end of the chunk before.
    before: (usize, u64),
}

impl<'m> Chunks<'m> {
    fn new(set: &'m Set) -> Self {
        Self { set, tensor: 0, from: 0, before: (0, 0) }
    }
}

impl Iterator for Chunks<'_> {
    type Item = Piece<()>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let info = self.set.tensors.get(self.tensor)?;
            let read_before = if self.before.0 == info.file { self.before.1 } else { 0 };
            let from = info.range.start.max(self.from).max(read_before);
            if info.checksum.is_none() || from >= info.range.end {
                (self.tensor, self.from) = (self.tensor + 1, 0);
                continue;
            }
            let start = from / CHUNK * CHUNK;
            let end = (start + CHUNK).min(self.set.versions[info.file].0);
            self.before = (info.file, end);
            self.from = end;
            return Some(Piece { file: info.file, range: start..end, of: () });
        }
    }
}

/// What [`SafeTensors::verify`] found of a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verified<'m> {
    /// The tensor.
    pub info: &'m TensorInfo,
    /// The XXH3-64 of its bytes; `None` if there is [nothing to compare](TensorInfo::checksum) with, and it was not
    /// read.
    pub found: Option<u64>,
}

impl Verified<'_> {
    /// Whether its bytes are not those that were saved.
    pub fn is_damaged(&self) -> bool {
        self.found.is_some() && self.found != self.info.checksum
    }
}

/// The findings of [`SafeTensors::verify`].
pub struct Verify<'m> {
    set: &'m Set,
    chunks: ReadAhead<'m, (), Chunks<'m>>,
    chunk: Option<(Piece<()>, aio_core::buf::AlignedBuf)>,
    /// The tensor that is being read, and how many of its bytes the hash has.
    next: usize,
    hashed: u64,
    hasher: Xxh3,
}

impl fmt::Debug for Verify<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verify").field("next", &self.next).finish_non_exhaustive()
    }
}

impl<'m> Verify<'m> {
    fn step(&mut self) -> Result<Option<Verified<'m>>> {
        loop {
            let Some(info) = self.set.tensors.get(self.next) else { return Ok(None) };
            let at = info.range.start + self.hashed;
            if info.checksum.is_none() || at == info.range.end {
                let found = info.checksum.map(|_| self.hasher.digest());
                self.hasher.reset();
                (self.next, self.hashed) = (self.next + 1, 0);
                return Ok(Some(Verified { info, found }));
            }
            let chunk = self.chunk.as_ref().filter(|(chunk, _)| chunk.file == info.file && chunk.range.contains(&at));
            let Some((chunk, bytes)) = chunk else {
                let Some(read) = self.chunks.next() else { return Ok(None) };
                let (chunk, bytes) = read?;
                self.set.check_unchanged(chunk.file)?;
                self.chunk = Some((chunk, bytes));
                continue;
            };
            let end = info.range.end.min(chunk.range.end);
            self.hasher.update(&bytes[(at - chunk.range.start) as usize..(end - chunk.range.start) as usize]);
            self.hashed += end - at;
        }
    }
}

impl<'m> Iterator for Verify<'m> {
    type Item = Result<Verified<'m>>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step().transpose();
        if let Some(Err(_)) = &step {
            self.next = self.set.tensors.len();
            self.chunks.stop();
        }
        step
    }
}
