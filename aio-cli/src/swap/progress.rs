//! A bar on stderr, where that is a terminal.

use aio::Backend;
use indicatif::ProgressBar;

use crate::output;

/// Bytes moved so far, of all backends together.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// For `backends` that each write and read `bytes`. Draws nothing unless stderr is a terminal.
    pub(crate) fn new(bytes: u64, backends: usize) -> Self {
        let bar = ProgressBar::new(bytes.saturating_mul(2).saturating_mul(backends as u64));
        let template = "[{bar:20}] {decimal_bytes:>9} of {decimal_total_bytes}  {wide_msg}";
        bar.set_style(output::progress_style(template));
        Self { bar }
    }

    /// What is being done.
    pub(crate) fn stage(&self, backend: Backend, what: &str) {
        self.bar.set_message(format!("{backend}: {what}"));
        self.bar.tick();
    }

    /// So many bytes more have moved.
    pub(crate) fn moved(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Takes the bar away, so that the result stands alone.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}
