//! Observers of ops as they end, beside the totals: figures per kind of op, the log, the line on the terminal.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::drive;
use super::live::Counter;
use super::log::Intervals;

/// Observes every op that ends.
pub(crate) trait Watch {
    /// Measuring begins now.
    fn begin(&mut self, now: Instant);
    /// An op of this kind ended now.
    fn ended(&mut self, kind: usize, blocks: usize, took: Duration, now: Instant);
}

/// Observes nothing.
#[derive(Debug)]
pub(crate) struct Quiet;

impl Watch for Quiet {
    #[inline]
    fn begin(&mut self, _: Instant) {}

    #[inline]
    fn ended(&mut self, _: usize, _: usize, _: Duration, _: Instant) {}
}

/// Observes what the arguments ask for.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    /// By kind of op; empty if there is only one, whose figures are the totals.
    pub(crate) kinds: Vec<Figures>,
    pub(crate) live: Option<Counter>,
    pub(crate) log: Option<Intervals>,
}

/// The figures of one kind of op.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) blocks: u64,
    /// Nanoseconds per op.
    pub(crate) latency: Histogram<u64>,
}

impl Figures {
    pub(crate) fn new() -> Self {
        Self { blocks: 0, latency: drive::histogram() }
    }
}

impl Observer {
    /// Whether there is nothing to observe.
    pub(crate) fn is_idle(&self) -> bool {
        self.kinds.is_empty() && self.live.is_none() && self.log.is_none()
    }
}

impl Watch for Observer {
    fn begin(&mut self, now: Instant) {
        self.kinds.fill_with(Figures::new);
        if let Some(log) = &mut self.log {
            log.begin(now);
        }
    }

    #[inline]
    fn ended(&mut self, kind: usize, blocks: usize, took: Duration, now: Instant) {
        if let Some(live) = &mut self.live {
            live.add(blocks);
        }
        if let Some(figures) = self.kinds.get_mut(kind) {
            figures.blocks += blocks as u64;
            figures.latency.saturating_record(took.as_nanos() as u64);
        }
        if let Some(log) = &mut self.log {
            log.record(kind, took, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_before_the_beginning_is_forgotten() {
        let now = Instant::now();
        let mut observer = Observer { kinds: vec![Figures::new(), Figures::new()], ..Observer::default() };
        observer.ended(1, 5, Duration::from_micros(1), now);
        observer.begin(now);
        observer.ended(1, 3, Duration::from_micros(2), now);
        observer.ended(0, 1, Duration::from_micros(3), now);
        observer.ended(1, 3, Duration::from_micros(2), now);
        let seen = observer.kinds.iter().map(|kind| (kind.blocks, kind.latency.len())).collect::<Vec<_>>();
        assert_eq!(seen, [(1, 1), (6, 2)]);
    }
}
