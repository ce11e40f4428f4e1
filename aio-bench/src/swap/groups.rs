//! Sets larger than memory pass through it in groups: as many tensors at a time as fit.

use std::ops::Range;

use crate::failure::Failure;
use crate::host::limits;
use crate::size;

/// The most tensors of a group: each has a file name, a ticket and an op in flight.
const MOST_TENSORS: usize = 16 * 1024;

/// How far a group's buffers, rounded up to pages, may exceed the set's own size.
const ROUNDING: u64 = 64 << 20;

/// Cuts a set of tensors of these `sizes` into groups that fit in `budget` bytes of memory.
pub(crate) fn plan(sizes: &[u64], budget: u64) -> Result<Vec<Range<usize>>, Failure> {
    let total = sizes.iter().copied().fold(0, u64::saturating_add);
    let limit = budget.min(total.saturating_add(ROUNDING));
    let mut groups = Vec::new();
    let (mut first, mut taken) = (0, 0);
    for (index, &bytes) in sizes.iter().enumerate() {
        let footprint = footprint(bytes);
        if footprint > limit {
            return Err(too_large(bytes, budget));
        }
        if taken + footprint > limit || index - first == MOST_TENSORS {
            groups.push(first..index);
            (first, taken) = (index, 0);
        }
        taken += footprint;
    }
    groups.push(first..sizes.len());
    Ok(groups)
}

/// Bytes of buffers that a group needs.
pub(crate) fn memory(sizes: &[u64]) -> u64 {
    sizes.iter().map(|&bytes| footprint(bytes)).sum()
}

/// Buffers come in pages.
fn footprint(bytes: u64) -> u64 {
    bytes.max(1).next_multiple_of(limits::page_size())
}

fn too_large(bytes: u64, budget: u64) -> Failure {
    let (bytes, budget) = (size::show(bytes), size::show(budget));
    Failure::Failed(format!("a tensor of {bytes} does not fit in memory: {budget} can be taken of it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_set_that_fits_is_one_group() {
        assert_eq!(plan(&[100 * MIB; 10], 1000 * MIB).unwrap(), vec![0..10; 1]);
    }

    #[test]
    fn a_larger_one_is_cut_where_memory_ends() {
        assert_eq!(plan(&[100 * MIB; 10], 400 * MIB).unwrap(), [0..4, 4..8, 8..10]);
        let sizes = [300 * MIB, 100 * MIB, 400 * MIB, MIB];
        assert_eq!(plan(&sizes, 400 * MIB).unwrap(), [0..2, 2..3, 3..4]);
    }

    #[test]
    fn small_tensors_do_not_take_a_page_each_all_at_once() {
        let sizes = vec![16; 100_000];
        let groups = plan(&sizes, u64::MAX).unwrap();
        for group in &groups {
            assert!(memory(&sizes[group.clone()]) <= ROUNDING + 16 * 100_000 && group.len() <= MOST_TENSORS);
        }
        assert_eq!(groups.iter().map(ExactSizeIterator::len).sum::<usize>(), sizes.len());
    }

    #[test]
    fn a_tensor_larger_than_memory_is_refused() {
        let error = plan(&[MIB, 1024 * MIB], 1023 * MIB).unwrap_err().to_string();
        assert!(error.contains("a tensor of 1.0 GiB") && error.contains("1023.0 MiB can be taken"), "{error}");
        assert!(plan(&[MIB], 0).is_err());
    }
}
