//! The tensors to move, and where their bytes come from.

use std::path::PathBuf;

use aio::Backend;
use aio::tensor::SafeTensors;
use aio_core::shown;
use xxhash_rust::xxh3::xxh3_64;

use super::gpt2;
use crate::failure::Failure;
use crate::generate;

/// The most tensors of one set; each is a file.
pub(crate) const MOST: u64 = 1_000_000;

/// The tensors of a job.
#[derive(Debug)]
pub(crate) struct TensorSet {
    /// A description for people.
    pub(crate) description: String,
    /// In the order of writing.
    pub(crate) tensors: Vec<Tensor>,
    /// The models that [`Source::Model`] refers to.
    models: Vec<SafeTensors>,
}

#[derive(Debug)]
pub(crate) struct Tensor {
    /// Its name in the model.
    pub(crate) name: String,
    /// Its size.
    pub(crate) bytes: u64,
    /// Its contents.
    source: Source,
}

#[derive(Debug)]
enum Source {
    Generated {
        seed: u64,
    },
    /// The tensor of the same name.
    Model {
        index: usize,
    },
}

impl TensorSet {
    /// The parameters of GPT-2 small and their two Adam moments, in fp32.
    pub(crate) fn gpt2() -> Self {
        let tensors = gpt2::training_state().map(|(name, elements)| Tensor::generated(name, 4 * elements)).collect();
        Self { description: "GPT-2 small with Adam moments, fp32, generated".to_owned(), tensors, models: Vec::new() }
    }

    /// `count` tensors of `bytes` each.
    pub(crate) fn uniform(count: u64, bytes: u64) -> Self {
        let tensors = (0..count).map(|index| Tensor::generated(format!("tensor.{index}"), bytes)).collect();
        Self {
            description: format!("uniform, {} each, generated", crate::size::exact(bytes)),
            tensors,
            models: Vec::new(),
        }
    }

    /// Every tensor of every safetensors file, folder or index.
    pub(crate) fn open(paths: &[PathBuf]) -> Result<Self, Failure> {
        // An engine apart from those that are measured, which takes nothing that they need.
        let engine = aio::builder().backend(Backend::Pthread).build()?;
        let mut set = Self { description: describe(paths), tensors: Vec::new(), models: Vec::new() };
        for path in paths {
            let model = SafeTensors::open(&engine, path)?;
            let index = set.models.len();
            set.tensors.extend(model.tensors().iter().map(|info| Tensor {
                name: info.name().to_owned(),
                bytes: info.byte_len(),
                source: Source::Model { index },
            }));
            set.models.push(model);
        }
        let count = set.tensors.len();
        match count as u64 {
            0 => Err(Failure::Failed(format!("{} holds no tensor", set.description))),
            1..=MOST => Ok(set),
            _ => {
                Err(Failure::Failed(format!("{} holds {count} tensors: at most {MOST} are swapped", set.description)))
            }
        }
    }

    /// Bytes of all tensors.
    pub(crate) fn bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes).fold(0, u64::saturating_add)
    }

    /// Fills `memory`, which is as long as the tensor, with its bytes, and returns their hash.
    pub(crate) fn load(&self, tensor: &Tensor, memory: &mut [u8]) -> Result<u64, Failure> {
        match tensor.source {
            Source::Generated { seed } => generate::fill(memory, seed),
            Source::Model { index } => self.models[index].read_into([(&tensor.name, &mut *memory)])?,
        }
        Ok(xxh3_64(memory))
    }
}

impl Tensor {
    /// A tensor whose bytes follow from its name, on every backend and in every run.
    fn generated(name: String, bytes: u64) -> Self {
        let seed = xxh3_64(name.as_bytes());
        Self { name, bytes, source: Source::Generated { seed } }
    }
}

fn describe(paths: &[PathBuf]) -> String {
    match paths {
        [only] => shown(only).to_string(),
        several => format!("{} paths of safetensors files", several.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_tensors_are_the_same_every_time_and_differ_from_each_other() {
        let set = TensorSet::uniform(2, 1001);
        let mut memory = vec![0; 1001];
        let first = set.load(&set.tensors[0], &mut memory).unwrap();
        let second = set.load(&set.tensors[1], &mut memory).unwrap();
        assert_ne!(first, second);
        assert_eq!(TensorSet::uniform(1, 1001).load(&set.tensors[0], &mut memory).unwrap(), first);
        assert_eq!(set.bytes(), 2002);
    }

    #[test]
    fn the_tensors_of_several_files_are_those_of_each() {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<_> = [b"abcd", b"efgh"]
            .iter()
            .enumerate()
            .map(|(index, data)| {
                let path = dir.path().join(format!("{index}.safetensors"));
                let header = r#"{"b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]},"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#;
                let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), *data].concat();
                std::fs::write(&path, file).unwrap();
                path
            })
            .collect();
        let set = TensorSet::open(&paths).unwrap();
        let read = set.tensors.iter().map(|tensor| {
            let mut memory = vec![0; usize::try_from(tensor.bytes).unwrap()];
            assert_eq!(set.load(tensor, &mut memory).unwrap(), xxh3_64(&memory));
            (tensor.name.as_str(), String::from_utf8(memory).unwrap())
        });
        let expected = [("a", "abc"), ("b", "d"), ("a", "efg"), ("b", "h")].map(|(n, d)| (n, d.to_owned()));
        assert_eq!(read.collect::<Vec<_>>(), expected);
    }
}
