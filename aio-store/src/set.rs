//! Open files, what their headers say, and the ways to read from them.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aio_core::buf::fault_in;
use aio_core::{AioFile, AioHandle, OpenOptions};
use safetensors::Dtype;

use crate::error::{Error, Quoted, Result};
use crate::header::{self, ALIGNMENT, Header, LENGTH_FIELD};
use crate::read_ahead::{Piece, ReadAhead};
use crate::runs::Runs;
use crate::sources::Sources;

/// Bytes that are read at first for a header; most are shorter.
const FIRST: u64 = 64 << 10;
/// Bytes in flight where nothing but reading is to be done with them.
pub(crate) const AHEAD: u64 = 64 << 20;
/// Bytes at a time for checksums, and for slices of many small runs.
pub(crate) const CHUNK: u64 = 4 << 20;
/// Runs of a slice that are closer than this are read together, with what is between them. In bytes.
const GAP: u64 = 64 << 10;
/// Bytes of the caller's memory that are faulted in at a time, and read as one.
const PART: usize = 64 << 20;
/// Extents of one op.
const EXTENTS: usize = 256;

/// What all clones of a [`SafeTensors`](crate::SafeTensors) share.
#[derive(Debug)]
pub(crate) struct Set {
    pub(crate) aio: AioHandle,
    /// What was opened, for errors.
    path: PathBuf,
    pub(crate) files: Vec<AioFile>,
    /// The files with checksums that cannot be read.
    unreadable_checksums: Vec<usize>,
    /// Length and time of modification of each file when it was opened.
    pub(crate) versions: Vec<(u64, SystemTime)>,
    /// In the order of files, and in each of bytes.
    pub(crate) tensors: Vec<TensorInfo>,
    names: HashMap<String, usize>,
    pub(crate) metadata: BTreeMap<String, String>,
}

/// What the header of its file says of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) file: usize,
    pub(crate) range: Range<u64>,
    pub(crate) checksum: Option<u64>,
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

    /// Which of [`SafeTensors::files`](crate::SafeTensors::files) it is in.
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

impl TensorInfo {
    pub(crate) fn runs(&self, ranges: &[Range<usize>]) -> Result<Runs> {
        Runs::new(self.dtype, &self.shape, ranges)
            .map_err(|why| Error::InvalidInput(format!("no slice of tensor {:?}: {why}", self.name)))
    }

    /// What its address is a multiple of, in bytes.
    pub(crate) fn alignment(&self) -> u64 {
        (self.dtype.bitsize() as u64 / 8).max(1)
    }
}

