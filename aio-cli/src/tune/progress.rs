//! A progress bar on stderr, if that is a terminal: the current activity, the time left, and the best so far.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::ProgressState;

use crate::output::Bar;

/// The bar shows how much of the time has passed.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Bar,
    clock: Instant,
    /// The prefix of every message.
    place: Mutex<String>,
}

impl Progress {
    /// Draws nothing unless stderr is a terminal.
    pub(crate) fn new(clock: Instant, budget: Duration) -> Self {
        let left = move |_: &ProgressState, out: &mut dyn Write| {
            // Failing to draw the bar is not an error.
            let _ = write!(out, "{:>4.0} s left", budget.saturating_sub(clock.elapsed()).as_secs_f64());
        };
        let bar = Bar::new(budget.as_millis() as u64, "[{bar:20}] {left}  {wide_msg}");
        bar.set_style(bar.style().with_key("left", left));
        let ticking = bar.clone();
        let tick = move || {
            while !ticking.is_finished() {
                ticking.tick();
                thread::sleep(Duration::from_millis(250));
            }
        };
        // indicatif's own ticker panics if no thread can be started; without this thread the bar moves with the stages
        // only.
        if !bar.is_hidden() {
            let _ = thread::Builder::new().name("progress".to_owned()).spawn(tick);
        }
        Self { bar, clock, place: Mutex::default() }
    }

    /// Sets the folder that messages are about.
    pub(crate) fn place(&self, place: &str) {
        place.clone_into(&mut self.place.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Shows the current activity.
    pub(crate) fn stage(&self, stage: &str) {
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        self.bar.set_position(self.clock.elapsed().as_millis() as u64);
        self.bar.set_message(format!("{}: {stage}", *place));
    }
}
