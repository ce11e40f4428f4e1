//! The work of each contender on a model: the same tensors in safetensors files.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use aio::Backend;
use aio::tensor::{Dtype, SafeTensors, SaveOptions, TensorView};
use memmap2::MmapMut;
use xxhash_rust::xxh3::xxh3_64;

use super::contender::{Contender, failed};
use super::files::Files;
use super::measure::{Measured, Summary, Workload};
use super::plan::{ModelSpec, Start};
use crate::sizes;
use aio_cli::failure::Failure;
use aio_cli::generate;
use aio_cli::interrupt;

/// A model in files with an index, or one that is to be saved so.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) spec: ModelSpec,
    /// The shards, and the index.
    files: Files,
    tensors: Vec<Tensor>,
    /// The bytes of the shards, if they are to be saved.
    images: Vec<MmapMut>,
    /// Bytes of each shard.
    lens: Vec<usize>,
}

/// A tensor of a model.
#[derive(Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shard: usize,
    /// In the shard, in bytes.
    pub(crate) range: Range<usize>,
    /// The XXH3-64 of its bytes.
    checksum: u64,
}

impl Model {
    /// Files that have tensors.
    pub(crate) const SHARDS: usize = 4;
    /// Tensors in each of them.
    const TENSORS: usize = 48;

    /// Saves the model in a new folder in `dir`, and looks where everything is; drop removes it.
    pub(crate) fn make(spec: ModelSpec, dir: &Path) -> Result<Self, Failure> {
        let shards = (1..=Self::SHARDS).map(|number| format!("model-{number:05}-of-{:05}.safetensors", Self::SHARDS));
        let files = Files::make(dir, shards.chain(["model.safetensors.index.json".to_owned()]))?;
        let mut model = Self { spec, files, tensors: Vec::new(), images: Vec::new(), lens: Vec::new() };
        let mut memory = fresh(spec.bytes as usize)?;
        generate::fill(&mut memory, 1);
        let mut rest = &memory[..];
        let sizes = sizes::of_tensors(spec.bytes as usize / Self::SHARDS, Self::TENSORS);
        let views = (0..Self::SHARDS).flat_map(|shard| sizes.iter().enumerate().map(move |size| (shard, size)));
        let views = views.map(|(shard, (number, len))| {
            let (bytes, after) = rest.split_at(*len);
            rest = after;
            let view = TensorView::new(Dtype::BF16, [len / 2], bytes).map_err(failed)?;
            let name = format!("layers.{}.{number}", shard * Self::TENSORS + number);
            model.tensors.push(Tensor { name: name.clone(), shard, range: 0..0, checksum: xxh3_64(bytes) });
            Ok((name, view))
        });
        let views = views.collect::<Result<Vec<_>, Failure>>()?;
        let handle = aio::builder().backend(Backend::Auto).build()?;
        model.options().save(&handle, model.index(), views).map_err(failed)?;
        let saved = SafeTensors::open(&handle, model.index()).map_err(failed)?;
        for tensor in &mut model.tensors {
            let info = saved.info(&tensor.name).map_err(failed)?;
            tensor.range = info.range().start as usize..info.range().end as usize;
        }
        model.read_images().map_err(|error| model.files.cannot("read", &error))?;
        Ok(model)
    }

    fn read_images(&mut self) -> io::Result<()> {
        for path in &self.files.paths()[..Self::SHARDS] {
            let len = fs::metadata(path)?.len() as usize;
            self.lens.push(len);
            if self.spec.start == Start::New {
                let mut image = MmapMut::map_anon(len)?;
                io::Read::read_exact(&mut fs::File::open(path)?, &mut image)?;
                self.images.push(image);
            }
        }
        Ok(())
    }

    /// Whether it is saved, and not loaded.
    pub(crate) fn saves(&self) -> bool {
        self.spec.start == Start::New
    }

    pub(crate) fn folder(&self) -> &Path {
        self.files.folder()
    }

    /// The files with tensors.
    pub(crate) fn shards(&self) -> &[PathBuf] {
        &self.files.paths()[..Self::SHARDS]
    }

    /// The file that says which tensor is in which of the others.
    pub(crate) fn index(&self) -> &Path {
        &self.files.paths()[Self::SHARDS]
    }

    /// Bytes of each shard.
    pub(crate) fn lens(&self) -> &[usize] {
        &self.lens
    }

    /// The bytes of each shard that is to be saved.
    pub(crate) fn images(&self) -> &[MmapMut] {
        &self.images
    }

    /// How this library saves it.
    pub(crate) fn options(&self) -> SaveOptions {
        SaveOptions::new().max_shard_size(self.spec.bytes / Self::SHARDS as u64)
    }

    /// What this library is to save.
    pub(crate) fn views(&self) -> Result<Vec<(String, TensorView<'_>)>, Failure> {
        let tensors = (0..Self::SHARDS).flat_map(|shard| self.tensors_of(shard));
        let view = |(name, bytes): (&str, _)| {
            let bytes: &[u8] = bytes;
            Ok((name.to_owned(), TensorView::new(Dtype::BF16, [bytes.len() / 2], bytes).map_err(failed)?))
        };
        tensors.map(view).collect()
    }

