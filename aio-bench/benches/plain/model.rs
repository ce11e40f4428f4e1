//! A model of tensors of mixed sizes in safetensors files, and memory to load it into.

use std::cell::RefCell;
use std::fs::File;
use std::iter;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use aio::AioHandle;
use aio::tensor::{Dtype, SafeTensors, SaveOptions, TensorView};
use aio_bench::sizes;
use aio_cli::generate;

/// Bytes of a plain thread's system call, and of the memory for which it asks for huge pages.
const PIECE: usize = 4 << 20;
const HUGE_PAGE: usize = 2 << 20;
/// The C library takes memory that is larger than this from the system each time: it was never touched.
const OWN_MAPPING: usize = 33 << 20;
/// What the C library takes from its heap, as of other programs.
const SMALL: usize = 128 << 10;

/// Names and sizes of tensors.
#[derive(Debug)]
pub(crate) struct Shape {
    tensors: Vec<(String, usize)>,
    per_file: usize,
}

impl Shape {
    /// So many files, each with so many tensors: layers of large weights and of small norms and biases.
    pub(crate) fn new(bytes: usize, files: usize, per_file: usize) -> Self {
        let per_shard = sizes::of_tensors(bytes / files / 2 * 2, per_file);
        let tensors = (0..files)
            .flat_map(|file| per_shard.iter().enumerate().map(move |(i, len)| (format!("f{file}.t{i}"), *len)));
        let tensors = tensors.collect();
        Self { tensors, per_file: per_shard.iter().sum() }
    }

    /// Bytes of all tensors.
    pub(crate) fn bytes(&self) -> usize {
        self.tensors.iter().map(|(_, len)| len).sum()
    }

    /// Saves the tensors, durable, from memory that has them one after the other.
    pub(crate) fn save(&self, aio: &AioHandle, path: &Path, memory: &[u8]) {
        let mut rest = memory;
        let views = self.tensors.iter().map(|(name, len)| {
            let (tensor, after) = rest.split_at(*len);
            rest = after;
            (name.clone(), TensorView::new(Dtype::BF16, [len / 2], tensor).expect("a tensor"))
        });
        SaveOptions::new().max_shard_size(self.per_file as u64).save(aio, path, views).expect("room for the model");
    }
}

/// A saved model.
#[derive(Debug)]
pub(crate) struct Model {
    /// The file, or the index.
    pub(crate) path: PathBuf,
    pub(crate) files: Vec<PathBuf>,
    /// Name, file, offset and length of each tensor.
    tensors: Vec<(String, usize, u64, usize)>,
    pub(crate) bytes: u64,
}

impl Model {
    /// Saves and opens it.
    pub(crate) fn new(path: PathBuf, shape: &Shape) -> Self {
        let aio = aio::builder().build().expect("a handle");
        let mut memory = vec![0; shape.bytes()];
        generate::fill(&mut memory, 1);
        shape.save(&aio, &path, &memory);
        let opened = SafeTensors::open(&aio, &path).expect("the model");
        let tensors = opened
            .tensors()
            .iter()
            .map(|info| (info.name().to_owned(), info.file(), info.range().start, info.byte_len() as usize));
        let (tensors, files) = (tensors.collect(), opened.files().map(Path::to_owned).collect());
        Self { path, files, tensors, bytes: opened.byte_len() }
    }

    /// Memory for each tensor.
    pub(crate) fn memory_of_tensors(&self, touched: bool) -> Vec<Place> {
        let place = |(name, file, offset, len): &(String, usize, u64, usize)| Place::new(name, *file, *offset, *len);
        let mut places: Vec<_> = self.tensors.iter().map(place).collect();
        if touched {
            places.iter_mut().for_each(|place| place.bytes().fill(7));
        }
        places
    }

    /// Memory for each file as a whole.
    pub(crate) fn memory_of_files(&self) -> Vec<Place> {
        let len = |path: &PathBuf| path.metadata().expect("the file").len() as usize;
        self.files.iter().enumerate().map(|(number, path)| Place::new("", number, 0, len(path))).collect()
    }

    /// Reads by so many threads of plain system calls, which take pieces one after the other.
    pub(crate) fn read_by_threads(&self, threads: usize, places: &RefCell<Vec<Place>>, huge: bool) -> u64 {
        let files: Vec<_> = self.files.iter().map(|path| File::open(path).expect("the file")).collect();
        let mut places = places.borrow_mut();
        let pieces = Mutex::new(places.iter_mut().flat_map(Place::pieces));
        let read = || {
            while let Some((file, offset, memory)) = { pieces.lock().expect("no panic").next() } {
                if huge {
                    aio::buf::use_huge_pages(&mut *memory);
                }
                files[file].read_exact_at(memory, offset).expect("the bytes");
            }
        };
        thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(read))));
        self.bytes
    }
}

/// Memory for a part of a file.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) name: String,
    file: usize,
    offset: u64,
    len: usize,
    memory: Vec<u8>,
}

impl Place {
    fn new(name: &str, file: usize, offset: u64, len: usize) -> Self {
        let memory = vec![0; if len < SMALL { len } else { len.max(OWN_MAPPING) }];
        Self { name: name.to_owned(), file, offset, len, memory }
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }

    /// Pieces, of which all but the first begin at a huge page: file, offset, memory.
    fn pieces(&mut self) -> impl Iterator<Item = (usize, u64, &mut [u8])> {
        let (file, mut offset) = (self.file, self.offset);
        let bytes = self.bytes();
        let first = bytes.as_ptr().align_offset(HUGE_PAGE).min(bytes.len());
        let (first, rest) = bytes.split_at_mut(first);
        iter::once(first).chain(rest.chunks_mut(PIECE)).map(move |piece| {
            let at = offset;
            offset += piece.len() as u64;
            (file, at, piece)
        })
    }
}
