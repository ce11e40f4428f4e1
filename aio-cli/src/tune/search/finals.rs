//! The last few and the defaults, in rounds, until the time is up.

use std::time::Duration;

use super::{Bench, Search, Stopped};
use crate::tune::verdict::ROUNDS_TO_TELL;

impl<C, B: Bench<C>> Search<'_, C, B> {
    /// Runs rounds with the candidates of `ranking`, the best first. Returns their rung, if a round fitted in.
    pub(super) fn final_rounds(&mut self, ranking: Vec<usize>) -> Result<Option<usize>, Stopped<B::Stop>> {
        let mut finalists: Vec<usize> = [0].into_iter().chain(ranking).collect();
        let bytes = self.amount(&mut finalists);
        self.rung += 1;
        let mut rounds = 0;
        let begun = |rounds: u32, rung| (rounds > 0).then_some(rung);
        while self.left() >= self.round(&finalists, bytes) {
            self.tell(&format!("final round {}", rounds + 1));
            // Each is first, second, ... in turn, forwards and backwards.
            finalists.rotate_left(1);
            if rounds % 2 == 1 {
                finalists.reverse();
            }
            for &index in &finalists {
                self.look(index, bytes).map_err(|stop| (begun(rounds, self.rung), stop))?;
            }
            rounds += 1;
            finalists.retain(|&index| self.entries[index].refused.is_none());
            if !finalists.contains(&0) {
                break;
            }
        }
        Ok(begun(rounds, self.rung))
    }

    /// How many bytes each measurement moves: as many as leave time for enough rounds; if that is too few, fewer
    /// finalists.
    fn amount(&self, finalists: &mut Vec<usize>) -> u64 {
        let enough = ROUNDS_TO_TELL as u32;
        let fits = |finalists: &[usize], bytes, rounds| self.round(finalists, bytes) * rounds <= self.left();
        let mut bytes = self.plan.least;
        while bytes < self.plan.most && fits(finalists, bytes.saturating_mul(2), 2 * enough) {
            bytes = bytes.saturating_mul(2).min(self.plan.most);
        }
        while finalists.len() > 2 && !fits(finalists, bytes, enough) {
            finalists.pop();
        }
        bytes
    }

    /// The time of a round, judged by the last measurements.
    fn round(&self, finalists: &[usize], bytes: u64) -> Duration {
        let cost = |&index: &usize| {
            let (took, moved) = self.entries[index].cost;
            // Starting an engine takes its time, however few bytes move.
            took.mul_f64((bytes as f64 / moved as f64).max(0.5))
        };
        finalists.iter().map(cost).sum()
    }
}
