//! The offsets of a job's blocks.

use aio_cli::generate::SplitMix64;

/// An endless sequence of block-aligned offsets within the first blocks of a file.
#[derive(Debug)]
pub(crate) struct Offsets {
    blocks: u64,
    block_size: u64,
    order: Order,
}

#[derive(Debug)]
enum Order {
    Sequential { next: u64 },
    Random(SplitMix64),
    Listed { next: u64, blocks: Vec<u64> },
}

impl Offsets {
    /// `blocks` (not 0) blocks of `block_size` each. A `seed` gives the same random sequence in every run.
    pub(crate) fn new(random: bool, blocks: u64, block_size: u64, seed: u64) -> Self {
        let order = if random { Order::Random(SplitMix64::new(seed)) } else { Order::Sequential { next: 0 } };
        Self { blocks, block_size, order }
    }

    /// These offsets (at least one), in order.
    pub(crate) fn listed(offsets: Vec<u64>) -> Self {
        Self { blocks: offsets.len() as u64, block_size: 1, order: Order::Listed { next: 0, blocks: offsets } }
    }

    /// The next offset; after the last block comes the first.
    #[inline]
    pub(crate) fn next(&mut self) -> u64 {
        let block = match &mut self.order {
            Order::Random(numbers) => numbers.below(self.blocks),
            Order::Sequential { next } => {
                let block = *next;
                *next = if block + 1 == self.blocks { 0 } else { block + 1 };
                block
            }
            Order::Listed { next, blocks } => {
                let block = blocks[*next as usize];
                *next = if *next + 1 == self.blocks { 0 } else { *next + 1 };
                block
            }
        };
        block * self.block_size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequential_starts_over_at_the_end() {
        let mut offsets = Offsets::new(false, 3, 10, 0);
        assert_eq!([0; 5].map(|_| offsets.next()), [0, 10, 20, 0, 10]);
    }

    #[test]
    fn a_list_is_followed() {
        let mut offsets = Offsets::listed(vec![7, 5]);
        assert_eq!([0; 3].map(|_| offsets.next()), [7, 5, 7]);
    }

    #[test]
    fn another_seed_is_another_sequence() {
        let sequence = |seed| {
            let mut offsets = Offsets::new(true, 1000, 1, seed);
            [0; 8].map(|_| offsets.next())
        };
        assert!(sequence(0) == sequence(0) && sequence(0) != sequence(1));
    }

    #[test]
    fn random_stays_inside_and_on_blocks() {
        let mut offsets = Offsets::new(true, 7, 512, 0);
        let seen: std::collections::BTreeSet<_> = (0..1000).map(|_| offsets.next()).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 512, 1024, 1536, 2048, 2560, 3072]);
    }
}
