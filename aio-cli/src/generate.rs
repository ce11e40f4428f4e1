//! Pseudo-random bytes: no run of them repeats, so a misplaced block shows, and a device that compresses gains nothing.

/// SplitMix64 (Steele, Lea and Flood 2014): one multiply-xor chain per word, and any two seeds are as good as
/// unrelated.
#[derive(Debug, Clone)]
pub struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// A generator whose sequence follows from `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `bound` (Lemire 2019, without the rejection: for the bounds here the bias is below 2^-30).
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        let product = u128::from(self.next_u64()) * u128::from(bound);
        (product >> 64) as u64
    }
}

/// Fills `memory` with the bytes that follow from `seed`.
pub fn fill(memory: &mut [u8], seed: u64) {
    let mut words = SplitMix64::new(seed);
    let mut chunks = memory.chunks_exact_mut(8);
    for chunk in &mut chunks {
        chunk.copy_from_slice(&words.next_u64().to_le_bytes());
    }
    let rest = chunks.into_remainder();
    let last = words.next_u64().to_le_bytes();
    rest.copy_from_slice(&last[..rest.len()]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_published_generator() {
        let mut words = SplitMix64::new(1_234_567);
        assert_eq!([words.next_u64(), words.next_u64()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn a_prefix_does_not_depend_on_the_length() {
        let (mut short, mut long) = (vec![0; 13], vec![0; 16]);
        fill(&mut short, 7);
        fill(&mut long, 7);
        assert_eq!(short, long[..13]);
        fill(&mut [], 7);
    }

    #[test]
    fn numbers_below_a_bound_reach_both_ends() {
        let mut words = SplitMix64::new(1);
        let seen: std::collections::BTreeSet<_> = (0..1000).map(|_| words.below(5)).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    }
}