    /// Name and bytes of each tensor of a shard that is to be saved.
    pub(crate) fn tensors_of(&self, shard: usize) -> impl Iterator<Item = (&str, &[u8])> {
        let tensors = self.tensors.iter().filter(move |tensor| tensor.shard == shard);
        tensors.map(move |tensor| (&*tensor.name, &self.images[shard][tensor.range.clone()]))
    }

    /// Memory for each shard that was never touched.
    pub(crate) fn fresh_memory(&self) -> Result<Vec<MmapMut>, Failure> {
        self.lens.iter().map(|len| fresh(*len)).collect()
    }

    /// Fails unless these are the bytes of each tensor.
    pub(crate) fn check<'b>(&self, bytes: impl Fn(&Tensor) -> Option<&'b [u8]>) -> Result<(), Failure> {
        for tensor in &self.tensors {
            interrupt::check()?;
            if bytes(tensor).map(xxh3_64) != Some(tensor.checksum) {
                let name = &tensor.name;
                return Err(Failure::Failed(format!("tensor {name:?} did not come back as it was saved")));
            }
        }
        Ok(())
    }

    /// Checks what was saved, by other software than this library.
    fn verify(&self) -> Result<(), Failure> {
        for (shard, path) in self.shards().iter().enumerate() {
            let file = fs::read(path).map_err(|error| self.files.cannot("read", &error))?;
            let parsed = safetensors::SafeTensors::deserialize(&file).map_err(failed)?;
            for tensor in self.tensors.iter().filter(|tensor| tensor.shard == shard) {
                interrupt::check()?;
                let saved = parsed.tensor(&tensor.name).map_err(failed)?;
                if xxh3_64(saved.data()) != tensor.checksum {
                    let name = &tensor.name;
                    return Err(Failure::Failed(format!("tensor {name:?} was not saved as it should be")));
                }
            }
        }
        Ok(())
    }
}

fn fresh(len: usize) -> Result<MmapMut, Failure> {
    MmapMut::map_anon(len).map_err(|error| {
        Failure::Failed(format!("a model of this size does not fit into memory, a smaller --size may: {error}"))
    })
}

impl Workload for Model {
    fn summary(&self) -> Summary {
        let ModelSpec { name, what, bytes, .. } = self.spec;
        Summary { name, what, bytes, block: None, files: Self::SHARDS as u64 }
    }

    fn prepare(&mut self) -> Result<(), Failure> {
        self.files.prepare(self.spec.start)
    }

    fn pass(&self, contender: &mut dyn Contender, most: u64) -> Result<Measured, Failure> {
        let measured = contender.repeat_model(self, most)?;
        if self.saves() && contender.stamps() {
            self.verify()?;
        }
        Ok(measured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn model(start: Start, dir: &Path) -> Model {
        let mut model = Model::make(ModelSpec { name: "", what: "", start, bytes: 1 << 20 }, dir).unwrap();
        model.prepare().unwrap();
        model
    }

    #[test]
    fn tensors_are_known_by_their_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let model = model(Start::Cold, dir.path());
        let mut files: Vec<_> = model.shards().iter().map(|path| fs::read(path).unwrap()).collect();
        assert_eq!(model.lens(), files.iter().map(Vec::len).collect::<Vec<_>>());
        let sizes = model.tensors.iter().map(|tensor| tensor.range.len());
        assert_eq!((sizes.clone().sum::<usize>(), sizes.clone().count()), (1 << 20, 4 * Model::TENSORS));
        assert!(sizes.clone().max() > sizes.min().map(|least| least * 100), "they are of mixed sizes");
        model.check(|tensor| files[tensor.shard].get(tensor.range.clone())).unwrap();
        let last = model.tensors.last().unwrap().range.end - 1;
        files[3][last] ^= 1;
        let error = model.check(|tensor| files[tensor.shard].get(tensor.range.clone())).unwrap_err().to_string();
        assert_eq!(error, "tensor \"layers.191.47\" did not come back as it was saved");
        assert!(model.check(|_| None).is_err());
        drop(model);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_saved_is_checked() {
        let dir = tempfile::tempdir().unwrap();
        let mut model = model(Start::New, dir.path());
        assert_eq!(fs::read_dir(model.folder()).unwrap().count(), 0, "a save starts from nothing");
        assert!(model.verify().is_err(), "no file is there");
        let images = || model.shards().iter().zip(model.images());
        images().for_each(|(path, image)| fs::write(path, image).unwrap());
        model.verify().unwrap();
        let damaged = fs::OpenOptions::new().write(true).open(&model.shards()[0]).unwrap();
        let at = model.tensors[5].range.start;
        damaged.write_all_at(&[!model.images()[0][at]], at as u64).unwrap();
        let error = model.verify().unwrap_err().to_string();
        assert_eq!(error, "tensor \"layers.5.5\" was not saved as it should be");
        model.prepare().unwrap();
        assert_eq!(fs::read_dir(model.folder()).unwrap().count(), 0);
    }
}
