//! Saves tensors: to one file, or to several with an index, all of it the old or the new.

mod blocks;
mod commit;
mod options;
mod shards;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use aio_core::{AioFile, AioHandle, AtomicFile, shown};
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, Result};
use crate::header::{self, ALIGNMENT, NewHeader};
use crate::memory::Memory;
use crate::ranges::Ranges;
use crate::read_ahead::{Piece, ReadAhead};
use crate::sources;
use blocks::{Blocks, Section};
use commit::{Commit, Steps, not_saved};
pub use options::{SaveOptions, TensorSpec, save};
use shards::Shards;

/// Bytes that are hashed and copied at a time: they stay in the CPU's cache in between.
const STEP: usize = 128 << 10;
/// Bytes at a time, and in flight, where bytes are read back for a checksum.
const READ_BACK: (u64, u64) = (4 << 20, 64 << 20);

/// A save that has begun: takes the bytes of its tensors in any order, in parts, from several threads.
///
/// ```
/// use aio::tensor::{Dtype, SaveOptions, TensorSpec};
///
/// # fn main() -> aio::tensor::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("model.safetensors");
/// let aio = aio::builder().build()?;
/// let writer = SaveOptions::new().metadata("format", "pt").begin(&aio, &path, [
///     TensorSpec::new("h.0.weight", Dtype::F32, [1000, 10]),
///     TensorSpec::new("h.1.weight", Dtype::F32, [1000, 10]),
/// ])?;
/// std::thread::scope(|scope| {
///     let write = |name| writer.write(name, &vec![1.0f32; 10_000]);
///     let other = scope.spawn(move || write("h.1.weight"));
///     write("h.0.weight").and(other.join().unwrap())
/// })?;
/// writer.finish()?; // there, whole and durable
/// # Ok(())
/// # }
/// ```
///
/// Dropped without [`finish`](Self::finish), it leaves what was there before.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    aio: AioHandle,
    durable: bool,
    checksums: bool,
    tensors: Vec<Slot>,
    names: HashMap<String, usize>,
    /// Before the files: it has clones of them.
    blocks: Blocks,
    files: Vec<NewFile>,
    shards: Option<Shards>,
}

#[derive(Debug)]
struct NewFile {
    file: AtomicFile,
    header: NewHeader,
}

/// A tensor of a save.
#[derive(Debug)]
struct Slot {
    file: usize,
    /// Which of the file's.
    tensor: usize,
    /// Its bytes in the file.
    range: Range<u64>,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    /// The bytes that calls have taken.
    taken: Ranges,
    checksum: Checksum,
}

/// How far the checksum is.
enum Checksum {
    /// It has the first bytes, so many.
    Of(u64, Box<Xxh3>),
    /// A call has it.
    InUse,
    /// Parts did not come one after the other: the bytes are to be read back.
    Lost,
}

impl Default for Checksum {
    fn default() -> Self {
        Self::Of(0, Box::default())
    }
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress").field("taken", &self.taken).finish_non_exhaustive()
    }
}

impl Writer {
    fn begin(aio: &AioHandle, path: &Path, options: &SaveOptions, specs: Vec<TensorSpec>) -> Result<Self> {
        let mut names = HashMap::new();
        for (index, spec) in specs.iter().enumerate() {
            if header::is_reserved(&spec.name) {
                return Err(Error::InvalidInput(format!("no tensor can have the name {:?}", spec.name)));
            }
            if names.insert(spec.name.clone(), index).is_some() {
                return Err(Error::InvalidInput(format!("two tensors have the name {:?}", spec.name)));
            }
        }
        if options.metadata.contains_key(header::CHECKSUMS) {
            return Err(Error::InvalidInput(format!("the metadata {:?} is this library's", header::CHECKSUMS)));
        }
        let sizes = specs.iter().map(|spec| {
            let bytes = header::byte_len(spec.dtype, &spec.shape);
            bytes
                .map(|bytes| bytes as u64)
                .map_err(|why| Error::InvalidInput(format!("tensor {:?} {why}", spec.name)))
        });
        let sizes = sizes.collect::<Result<Vec<_>>>()?;
        let (shards, mut groups) = match Shards::begin(path, &sizes, options.max_shard_size)? {
            Some((shards, groups)) => (Some(shards), groups),
            None => {
                refuse_beside_index(path)?;
                (None, vec![(0..specs.len()).collect()])
            }
        };
        let (mut files, mut sections, mut slots) = (Vec::new(), Vec::new(), BTreeMap::new());
        for (file, group) in groups.iter_mut().enumerate() {
            group.sort_by_key(|tensor| std::cmp::Reverse(specs[*tensor].dtype.bitsize()));
            let laid_out = group.iter().map(|tensor| {
                let TensorSpec { name, dtype, shape } = &specs[*tensor];
                (name.clone(), *dtype, shape.clone())
            });
            let header =
                NewHeader::new(options.metadata.clone(), laid_out, options.checksums).map_err(Error::InvalidInput)?;
            let target = shards.as_ref().map_or(path.to_owned(), |shards| shards.path(file));
            let new = aio.create_atomic(&target)?;
            allocate(&new, header.file_len().next_multiple_of(ALIGNMENT))?;
            for (tensor, index) in group.iter().enumerate() {
                let range = header.range(tensor);
                slots.insert(*index, Slot { file, tensor, range, progress: Mutex::default() });
            }
            sections.push(Section { file: (*new).clone(), range: header.data()..header.file_len() });
            files.push(NewFile { file: new, header });
        }
        Ok(Self {
            path: path.to_owned(),
            aio: aio.clone(),
            durable: options.durable,
            checksums: options.checksums,
            tensors: slots.into_values().collect(),
            names,
            blocks: Blocks::new(aio, sections),
            files,
            shards,
        })
    }

