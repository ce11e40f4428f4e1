//! A bar on stderr, where that is a terminal.

use aio::Backend;

use crate::output::Bar;

/// Bytes moved so far, of all backends together.
#[derive(Debug)]
pub(crate) struct Progress(Bar);

impl Progress {
    /// For `backends` that each write and read `bytes`.
    pub(crate) fn new(bytes: u64, backends: usize) -> Self {
        let template = "[{bar:20}] {decimal_bytes:>9} of {decimal_total_bytes}  {wide_msg}";
        Self(Bar::new(bytes.saturating_mul(2).saturating_mul(backends as u64), template))
    }

    /// What is being done.
    pub(crate) fn stage(&self, backend: Backend, what: &str) {
        self.0.set_message(format!("{backend}: {what}"));
        self.0.tick();
    }

    /// So many bytes more have moved.
    pub(crate) fn moved(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}
