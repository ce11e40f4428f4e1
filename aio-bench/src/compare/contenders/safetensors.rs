//! The crate safetensors: how models are loaded and saved in Rust otherwise.

use std::fs::File;

use memmap2::MmapMut;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::mmap::map;
use crate::compare::contender::{Contender, failed, timed};
use crate::compare::model::Model;
use crate::compare::work::Work;
use aio_cli::failure::Failure;
use aio_cli::host::cpu::Elapsed;
use aio_cli::interrupt;

/// The name in tables.
pub(crate) const NAME: &str = "safetensors";

/// The crate on one thread: files are mapped, parsed, and copied tensor by tensor; saves end with a sync.
pub(crate) struct Safetensors;

impl Contender for Safetensors {
    fn note(&self) -> Option<&'static str> {
        Some("maps the files of models and copies the tensors; it does nothing else")
    }

    fn run(&mut self, _: &Work) -> Result<Elapsed, Failure> {
        Err(failed("does not take part: it knows safetensors files only"))
    }

    fn run_model(&mut self, model: &Model) -> Result<Elapsed, Failure> {
        if model.saves() {
            return timed(|| save(model));
        }
        let mut memory = model.fresh_memory()?;
        let mut loaded = Vec::new();
        let elapsed = timed(|| {
            for (path, memory) in model.shards().iter().zip(&mut memory) {
                loaded.push(load(path, memory)?);
            }
            Ok(())
        })?;
        model.check(|tensor| {
            let (_, at, len) = loaded[tensor.shard].iter().find(|(name, ..)| *name == tensor.name)?;
            memory[tensor.shard].get(*at..at + len)
        })?;
        Ok(elapsed)
    }
}

/// Copies the tensors of a file into memory, one after the other: name, place and length of each.
fn load(path: &std::path::Path, memory: &mut MmapMut) -> Result<Vec<(String, usize, usize)>, Failure> {
    let file = map(path, false, None).map_err(failed)?;
    let parsed = SafeTensors::deserialize(&file).map_err(failed)?;
    let mut at = 0;
    let mut loaded = Vec::new();
    for (name, tensor) in parsed.iter() {
        interrupt::check()?;
        let bytes = tensor.data();
        memory[at..at + bytes.len()].copy_from_slice(bytes);
        loaded.push((name.to_owned(), at, bytes.len()));
        at += bytes.len();
    }
    Ok(loaded)
}

fn save(model: &Model) -> Result<(), Failure> {
    for (shard, path) in model.shards().iter().enumerate() {
        let tensors = model.tensors_of(shard).map(|(name, bytes)| {
            let view = TensorView::new(Dtype::BF16, vec![bytes.len() / 2], bytes);
            view.map(|view| (name, view)).map_err(failed)
        });
        let tensors = tensors.collect::<Result<Vec<_>, _>>()?;
        safetensors::serialize_to_file(tensors, None, path).map_err(failed)?;
        File::open(path).and_then(|file| file.sync_all()).map_err(failed)?;
        interrupt::check()?;
    }
    File::open(model.folder()).and_then(|folder| folder.sync_all()).map_err(failed)
}
