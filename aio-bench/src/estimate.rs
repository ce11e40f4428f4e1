//! Medians, and how far the rounds lie apart.

use serde::Serialize;

/// The middle one of several measurements, and the outermost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Estimate {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Estimate {
    /// Whether it is one that can be drawn.
    pub(crate) fn is_finite(&self) -> bool {
        [self.median, self.low, self.high].iter().all(|figure| figure.is_finite())
    }

    /// Of these; `None` if there are none.
    pub(crate) fn of(measured: impl Iterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = measured.collect();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Some(Self { median, low, high })
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
}
