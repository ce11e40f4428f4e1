//! Where candidates come from: near the defaults, and anywhere.

use std::collections::HashSet;

use aio::DirectMode;

use super::candidate::Candidate;
use crate::generate::SplitMix64;

/// The values worth trying on a machine and its file system.
#[derive(Debug, Clone)]
pub(crate) struct Space {
    /// The defaults' backend comes first.
    pub(crate) backends: Vec<&'static str>,
    /// Whether the file system does direct I/O; otherwise all is buffered.
    pub(crate) direct: bool,
    pub(crate) cpus: usize,
    /// Bytes of an op, and of all in flight: they bound useful block sizes and queue depths.
    pub(crate) op_bytes: usize,
    pub(crate) in_flight: usize,
}

const BLOCK_SIZES: [usize; 8] = [128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20, 8 << 20, 16 << 20];
const QUEUE_DEPTHS: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, 128];
const THREADS: [usize; 5] = [1, 2, 4, 8, 16];

/// Ends the sampling of a space that has few values left.
const TRIES: usize = 1000;

impl Space {
    /// At most `count` candidates: the defaults, then neighbours of them and samples in turn. The same for the same
    /// seed.
    pub(crate) fn candidates(&self, count: usize, seed: u64) -> Vec<Candidate> {
        let mut random = SplitMix64::new(seed);
        let mut neighbours = self.neighbours().into_iter();
        let mut candidates = vec![Candidate::defaults()];
        let mut known: HashSet<_> = candidates.iter().cloned().collect();
        for _ in 0..TRIES {
            for proposed in [neighbours.next(), Some(self.sample(&mut random))].into_iter().flatten() {
                if candidates.len() < count && self.makes_sense(&proposed) && known.insert(proposed.clone()) {
                    candidates.push(proposed);
                }
            }
        }
        candidates
    }

    /// The defaults with one thing changed, what matters most first.
    fn neighbours(&self) -> Vec<Candidate> {
        let usual = Candidate::defaults();
        let block = |block_size| Candidate { block_size, ..usual.clone() };
        let depth = |queue_depth| Candidate { queue_depth, ..usual.clone() };
        let threads = |intra_op_parallelism| Candidate { intra_op_parallelism, ..usual.clone() };
        let mut near = vec![
            block(usual.block_size / 2),
            threads(2 * usual.intra_op_parallelism),
            depth(usual.queue_depth / 4),
            block(2 * usual.block_size),
        ];
        near.extend(self.backends.iter().skip(1).map(|&name| Candidate { backend: Some(name), ..usual.clone() }));
        if self.direct {
            near.push(Candidate { direct: DirectMode::Off, ..usual.clone() });
        }
        near.extend([
            depth(2 * usual.queue_depth),
            block(usual.block_size / 4),
            block(4 * usual.block_size),
            threads(4 * usual.intra_op_parallelism),
            depth(usual.queue_depth / 2),
            Candidate { single_submit: !usual.single_submit, ..usual.clone() },
            Candidate { overlap_events: !usual.overlap_events, ..usual.clone() },
        ]);
        near
    }

    /// A random combination, in which values that are usually right are more likely.
    fn sample(&self, random: &mut SplitMix64) -> Candidate {
        let usual = Candidate::defaults();
        let mut below = |bound: usize| random.below(bound as u64) as usize;
        let place = below(self.backends.len().max(1));
        Candidate {
            backend: if place == 0 { None } else { self.backends.get(place).copied() },
            block_size: BLOCK_SIZES[below(BLOCK_SIZES.len())],
            queue_depth: QUEUE_DEPTHS[below(QUEUE_DEPTHS.len())],
            intra_op_parallelism: THREADS[below(THREADS.len())],
            single_submit: (below(4) == 0) != usual.single_submit,
            overlap_events: (below(4) == 0) != usual.overlap_events,
            direct: if below(4) == 0 { DirectMode::Off } else { usual.direct },
        }
    }

    fn makes_sense(&self, candidate: &Candidate) -> bool {
        let usual = Candidate::defaults();
        let most = self.in_flight.max(usual.block_size * usual.queue_depth);
        let in_flight = candidate.block_size * candidate.queue_depth;
        candidate.block_size <= self.op_bytes.max(usual.block_size)
            && in_flight * candidate.intra_op_parallelism <= 2 * most
            && in_flight <= most
            && candidate.intra_op_parallelism <= self.cpus.saturating_mul(2).max(2)
            && (self.direct || candidate.direct == usual.direct)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> Space {
        Space {
            backends: vec!["uring", "libaio", "pthread"],
            direct: true,
            cpus: 4,
            op_bytes: 16 << 20,
            in_flight: 128 << 20,
        }
    }

    #[test]
    fn a_seed_repeats_itself_and_no_candidate_does() {
        let candidates = space().candidates(60, 1);
        assert_eq!(candidates, space().candidates(60, 1));
        assert_ne!(candidates, space().candidates(60, 2));
        let distinct: HashSet<_> = candidates.iter().collect();
        assert_eq!((distinct.len(), candidates.len()), (60, 60));
        assert_eq!(candidates[0], Candidate::defaults());
        assert_eq!(space().candidates(7, 1), candidates[..7]);
    }

    #[test]
    fn every_factor_varies_and_every_candidate_is_valid() {
        let candidates = space().candidates(200, 3);
        let distinct = |value: fn(&Candidate) -> String| candidates.iter().map(value).collect::<HashSet<_>>().len();
        assert_eq!(distinct(|c| format!("{:?}", c.backend)), 3);
        assert_eq!(distinct(|c| c.block_size.to_string()), BLOCK_SIZES.len());
        assert_eq!(distinct(|c| c.queue_depth.to_string()), QUEUE_DEPTHS.len());
        assert_eq!(distinct(|c| c.intra_op_parallelism.to_string()), 4);
        assert_eq!(distinct(|c| c.single_submit.to_string()), 2);
        assert_eq!(distinct(|c| c.overlap_events.to_string()), 2);
        assert_eq!(distinct(|c| c.direct.to_string()), 2);
        for candidate in &candidates {
            candidate.config().validate_ranges().unwrap();
        }
    }

    #[test]
    fn what_could_not_be_told_apart_is_left_out() {
        let narrow =
            Space { backends: vec!["pthread"], direct: false, cpus: 1, op_bytes: 1 << 20, in_flight: 8 << 20 };
        let candidates = narrow.candidates(1000, 1);
        assert!(candidates.len() > 10, "{}", candidates.len());
        for candidate in candidates {
            assert!(candidate.backend.is_none() && candidate.direct == DirectMode::Auto, "{candidate}");
            assert!(candidate.block_size <= 1 << 20 && candidate.intra_op_parallelism <= 2, "{candidate}");
            assert!(candidate.block_size * candidate.queue_depth <= 32 << 20, "{candidate}");
        }
    }
}