impl Set {
    /// Opens files, and reads their headers. `path`: what stands for them in errors.
    pub(crate) fn open(aio: &AioHandle, path: &Path, sources: &Sources) -> Result<Self> {
        let mut set = Self {
            aio: aio.clone(),
            path: path.to_owned(),
            files: Vec::new(),
            unreadable_checksums: Vec::new(),
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
                    let (name, file) = (Quoted(name), file.display());
                    let why = format_args!("its index has tensor {name} in {file}, where it is not");
                    return Err(Error::incomplete(index, why));
                }
            }
        }
        Ok(set)
    }

    /// Opens a file, and adds its tensors.
    fn add(&mut self, path: &Path) -> Result<()> {
        let file = self.aio.open_with(path, &OpenOptions::new().read(true))?;
        let version = (file.len()?, file.modified()?);
        let Header { entries, metadata, unreadable_checksums } = read_header(&file, version.0)?;
        let index = self.files.len();
        self.unreadable_checksums.extend(unreadable_checksums.then_some(index));
        for entry in entries {
            let header::Entry { name, dtype, shape, range, checksum } = entry;
            if let Some(other) = self.names.insert(name.clone(), self.tensors.len()) {
                let other = self.files[self.tensors[other].file].path().display().to_string();
                let why = format_args!("tensor {} is in {other}, too", Quoted(&name));
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

    pub(crate) fn index(&self, name: &str) -> Result<usize> {
        self.names.get(name).copied().ok_or_else(|| Error::NoTensor {
            name: name.to_owned(),
            path: self.path.clone(),
            count: self.tensors.len(),
        })
    }

    pub(crate) fn read_ahead<T, I: Iterator<Item = Piece<T>>>(&self, pieces: I, budget: u64) -> ReadAhead<'_, T, I> {
        ReadAhead::new(&self.aio, &self.files, pieces, budget)
    }

    /// Whole units of direct I/O around a range of a file, as far as the file goes.
    pub(crate) fn whole_units(&self, file: usize, range: Range<u64>) -> Range<u64> {
        range.start / ALIGNMENT * ALIGNMENT..range.end.next_multiple_of(ALIGNMENT).min(self.versions[file].0)
    }

    /// Fails if the file is not as it was when it was opened.
    pub(crate) fn check_unchanged(&self, file: usize) -> Result<()> {
        let (opened, file) = (self.versions[file], &self.files[file]);
        if (file.len()?, file.modified()?) == opened {
            return Ok(());
        }
        Err(Error::Changed { path: file.path().to_owned() })
    }

    /// Fails if the checksums of a tensor's file cannot be read.
    pub(crate) fn check_checksums(&self, info: &TensorInfo) -> Result<()> {
        if !self.unreadable_checksums.contains(&info.file) {
            return Ok(());
        }
        Err(Error::malformed(self.files[info.file].path(), "the checksums in its header cannot be read"))
    }

    /// Fails if a tensor has another checksum.
    pub(crate) fn compare(&self, info: &TensorInfo, found: u64) -> Result<()> {
        self.check_checksums(info)?;
        match info.checksum {
            Some(expected) if expected != found => {
                let path = self.files[info.file].path().to_owned();
                Err(Error::Mismatch { name: info.name.clone(), path, expected, found })
            }
            _ => Ok(()),
        }
    }

    /// Reads extents, each a file, an offset and memory, in the order of files. Memory that was never touched is faulted
    /// in here, for one op while those before it are in flight; but for files in the page cache, from which several
    /// threads copy, and fault in what they copy to.
    pub(crate) fn read_extents<'a>(&self, extents: impl Iterator<Item = (usize, u64, &'a mut [u8])>) -> Result<()> {
        let mut touched = Vec::new();
        self.aio.scope(|scope| {
            let (mut some, mut bytes, mut is_resident) = (Vec::new(), 0, false);
            for (file, offset, memory) in extents {
                if touched.last() != Some(&file) {
                    is_resident = self.files[file].is_resident();
                    if let Some(before) = touched.last() {
                        scope.read_vectored(&self.files[*before], std::mem::take(&mut some));
                    }
                    touched.push(file);
                    bytes = 0;
                }
                for (at, part) in memory.chunks_mut(PART).enumerate() {
                    if !is_resident {
                        fault_in(&mut *part);
                    }
                    bytes += part.len() as u64;
                    some.push((offset + (at * PART) as u64, part));
                    if bytes >= CHUNK || some.len() == EXTENTS {
                        scope.read_vectored(&self.files[file], std::mem::take(&mut some));
                        bytes = 0;
                    }
                }
            }
            if let Some(last) = touched.last() {
                scope.read_vectored(&self.files[*last], some);
            }
        })?;
        touched.dedup();
        touched.into_iter().try_for_each(|file| self.check_unchanged(file))
    }

    /// Reads runs of a tensor, one after the other, into `memory`, which is as long.
    pub(crate) fn read_runs(&self, info: &TensorInfo, runs: Runs, memory: &mut [u8]) -> Result<()> {
        let Some(first) = runs.first().filter(|first| !first.is_empty()) else { return Ok(()) };
        let (len, start) = ((first.end - first.start) as usize, info.range.start);
        if len as u64 >= GAP {
            let extents = runs.zip(memory.chunks_mut(len));
            return self.read_extents(extents.map(|(run, memory)| (info.file, start + run.start, memory)));
        }
        let mut into = memory.chunks_mut(len);
        for read in self.read_ahead(Spans { set: self, info, runs }, AHEAD) {
            let (piece, buffer) = read?;
            let (runs, count) = piece.of;
            for (run, into) in runs.take(count).zip(&mut into) {
                let at = (start + run.start - piece.range.start) as usize;
                into.copy_from_slice(&buffer[at..at + len]);
            }
        }
        self.check_unchanged(info.file)
    }
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

/// Small runs of a slice that are read together.
#[derive(Debug)]
struct Spans<'m> {
    set: &'m Set,
    info: &'m TensorInfo,
    runs: Runs,
}

impl Iterator for Spans<'_> {
    /// Of which runs: the first of these, and how many.
    type Item = Piece<(Runs, usize)>;

    fn next(&mut self) -> Option<Self::Item> {
        let of = self.runs.clone();
        let Range { start: begin, mut end } = self.runs.next()?;
        let mut count = 1;
        while let Some(run) = self.runs.first().filter(|run| run.start - end < GAP && run.end - begin <= CHUNK) {
            end = run.end;
            count += 1;
            self.runs.next();
        }
        let start = self.info.range.start;
        let range = self.set.whole_units(self.info.file, start + begin..start + end);
        Some(Piece { file: self.info.file, range, of: (of, count) })
    }
}
