//! How much is left to do.

use std::time::{Duration, Instant};

use aio_cli::interrupt;

/// When to stop.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    Blocks(u64),
    Time(Duration),
}

/// What remains to do.
pub(super) struct Budget {
    pub(super) blocks: u64,
    deadline: Option<Instant>,
    per_op: usize,
}

impl Budget {
    pub(super) fn new(limit: Limit, per_op: usize, start: Instant) -> Self {
        match limit {
            Limit::Blocks(blocks) => Self { blocks, deadline: None, per_op },
            Limit::Time(time) => Self { blocks: u64::MAX, deadline: Some(start + time), per_op },
        }
    }

    /// For a stretch of blocking calls, which may have to stop early.
    pub(super) fn of_stretch(limit: Limit, at_most: Option<Duration>, start: Instant) -> Self {
        let budget = Self::new(limit, 1, start);
        let stop = at_most.map(|time| start + time);
        Self { deadline: [budget.deadline, stop].into_iter().flatten().min(), ..budget }
    }

    /// How many blocks the next op moves; 0 ends the job.
    #[inline]
    pub(super) fn take(&mut self, now: Instant) -> usize {
        if self.deadline.is_some_and(|deadline| now >= deadline) || interrupt::check().is_err() {
            return 0;
        }
        let blocks = self.blocks.min(self.per_op as u64);
        self.blocks -= blocks;
        blocks as usize
    }

    /// The budget without the blocks that are already in flight.
    pub(super) fn without(self, blocks: usize) -> Self {
        Self { blocks: self.blocks.saturating_sub(blocks as u64), ..self }
    }

    /// Ends the job.
    pub(super) fn spend(&mut self) {
        self.blocks = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_op_moves_what_is_left() {
        let now = Instant::now();
        let mut budget = Budget::new(Limit::Blocks(20), 16, now);
        assert_eq!([budget.take(now), budget.take(now), budget.take(now)], [16, 4, 0]);
        let mut budget = Budget::new(Limit::Blocks(20), 16, now).without(8);
        assert_eq!([budget.take(now), budget.take(now)], [12, 0]);
        assert_eq!(Budget::new(Limit::Blocks(20), 16, now).without(21).take(now), 0);
    }

    #[test]
    fn time_is_up_at_the_deadline() {
        let now = Instant::now();
        let mut budget = Budget::new(Limit::Time(Duration::from_secs(1)), 1, now);
        assert_eq!(budget.take(now), 1);
        assert_eq!(budget.take(now + Duration::from_secs(1)), 0);
    }
}
