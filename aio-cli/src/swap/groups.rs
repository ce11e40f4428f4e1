//! A set larger than memory is moved in groups: as many tensors at a time as fit.

use std::ops::Range;

use crate::failure::Failure;
use crate::host::limits;
use crate::size;

/// The most tensors of a group: each has a file name, a ticket and an op in flight.
const MOST_TENSORS: usize = 16 * 1024;

/// How much the memory of a group may exceed the set's own size: what the engine's rings and staging buffers leave of
/// 256 MiB.
const EXCESS: u64 = 192 << 20;

/// Cuts a set of tensors of these `sizes` into groups that fit in `budget` bytes of memory.
pub(crate) fn plan(sizes: &[u64], budget: u64) -> Result<Vec<Range<usize>>, Failure> {
    let total = sizes.iter().copied().fold(0, u64::saturating_add);
    let limit = budget.min(total.saturating_add(EXCESS));
    let mut groups = Vec::new();
    let (mut first, mut taken) = (0, 0);
    for (index, &bytes) in sizes.iter().enumerate() {
        let footprint = footprint(bytes);
        if footprint > limit {
            return Err(too_large(bytes, budget));
        }
        if index > first && (mapped(taken + footprint) > limit || index - first == MOST_TENSORS) {
            groups.push(first..index);
            (first, taken) = (index, 0);
        }
        taken += footprint;
    }
    groups.push(first..sizes.len());
    Ok(groups)
}

/// The most that an arena maps for several buffers: whole regions, which leave some room unused.
fn mapped(buffers: u64) -> u64 {
    buffers + buffers / 16
}

/// Bytes of buffers that a group needs.
pub(crate) fn memory(sizes: &[u64]) -> u64 {
    sizes.iter().map(|&bytes| footprint(bytes)).sum()
}

/// Buffers take whole pages.
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
        assert_eq!(plan(&[100 * MIB; 10], 1100 * MIB).unwrap(), vec![0..10; 1]);
    }

    #[test]
    fn a_larger_one_is_cut_where_memory_ends() {
        assert_eq!(plan(&[100 * MIB; 10], 430 * MIB).unwrap(), [0..4, 4..8, 8..10]);
        let sizes = [300 * MIB, 100 * MIB, 400 * MIB, MIB];
        assert_eq!(plan(&sizes, 427 * MIB).unwrap(), [0..2, 2..4]);
        assert_eq!(plan(&sizes, 426 * MIB).unwrap(), [0..2, 2..3, 3..4]);
    }

    #[test]
    fn memory_stays_close_to_the_size_of_the_set() {
        for (count, bytes) in [(100_000, 16), (1000, 100 * MIB), (3, 5000 * MIB)] {
            let sizes = vec![bytes; count];
            let groups = plan(&sizes, u64::MAX).unwrap();
            for group in &groups {
                let taken = memory(&sizes[group.clone()]);
                let mapped = if group.len() > 1 { mapped(taken) } else { taken };
                assert!(mapped <= EXCESS + bytes * count as u64 && group.len() <= MOST_TENSORS);
            }
            assert_eq!(groups.iter().map(ExactSizeIterator::len).sum::<usize>(), count);
        }
    }

    #[test]
    fn a_tensor_larger_than_memory_is_refused() {
        let error = plan(&[MIB, 1024 * MIB], 1023 * MIB).unwrap_err().to_string();
        assert!(error.contains("a tensor of 1.0 GiB") && error.contains("1023.0 MiB can be taken"), "{error}");
        assert_eq!(plan(&[1024 * MIB], 1024 * MIB).unwrap().len(), 1);
        assert!(plan(&[MIB], 0).is_err());
    }
}
