//! A progress bar on stderr, if that is a terminal.

use std::path::Path;

use aio_core::shown;

use crate::output::Bar;

/// Bytes of the tensors of one path that were compared, and which path it is.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Bar,
    /// How many paths there are.
    paths: usize,
}

impl Progress {
    /// A bar for so many paths.
    pub(crate) fn new(paths: usize) -> Self {
        Self { bar: Bar::new(0, "[{bar:10}] {binary_bytes:>10} of {binary_total_bytes}  {wide_msg}"), paths }
    }

    /// Starts path `number`, of which `bytes` are to be compared.
    pub(crate) fn path(&self, number: usize, path: &Path, bytes: u64) {
        self.bar.set_length(bytes);
        self.bar.set_position(0);
        self.bar.set_message(format!("path {number} of {}: {}", self.paths, shown(path)));
        self.bar.tick();
    }

    /// Adds the bytes of a tensor.
    pub(crate) fn compared(&self, bytes: u64) {
        self.bar.inc(bytes);
    }
}
