//! A slice of a tensor as runs of its bytes.

use std::ops::Range;

use safetensors::Dtype;

/// The runs of bytes of a slice, in rising order, each as long as the others.
#[derive(Debug, Clone)]
pub(crate) struct Runs {
    /// Outer dimensions: where the next run is, how many there are, and the bytes from one to the next.
    outer: Vec<Dimension>,
    /// First byte of the next run, in the tensor.
    next: u64,
    /// Bytes of each.
    len: u64,
    /// Runs that are left.
    left: u64,
}

#[derive(Debug, Clone)]
struct Dimension {
    at: usize,
    count: usize,
    stride: u64,
}

impl Runs {
    /// The runs of a slice of a tensor whose bytes fit in memory; dimensions without a range are whole.
    pub(crate) fn new(dtype: Dtype, shape: &[usize], ranges: &[Range<usize>]) -> Result<Self, String> {
        if ranges.len() > shape.len() {
            return Err(format!("{} ranges for the {} dimensions of {shape:?}", ranges.len(), shape.len()));
        }
        for (dimension, (range, length)) in ranges.iter().zip(shape).enumerate() {
            if range.start > range.end || range.end > *length {
                return Err(format!("{range:?} is not within dimension {dimension} of {shape:?}"));
            }
        }
        let whole = |dimension: usize| 0..shape[dimension];
        let range = |dimension: usize| ranges.get(dimension).cloned().unwrap_or_else(|| whole(dimension));
        if (0..shape.len()).any(|at| range(at).is_empty()) {
            // Beside a dimension of 0, the others may be of any length.
            return Ok(Self { outer: Vec::new(), next: 0, len: 0, left: 0 });
        }
        // The inner dimensions that are whole, and the one before them, are one run.
        let inner = (1..shape.len()).rev().take_while(|at| range(*at) == whole(*at)).last().unwrap_or(shape.len());
        let split = inner.saturating_sub(1);
        let bits = |elements: u64| {
            let bits = u128::from(elements) * dtype.bitsize() as u128;
            if !bits.is_multiple_of(8) {
                return Err(format!(
                    "the slice begins or ends inside of a byte: {dtype} has {} bits",
                    dtype.bitsize()
                ));
            }
            Ok((bits / 8) as u64)
        };
        let mut strides = vec![1u64; shape.len()];
        for at in (0..shape.len().saturating_sub(1)).rev() {
            strides[at] = strides[at + 1] * shape[at + 1] as u64;
        }
        let (mut start, mut outer, mut left) = (0, Vec::new(), 1);
        for (at, stride) in strides.iter().enumerate() {
            start += range(at).start as u64 * stride;
            if at < split {
                let count = range(at).len();
                left *= count as u64;
                outer.push(Dimension { at: 0, count, stride: bits(*stride)? });
            }
        }
        let run = if shape.is_empty() { 1 } else { range(split).len() as u64 * strides[split] };
        Ok(Self { outer, next: bits(start)?, len: bits(run)?, left })
    }

    /// The next run.
    pub(crate) fn first(&self) -> Option<Range<u64>> {
        (self.left > 0).then_some(self.next..self.next + self.len)
    }

    /// Bytes of all runs that are left.
    pub(crate) fn bytes(&self) -> u64 {
        self.left * self.len
    }
}

impl Iterator for Runs {
    type Item = Range<u64>;

    fn next(&mut self) -> Option<Range<u64>> {
        let run = self.first()?;
        self.left -= 1;
        for Dimension { at, count, stride } in self.outer.iter_mut().rev() {
            *at += 1;
            self.next += *stride;
            if *at < *count {
                break;
            }
            self.next -= *stride * *count as u64;
            *at = 0;
        }
        Some(run)
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "that is what a slice of one dimension is")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn runs(dtype: Dtype, shape: &[usize], ranges: &[Range<usize>]) -> Vec<Range<u64>> {
        Runs::new(dtype, shape, ranges).unwrap().collect()
    }

    #[test]
    fn whole_inner_dimensions_are_one_run() {
        assert_eq!(runs(Dtype::F32, &[10, 3, 4], &[2..4]), [96..192]);
        assert_eq!(runs(Dtype::F32, &[10, 3, 4], &[2..4, 1..2]), [112..128, 160..176]);
        assert_eq!(runs(Dtype::U8, &[2, 3], &[0..2, 0..3]), [0..6]);
        assert_eq!(runs(Dtype::F64, &[], &[]), [0..8]);
        assert_eq!(runs(Dtype::U8, &[5], &[]), [0..5]);
        assert!(runs(Dtype::U8, &[5, 0], &[1..2]).is_empty());
        assert!(runs(Dtype::U8, &[5, 4], &[1..2, 3..3]).is_empty());
    }

    #[test]
    fn what_is_not_there_is_refused() {
        for (shape, ranges) in
            [(vec![3], vec![0..4]), (vec![3], vec![0..1, 0..1]), (vec![2, 2], vec![0..1, 3..3]), (vec![], vec![0..1])]
        {
            Runs::new(Dtype::U8, &shape, &ranges).unwrap_err();
        }
        #[expect(clippy::reversed_empty_ranges, reason = "it is to be refused")]
        Runs::new(Dtype::U8, &[3], &[2..1]).unwrap_err();
        let error = Runs::new(Dtype::F4, &[4], &[1..3]).unwrap_err();
        assert!(error.contains("inside of a byte"), "{error}");
        assert_eq!(runs(Dtype::F4, &[4, 2], &[1..3]), [1..3]);
        Runs::new(Dtype::F4, &[4, 3], &[1..3]).unwrap_err();
    }

    proptest! {
        #[test]
        fn they_are_the_bytes_of_the_slice(
            dimensions in prop::collection::vec((0usize..6, 0usize..6, 0usize..6), 0..5),
            given in 0usize..5,
            size in prop::sample::select(vec![Dtype::U8, Dtype::BF16, Dtype::F64]),
        ) {
            let shape: Vec<_> = dimensions.iter().map(|(length, ..)| *length).collect();
            let mut ranges: Vec<_> = dimensions
                .iter()
                .map(|&(length, a, b)| a.min(b).min(length)..a.max(b).min(length))
                .collect();
            ranges.truncate(given);
            let bytes = size.bitsize() as u64 / 8;
            let elements: usize = shape.iter().product();
            let is_inside = |mut element: usize| {
                shape.iter().enumerate().rev().all(|(at, length)| {
                    let index = element % length;
                    element /= length;
                    ranges.get(at).is_none_or(|range| range.contains(&index))
                })
            };
            let expected: Vec<_> = (0..elements)
                .filter(|element| is_inside(*element))
                .flat_map(|element| element as u64 * bytes..(element as u64 + 1) * bytes)
                .collect();
            let runs = Runs::new(size, &shape, &ranges).unwrap();
            prop_assert_eq!(runs.bytes(), expected.len() as u64);
            prop_assert_eq!(runs.flatten().collect::<Vec<_>>(), expected);
        }
    }
}
