//! Medians, and the spread of measurements.

use std::fmt;

use serde::Serialize;

/// The median of several measurements, and a low and a high one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Estimate {
    /// The median, lowest and highest of all values; `None` if there are none.
    pub fn of(measured: impl IntoIterator<Item = f64>) -> Option<Self> {
        Self::without(|_| 0, measured)
    }

    /// Like [`of`](Self::of), without the lowest and the highest tenth; up to nine values, that is all of them.
    pub(crate) fn of_most(measured: impl IntoIterator<Item = f64>) -> Option<Self> {
        Self::without(|count| count / 10, measured)
    }

    fn without(cut: fn(usize) -> usize, measured: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = measured.into_iter().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let (last, cut) = (sorted.len().checked_sub(1)?, cut(sorted.len()));
        let median = f64::midpoint(sorted[last / 2], sorted[last.div_ceil(2)]);
        Some(Self { median, low: sorted[cut], high: sorted[last - cut] })
    }
}

/// The form in tables: `2.00 [1.95..2.10]`.
impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, low, high } = self;
        write!(f, "{median:.2} [{low:.2}..{high:.2}]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let estimate = |values: &[f64]| Estimate::of(values.iter().copied());
        assert_eq!(estimate(&[]), None);
        assert_eq!(estimate(&[3.0, 1.0, 9.0]), Some(Estimate { median: 3.0, low: 1.0, high: 9.0 }));
        assert_eq!(estimate(&[4.0, 1.0, 2.0, 9.0]), Some(Estimate { median: 3.0, low: 1.0, high: 9.0 }));
    }

    #[test]
    fn most_is_all_of_few_values() {
        assert_eq!(Estimate::of_most([]), None);
        assert_eq!(Estimate::of_most([2.0]), Some(Estimate { median: 2.0, low: 2.0, high: 2.0 }));
        assert_eq!(Estimate::of_most([4.0, 1.0]), Some(Estimate { median: 2.5, low: 1.0, high: 4.0 }));
        assert_eq!(Estimate::of_most([9.0, 1.0, 2.0]), Some(Estimate { median: 2.0, low: 1.0, high: 9.0 }));
        let twenty = (1..=20).map(f64::from);
        assert_eq!(Estimate::of_most(twenty), Some(Estimate { median: 10.5, low: 3.0, high: 18.0 }));
    }

    #[test]
    fn it_is_written_with_its_bounds() {
        assert_eq!(Estimate { median: 2.0, low: 1.949, high: 2.1 }.to_string(), "2.00 [1.95..2.10]");
    }
}
