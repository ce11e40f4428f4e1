//! The file that the benches read.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use tempfile::TempDir;

/// Bytes per read.
pub(crate) const BLOCK: usize = 4096;

const LEN: u64 = 1 << 30;
/// Written, because glommio tests polled I/O with the first block of the first file it opens on a device. With a hole
/// there it assumes that polling works: it then reads holes on a separate ring, and reads of data fail.
const HEAD: u64 = 1 << 20;

/// A sparse file in the temporary folder. Reading a hole goes the whole way through the kernel except for the device,
/// whose own time would hide the differences.
pub(crate) struct DataFile {
    path: PathBuf,
    _folder: TempDir,
}

impl DataFile {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("sparse");
        let file = File::create(&path).expect("a file");
        file.set_len(LEN).expect("a sparse file takes no room");
        file.write_all_at(&vec![1; HEAD as usize], 0).and_then(|()| file.sync_all()).expect("room for 1 MiB");
        Self { path, _folder: folder }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it for reading past the page cache.
    pub(crate) fn open_direct(&self) -> io::Result<File> {
        OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECT.bits()).open(&self.path)
    }
}

/// Endless offsets of blocks, spread over the hole.
#[derive(Clone, Copy, Default)]
pub(crate) struct Offsets(u64);

impl Offsets {
    /// Another sequence, which begins elsewhere.
    #[cfg(feature = "peer-glommio")]
    pub(crate) fn split(&mut self) -> Self {
        Self(self.next() << 24)
    }

    pub(crate) fn next(&mut self) -> u64 {
        const BLOCKS: u64 = (LEN - HEAD) / BLOCK as u64;
        // The golden ratio spreads multiples evenly.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        HEAD + (self.0 >> 32) % BLOCKS * BLOCK as u64
    }
}