    /// Takes the bytes of a tensor; the memory is the caller's again when this returns.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] if the memory is of another size, or a part of the tensor was written before, and
    /// [`Error::NoTensor`]: after these the save goes on. [`Error::Io`] if writing fails or memory is lacking: after
    /// that nothing more is taken, and [`finish`](Self::finish) fails.
    pub fn write<'a>(&self, name: &str, memory: impl Into<Memory<'a>>) -> Result<()> {
        let (tensor, memory) = (self.tensor(name)?, memory.into());
        let (expected, len) = (self.len(tensor), memory.len());
        if len as u64 != expected {
            let why = format!("tensor {name:?} has {expected} bytes, and its memory {len}");
            return Err(Error::InvalidInput(why));
        }
        self.write_part(tensor, 0, memory)
    }

    /// Takes a part of a tensor, from byte `offset` of it. The checksum costs least if the parts of a tensor come one
    /// after the other; otherwise, they are read back for it in the end.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write); [`Error::InvalidInput`] if it ends past the tensor's end.
    pub fn write_at<'a>(&self, name: &str, offset: u64, memory: impl Into<Memory<'a>>) -> Result<()> {
        self.write_part(self.tensor(name)?, offset, memory.into())
    }

    fn tensor(&self, name: &str) -> Result<usize> {
        self.names.get(name).copied().ok_or_else(|| Error::NoTensor {
            name: name.to_owned(),
            path: self.path.clone(),
            count: self.tensors.len(),
        })
    }

    fn name(&self, tensor: usize) -> &str {
        let Slot { file, tensor, .. } = &self.tensors[tensor];
        self.files[*file].header.name(*tensor)
    }

    fn len(&self, tensor: usize) -> u64 {
        let range = &self.tensors[tensor].range;
        range.end - range.start
    }

    fn write_part(&self, tensor: usize, offset: u64, memory: Memory<'_>) -> Result<()> {
        let (slot, len) = (&self.tensors[tensor], self.len(tensor));
        let end = offset.checked_add(memory.len() as u64).filter(|end| *end <= len).ok_or_else(|| {
            let (name, bytes) = (self.name(tensor), memory.len());
            Error::InvalidInput(format!("{bytes} bytes at {offset} of tensor {name:?}, which has {len}"))
        })?;
        if memory.is_empty() {
            return Ok(());
        }
        let mut checksum = self.take(slot, offset..end, tensor)?;
        let bytes = memory.host();
        self.blocks.put(slot.file, slot.range.start + offset..slot.range.start + end, |part, into| {
            for (from, into) in bytes[part].chunks(STEP).zip(into.chunks_mut(STEP)) {
                if let Some(checksum) = &mut checksum {
                    checksum.update(from);
                }
                into.copy_from_slice(from);
            }
        })?;
        let mut progress = lock(&slot.progress);
        // Unless another part came meanwhile, without it.
        if let (Some(checksum), Checksum::InUse) = (checksum, &progress.checksum) {
            progress.checksum = Checksum::Of(end, checksum);
        }
        Ok(())
    }

    /// Notes that a call takes these bytes, and gives it the checksum if they are its next.
    fn take(&self, slot: &Slot, part: Range<u64>, tensor: usize) -> Result<Option<Box<Xxh3>>> {
        let mut progress = lock(&slot.progress);
        if progress.taken.overlaps(&part) {
            let name = self.name(tensor);
            return Err(Error::InvalidInput(format!(
                "of tensor {name:?} some of the bytes {part:?} were written before"
            )));
        }
        progress.taken.insert(part.clone());
        if !self.checksums {
            return Ok(None);
        }
        match std::mem::replace(&mut progress.checksum, Checksum::Lost) {
            Checksum::Of(len, checksum) if len == part.start => {
                progress.checksum = Checksum::InUse;
                Ok(Some(checksum))
            }
            _ => Ok(None),
        }
    }

    /// Writes what is left, syncs, and puts the save in its place.
    ///
    /// # Errors
    ///
    /// [`Error::NotSaved`] if a tensor is not whole, a write failed, or the files cannot be put in their places: what
    /// was there before is as it was. [`Error::NotDurable`] if at last the folder cannot be synced.
    pub fn finish(self) -> Result<()> {
        self.finish_with(&Steps(None))
    }

    /// [`finish`](Self::finish) of a durable save, for tests of what a crash leaves behind: does one thing after the
    /// other, and calls `after` each, with its name.
    #[doc(hidden)]
    pub fn finish_in_steps(self, after: impl FnMut(&str) + Send + 'static) -> Result<()> {
        self.finish_with(&Steps(Some(Arc::new(Mutex::new(after)))))
    }

    fn finish_with(self, steps: &Steps) -> Result<()> {
        let path = self.path.clone();
        self.write_rest().map_err(|error| not_saved(&path, error))?;
        steps.done("written");
        let Self { durable, files, shards, aio, blocks, .. } = self;
        drop(blocks);
        let lists: Vec<_> = files.iter().map(|new| new.header.names_and_bytes()).collect();
        let commits = files.into_iter().map(|new| Commit::start(new.file, durable, steps));
        let committed = match steps.0 {
            None => commits.collect::<Vec<_>>().into_iter().map(Commit::wait).fold(Ok(()), Result::and),
            Some(_) => commits.map(Commit::wait).fold(Ok(()), Result::and),
        };
        match shards {
            None => committed,
            // What is not in the index is nowhere.
            Some(shards) => match committed {
                Ok(()) => shards.finish(&aio, &lists, durable, steps),
                Err(error) => Err(shards.give_up(error)),
            },
        }
        .map_err(|error| not_saved(&path, error))
    }

    fn not_saved(&self, error: Error) -> Error {
        not_saved(&self.path, error)
    }

    /// Everything but the files' places.
    fn write_rest(&self) -> Result<()> {
        for (tensor, slot) in self.tensors.iter().enumerate() {
            let len = self.len(tensor);
            if let Some(gap) = lock(&slot.progress).taken.first_gap(len) {
                let name = self.name(tensor);
                return Err(Error::InvalidInput(format!(
                    "of tensor {name:?}, of {len} bytes, {gap:?} were not written"
                )));
            }
        }
        self.blocks.finish()?;
        let mut checksums: Vec<_> = self.files.iter().map(|_| BTreeMap::new()).collect();
        for slot in self.tensors.iter().filter(|_| self.checksums) {
            let checksum = match &lock(&slot.progress).checksum {
                Checksum::Of(_, checksum) => checksum.digest(),
                Checksum::InUse | Checksum::Lost => self.read_back(slot)?,
            };
            checksums[slot.file].insert(slot.tensor, checksum);
        }
        let mut written = Vec::new();
        for (new, checksums) in self.files.iter().zip(checksums) {
            let checksums: Vec<_> = checksums.into_values().collect();
            let header = new.header.bytes(self.checksums.then_some(&checksums[..])).map_err(Error::InvalidInput)?;
            written.push(new.file.write(header, 0));
        }
        for (new, written) in self.files.iter().zip(written) {
            written.wait()?;
            new.file.set_len(new.header.file_len()).wait()?;
        }
        Ok(())
    }

    /// The checksum of bytes that did not come in order.
    fn read_back(&self, slot: &Slot) -> Result<u64> {
        let files: Vec<AioFile> = vec![(*self.files[slot.file].file).clone()];
        let (chunk, ahead) = READ_BACK;
        let end = slot.range.end;
        let start = slot.range.start / ALIGNMENT * ALIGNMENT;
        let pieces = (start..end).step_by(chunk as usize).map(|at| Piece {
            file: 0,
            range: at..(at + chunk).min(end),
            of: at.max(slot.range.start) - at,
        });
        let mut checksum = Xxh3::new();
        for read in ReadAhead::new(&self.aio, &files, pieces, ahead) {
            let (piece, buffer) = read?;
            checksum.update(&buffer[piece.of as usize..]);
        }
        Ok(checksum.digest())
    }
}

/// Refuses a file beside an index of the same name: some programs would load the one, and some the other.
fn refuse_beside_index(path: &Path) -> Result<()> {
    let index = path.with_extension(sources::INDEX.trim_start_matches('.'));
    if path.extension().is_some_and(|kind| kind == "safetensors") && index.exists() {
        return Err(Error::InvalidInput(format!(
            "{} is there, whose tensors other programs might load instead: remove it and its files first, or save under \
             another name",
            shown(&index)
        )));
    }
    Ok(())
}

/// Allocates the whole file, where the file system can: a full disk is found before anything is written, and writes
/// need not make the file longer.
fn allocate(file: &AioFile, len: u64) -> Result<()> {
    let Err(error) = file.allocate(0, len).wait() else { return Ok(()) };
    let error = error.into_error();
    // What the engine, too, takes for a file system that cannot do it.
    let lacks_it = |kind| {
        matches!(kind, io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput)
    };
    match &error {
        aio_core::Error::Io(refused) if lacks_it(refused.source.kind()) => Ok(()),
        _ => Err(error.into()),
    }
}

fn lock(progress: &Mutex<Progress>) -> std::sync::MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}
