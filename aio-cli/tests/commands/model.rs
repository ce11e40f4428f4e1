//! Models to read, as the library saves them.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use aio::AioHandle;
use aio::tensor::{Dtype, SafeTensors, SaveOptions, TensorView};

use crate::support::bench::Bench;

/// Tensors of these names, of 4000 bytes each.
pub(crate) struct Model<'a> {
    pub(crate) names: &'a [&'a str],
    pub(crate) checksums: bool,
    /// The most bytes of a file, if the path is that of an index.
    pub(crate) shard_size: u64,
}

/// A model in one file, with checksums.
pub(crate) fn whole<'a>(names: &'a [&'a str]) -> Model<'a> {
    Model { names, checksums: true, shard_size: u64::MAX }
}

impl Model<'_> {
    pub(crate) fn save(&self, bench: &Bench, path: &str) {
        let bytes: Vec<u8> = (0..=255).cycle().take(4000).collect();
        let view = || TensorView::new(Dtype::F32, vec![10, 100], &bytes).unwrap();
        let options = SaveOptions::new().checksums(self.checksums).max_shard_size(self.shard_size);
        let options = options.metadata("format", "pt\u{7}");
        options.save(&engine(), bench.path().join(path), self.names.iter().map(|name| (*name, view()))).unwrap();
    }
}

fn engine() -> AioHandle {
    aio::builder().build().unwrap()
}

/// Changes a byte of a tensor; returns the file that it is in.
pub(crate) fn damage(bench: &Bench, path: &str, name: &str) -> String {
    let model = SafeTensors::open(&engine(), bench.path().join(path)).unwrap();
    let info = model.info(name).unwrap();
    let path = model.files().nth(info.file()).unwrap();
    let file: File = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, info.range().start + 1234).unwrap();
    file.write_all_at(&[!byte[0]], info.range().start + 1234).unwrap();
    path.file_name().unwrap().to_str().unwrap().to_owned()
}
