//! A bar on stderr, where that is a terminal: what is being done, the time left, and the best so far.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::ProgressState;

use crate::output::Bar;

/// The bar is the budget; it moves with the time.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Bar,
    clock: Instant,
    /// What every message begins with.
    place: Mutex<String>,
}

impl Progress {
    /// Draws nothing unless stderr is a terminal.
    pub(crate) fn new(clock: Instant, budget: Duration) -> Self {
        let left = move |_: &ProgressState, out: &mut dyn Write| {
            // A bar that cannot be drawn is no reason to fail.
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
        // indicatif's own panics where there is no thread to be had; without one the bar moves with the stages alone.
        if !bar.is_hidden() {
            let _ = thread::Builder::new().name("progress".to_owned()).spawn(tick);
        }
        Self { bar, clock, place: Mutex::default() }
    }

    /// Which folder it is about from now on.
    pub(crate) fn place(&self, place: &str) {
        place.clone_into(&mut self.place.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What is being done.
    pub(crate) fn stage(&self, stage: &str) {
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        self.bar.set_position(self.clock.elapsed().as_millis() as u64);
        self.bar.set_message(format!("{}: {stage}", *place));
    }
}
