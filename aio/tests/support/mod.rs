//! What the end-to-end tests share: the backends that work here, handles on them, and files to work on.
#![allow(unreachable_pub, dead_code, reason = "each test file uses its part")]

use std::path::PathBuf;

use aio::{AioHandle, Backend, Builder, DirectMode};
use tempfile::TempDir;

/// The backends that work here. One that `AIO_EXPECT` names and that does not work fails the test.
pub fn backends() -> Vec<Backend> {
    let works = |backend: &Backend| {
        let implementation = backend.implementation().expect("compiled in");
        aio_core::conformance::require(&*implementation)
    };
    Backend::COMPILED.iter().copied().filter(works).collect()
}

/// Every backend in every file mode. Blocks are small, so that little data makes many of them.
pub fn each(test: impl Fn(&dyn Fn() -> Builder, &AioHandle, &Folder)) {
    for backend in backends() {
        for direct in [DirectMode::Auto, DirectMode::Off] {
            eprintln!("on {backend}, direct {direct:?}");
            let builder = || AioHandle::builder().backend(backend).direct(direct).block_size(16 << 10).queue_depth(8);
            let handle = builder().build().expect("the probe succeeded");
            test(&builder, &handle, &Folder::new());
        }
    }
}

/// A folder of a test, on the file system of the temporary folder.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file with these bytes.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).expect("room for a test file");
        path
    }

    /// How many files it holds.
    pub fn count(&self) -> usize {
        std::fs::read_dir(self.0.path()).expect("the folder is there").count()
    }
}

/// Bytes that differ from place to place and from seed to seed.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| next()).collect();
    bytes.truncate(len);
    bytes
}
