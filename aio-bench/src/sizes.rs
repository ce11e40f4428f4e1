//! Sizes of the tensors of a made-up model.

/// So many sizes, of layers that have large weights, and small norms and biases; all even, and together `bytes`, which
/// are even, too.
pub fn of_tensors(bytes: usize, count: usize) -> Vec<usize> {
    const SHARES: [usize; 12] = [1, 512, 2, 512, 1, 1024, 4, 1024, 1, 64, 256, 8];
    let all: usize = SHARES.iter().cycle().take(count).sum();
    let shares = SHARES.iter().cycle().take(count);
    let mut sizes: Vec<_> = shares.map(|share| bytes / 2 * share / all * 2).collect();
    let left = bytes - sizes.iter().sum::<usize>();
    sizes.iter_mut().take(1).for_each(|first| *first += left);
    sizes
}

#[cfg(test)]
mod tests {
    use super::of_tensors;

    #[test]
    fn sizes_are_mixed_even_and_add_up() {
        for (bytes, count) in [(1 << 20, 36), (256 << 10, 600), (10, 1), (30, 48)] {
            let sizes = of_tensors(bytes, count);
            assert_eq!((sizes.len(), sizes.iter().sum::<usize>()), (count, bytes));
            assert!(sizes.iter().all(|size| size % 2 == 0), "{sizes:?}");
        }
        let sizes = of_tensors(1 << 30, 24);
        assert!(sizes.iter().max() > sizes.iter().min().map(|least| least * 500).as_ref(), "{sizes:?}");
    }
}
