//! What the tests share.
#![allow(unreachable_pub, dead_code, reason = "each test file uses its part")]

use std::path::Path;
use std::sync::OnceLock;

use aio::AioHandle;
use aio::tensor::{Dtype, Error, Result, SafeTensors, SaveOptions, TensorSpec, Writer};

/// One for all tests of a process, with small blocks, so that little data makes many of them.
pub fn handle() -> AioHandle {
    static HANDLE: OnceLock<AioHandle> = OnceLock::new();
    HANDLE.get_or_init(|| aio::builder().block_size(64 << 10).build().unwrap()).clone()
}

/// All that the format has.
pub fn dtypes() -> Vec<Dtype> {
    use Dtype::*;
    vec![
        BOOL,
        F4,
        F6_E2M3,
        F6_E3M2,
        U8,
        I8,
        F8_E5M2,
        F8_E4M3,
        F8_E8M0,
        F8_E4M3FNUZ,
        F8_E5M2FNUZ,
        I16,
        U16,
        F16,
        BF16,
        I32,
        U32,
        F32,
        C64,
        F64,
        I64,
        U64,
    ]
}

/// Mixes a number.
pub fn mix(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// `len` bytes that differ with the seed.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let words = (0..len.div_ceil(8) as u64).flat_map(|at| mix(mix(seed) ^ at).to_le_bytes());
    words.take(len).collect()
}

/// What one save of a test holds: all tests that compare generations use the same names, so that files of two of them
/// that were mixed would be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(pub u64);

impl Generation {
    /// Names and bytes; some shards have one tensor, some several.
    pub fn tensors(self) -> Vec<(String, Vec<u8>)> {
        let sizes = [30_000, 100, 4096, 70_000 + self.0 as usize % 50, 0, 1];
        let tensor = |(at, size)| (format!("t{at}"), pattern(self.0 * 100 + at as u64, size));
        sizes.into_iter().enumerate().map(tensor).collect()
    }

    pub fn options(self) -> SaveOptions {
        SaveOptions::new().metadata("generation", self.0.to_string()).max_shard_size(40_000)
    }

    pub fn specs(self) -> Vec<TensorSpec> {
        self.tensors().iter().map(|(name, bytes)| TensorSpec::new(name, Dtype::U8, [bytes.len()])).collect()
    }

    pub fn save(self, aio: &AioHandle, path: &Path) -> Result<()> {
        self.write(aio, path)?.finish()
    }

    pub fn save_durable(self, aio: &AioHandle, path: &Path, durable: bool) -> Result<()> {
        self.write_with(aio, path, &self.options().durable(durable))?.finish()
    }

    /// All but the end of a save.
    pub fn write(self, aio: &AioHandle, path: &Path) -> Result<Writer> {
        self.write_with(aio, path, &self.options())
    }

    fn write_with(self, aio: &AioHandle, path: &Path, options: &SaveOptions) -> Result<Writer> {
        let writer = options.begin(aio, path, self.specs())?;
        for (name, bytes) in self.tensors() {
            writer.write(&name, &bytes)?;
        }
        Ok(writer)
    }

    /// Which one is there, whole and verified.
    pub fn open(aio: &AioHandle, path: &Path) -> Result<Self> {
        let set = SafeTensors::open(aio, path)?.verified(true);
        let found = Self(set.metadata()["generation"].parse().expect("a number"));
        let tensors = set.load()?;
        let expected = found.tensors();
        assert_eq!(tensors.len(), expected.len());
        for (name, bytes) in expected {
            assert!(tensors[&name].bytes() == bytes, "{name} of {found:?} in {}", path.display());
            assert!(set.info(&name)?.checksum().is_some());
        }
        Ok(found)
    }
}

/// The names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("the folder is there");
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "lost+found")
        .collect();
    names.sort();
    names
}

/// The name of an index, and of a single file.
pub const PATHS: [&str; 2] = ["m.safetensors.index.json", "m.safetensors"];

/// Fails unless it is [`Error::NotSaved`] as a sentence, which gives this reason.
#[track_caller]
pub fn assert_not_saved<T: std::fmt::Debug>(result: Result<T>, why: &str) {
    let error = result.unwrap_err();
    let sentence = error.to_string();
    assert!(matches!(error, Error::NotSaved { .. }), "{sentence}");
    assert!(sentence.contains("is not saved, and what was there is as it was: "), "{sentence}");
    assert!(sentence.contains(why), "{sentence}");
}
