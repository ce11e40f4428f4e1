//! What one look at a candidate yields, and what many of them say together.

use serde::Serialize;

/// One direction of one look.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    pub(crate) gb_per_s: f64,
    pub(crate) cpu_seconds_per_gb: f64,
    /// How long the timed part took.
    pub(crate) seconds: f64,
}

/// Both directions of one look.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pair {
    pub(crate) read: Sample,
    pub(crate) write: Sample,
}

/// What a configuration is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goal {
    Read,
    Write,
    /// The geometric mean of both: DeepSpeed's block holds one configuration for the two.
    Overall,
}

impl Goal {
    pub(crate) const ALL: [Self; 3] = [Self::Overall, Self::Read, Self::Write];

    /// How many times `base` it is.
    pub(crate) fn ratio(self, of: &Pair, base: &Pair) -> f64 {
        let read = of.read.gb_per_s / base.read.gb_per_s;
        let write = of.write.gb_per_s / base.write.gb_per_s;
        match self {
            Self::Read => read,
            Self::Write => write,
            Self::Overall => (read * write).sqrt(),
        }
    }
}

/// The middle of some values, and how far they lie apart without the lowest and the highest tenth of them: up to nine
/// values, that is all of them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// `None` of nothing.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let (last, cut) = (sorted.len().checked_sub(1)?, sorted.len() / 10);
        let median = f64::midpoint(sorted[last / 2], sorted[last.div_ceil(2)]);
        Some(Self { median, low: sorted[cut], high: sorted[last - cut] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_all_of_few_values_and_most_of_many() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([2.0]), Some(Spread { median: 2.0, low: 2.0, high: 2.0 }));
        assert_eq!(Spread::of([4.0, 1.0]), Some(Spread { median: 2.5, low: 1.0, high: 4.0 }));
        assert_eq!(Spread::of([9.0, 1.0, 2.0]), Some(Spread { median: 2.0, low: 1.0, high: 9.0 }));
        let twenty = (1..=20).map(f64::from);
        assert_eq!(Spread::of(twenty), Some(Spread { median: 10.5, low: 3.0, high: 18.0 }));
    }

    #[test]
    fn overall_is_the_geometric_mean() {
        let sample = |gb_per_s| Sample { gb_per_s, cpu_seconds_per_gb: 0.0, seconds: 1.0 };
        let of = |read, write| Pair { read: sample(read), write: sample(write) };
        let (ours, base) = (of(8.0, 1.0), of(2.0, 1.0));
        assert_eq!(Goal::ALL.map(|goal| goal.ratio(&ours, &base)), [2.0, 4.0, 1.0]);
    }
}
