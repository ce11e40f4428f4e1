//! Reaping: the sleep that completions, the deadline or the waker end.

use std::sync::{MutexGuard, PoisonError};
use std::time::Instant;

use aio_core::backend::{Completion, Wake};

use crate::pool::{Pool, State, transfer};

impl Pool {
    /// Waits for `min` completions, the deadline (`None`: none) or, where `heed_waker`, the waker, whichever is first;
    /// then moves the completions there are to `done`.
    pub(crate) fn wait(&self, min: usize, deadline: Option<Instant>, heed_waker: bool, done: &mut Vec<Completion>) {
        let mut state = self.lock();
        let over = |state: &State| {
            state.done.len() >= min
                || (heed_waker && state.woken)
                || deadline.is_some_and(|deadline| deadline <= Instant::now())
        };
        // At least one run, so that a reaper that only polls gets on, too.
        while state.threads == 0 && !state.pending.is_empty() {
            state = self.transfer_here(state);
            if over(&state) {
                break;
            }
        }
        while !over(&state) {
            state.wanted = min;
            state = match deadline {
                None => self.news.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    self.news.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
            state.wanted = usize::MAX;
        }
        state.woken &= !heed_waker;
        done.append(&mut state.done);
    }

    /// Transfers one run on the reaper's own thread, when there is no other.
    fn transfer_here<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let (mut run, mut done) = (Vec::new(), Vec::new());
        state.take(self.merging, &mut run);
        drop(state);
        transfer(&run, &mut done);
        let mut state = self.lock();
        state.done.append(&mut done);
        state
    }
}

impl Wake for Pool {
    fn wake(&self) {
        self.lock().woken = true;
        self.news.notify_one();
    }
}
