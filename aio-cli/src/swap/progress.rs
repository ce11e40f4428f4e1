//! A progress bar on stderr, if that is a terminal.

use std::fmt::Write;
use std::time::Instant;

use aio::Backend;
use indicatif::ProgressState;

use crate::output::Bar;

/// Bytes moved in all passes together, and the time left.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Bar,
    /// Bytes that one backend moves in one pass.
    bytes: u64,
}

impl Progress {
    /// A bar for passes that each write and read `bytes`.
    pub(crate) fn new(bytes: u64) -> Self {
        Self { bar: Bar::new(0, "[{bar:10}] {binary_bytes:>10}{left}  {wide_msg}"), bytes: bytes.saturating_mul(2) }
    }

    /// Starts a pass of a backend, after `done` such passes and as the first of the `left` ones.
    pub(crate) fn pass(&self, pass: u32, backend: Backend, done: usize, left: usize) {
        let end = self.bar.elapsed().checked_div(done as u32).map(|each| Instant::now() + each * left as u32);
        let time_left = move |_: &ProgressState, out: &mut dyn Write| {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()).as_secs_f64());
            // Failing to draw the bar is not an error.
            let _ = left.map_or(Ok(()), |left| write!(out, ", {left:.0} s left"));
        };
        self.bar.set_style(self.bar.style().with_key("left", time_left));
        self.bar.set_length(self.bytes.saturating_mul((done + left) as u64));
        self.bar.set_position(self.bytes.saturating_mul(done as u64));
        self.bar.set_prefix(format!("pass {pass}, {backend}"));
    }

    /// Shows the current activity.
    pub(crate) fn stage(&self, what: &str) {
        self.bar.set_message(format!("{}: {what}", self.bar.prefix()));
        self.bar.tick();
    }

    /// Adds moved bytes.
    pub(crate) fn moved(&self, bytes: u64) {
        self.bar.inc(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_all_passes_that_are_left_and_done() {
        let progress = Progress::new(50);
        let shown = || (progress.bar.position(), progress.bar.length(), progress.bar.prefix());
        progress.pass(1, Backend::Pthread, 0, 9);
        progress.moved(50);
        assert_eq!(shown(), (50, Some(900), "pass 1, pthread".to_owned()));
        // The first backend failed halfway, and runs no more passes.
        progress.pass(1, Backend::Uring, 1, 6);
        assert_eq!(shown(), (100, Some(700), "pass 1, uring".to_owned()));
    }
}
