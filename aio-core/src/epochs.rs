//! "Everything that was accepted before": counting by epoch.
//!
//! A wait for all ops so far, and a sync that covers the writes so far, both need to know when the last of a set has
//! left while new members keep arriving. Members enter the current epoch; closing it starts the next one; the closed
//! one is drained when it and all before it are empty. Nothing is stored per member but its epoch's number.

use std::collections::VecDeque;

/// Counts members by epoch.
#[derive(Debug)]
pub(crate) struct Epochs {
    /// Number of the first epoch in `counts`; all before it are drained.
    first: u64,
    /// Members that have not left, per epoch; the last is the current one. Never empty.
    counts: VecDeque<usize>,
}

impl Default for Epochs {
    fn default() -> Self {
        Self { first: 0, counts: VecDeque::from([0]) }
    }
}

impl Epochs {
    /// A member enters the current epoch, whose number it keeps.
    pub(crate) fn enter(&mut self) -> u64 {
        if let Some(current) = self.counts.back_mut() {
            *current += 1;
        }
        self.first + self.counts.len() as u64 - 1
    }

    /// `members` of `epoch` leave.
    pub(crate) fn leave(&mut self, epoch: u64, members: usize) {
        if let Some(count) = self.counts.get_mut((epoch - self.first) as usize) {
            *count -= members;
        }
        while self.counts.len() > 1 && self.counts.front() == Some(&0) {
            self.counts.pop_front();
            self.first += 1;
        }
    }

    /// Closes the current epoch and returns its number. An epoch without members needs no successor.
    pub(crate) fn close(&mut self) -> u64 {
        let closed = self.first + self.counts.len() as u64 - 1;
        match self.counts.back() {
            Some(0) => closed.wrapping_sub(1),
            _ => {
                self.counts.push_back(0);
                closed
            }
        }
    }

    /// Whether all members have left.
    pub(crate) fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| *count == 0)
    }

    /// Whether all members of `epoch`, as `close` gave it, and of those before it have left.
    pub(crate) fn is_drained(&self, epoch: u64) -> bool {
        epoch == u64::MAX || epoch < self.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_set_is_drained_at_once() {
        let mut epochs = Epochs::default();
        let closed = epochs.close();
        assert!(epochs.is_drained(closed));
    }

    #[test]
    fn later_members_do_not_hold_up_a_closed_epoch() {
        let mut epochs = Epochs::default();
        let (a, b) = (epochs.enter(), epochs.enter());
        let first = epochs.close();
        let c = epochs.enter();
        let second = epochs.close();
        let third = epochs.close();
        assert_eq!(second, third);
        epochs.leave(c, 1);
        assert!(!epochs.is_drained(first) && !epochs.is_drained(second));
        epochs.leave(a, 1);
        assert!(!epochs.is_drained(first));
        epochs.leave(b, 1);
        assert!(epochs.is_drained(first) && epochs.is_drained(second));
        assert!(epochs.is_empty());
        let d = epochs.enter();
        assert!(epochs.is_drained(first) && !epochs.is_empty());
        let fourth = epochs.close();
        assert!(!epochs.is_drained(fourth));
        epochs.leave(d, 1);
        assert!(epochs.is_drained(fourth));
    }
}
