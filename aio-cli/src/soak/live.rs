//! A status line on stderr, if that is a terminal.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::counts::{Counts, Seen};
use crate::output::Bar;
use crate::size;

/// The status line; drop erases it.
#[derive(Debug)]
pub(crate) struct Live {
    bar: Bar,
    clock: Instant,
    time: Duration,
}

impl Live {
    /// Draws nothing unless stderr is a terminal.
    pub(crate) fn new(clock: Instant, time: Duration) -> Self {
        Self { bar: Bar::new(0, "{wide_msg}"), clock, time }
    }

    /// Draws until `ended`.
    pub(crate) fn watch(&self, lanes: &[Arc<Counts>], ended: impl Fn() -> bool) {
        const INTERVAL: Duration = Duration::from_millis(100);
        while !ended() {
            thread::sleep(INTERVAL);
            let seen = lanes.iter().map(|lane| lane.seen()).sum();
            self.bar.set_message(text(self.clock.elapsed(), self.time, &seen));
            self.bar.tick();
        }
    }
}

fn text(elapsed: Duration, time: Duration, seen: &Seen) -> String {
    let Seen { ops, bytes_verified, faults, mismatches, errors, .. } = seen;
    let (elapsed, time) = (elapsed.as_secs_f64(), time.as_secs_f64());
    let wrong = mismatches + errors;
    let verified = size::show(*bytes_verified);
    format!("{elapsed:.0} of {time:.0} s: {ops} ops, {verified} verified, {faults} faults survived, {wrong} wrong")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_is_wrong() {
        let seen = Seen { ops: 12, bytes_verified: 3 << 19, faults: 3, mismatches: 1, errors: 1, ..Seen::default() };
        let line = text(Duration::from_secs(5), Duration::from_secs(60), &seen);
        assert_eq!(line, "5 of 60 s: 12 ops, 1.5 MiB verified, 3 faults survived, 2 wrong");
    }
}
