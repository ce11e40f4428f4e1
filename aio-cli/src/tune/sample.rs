//! One measurement of a candidate, and how it is judged.

/// One direction of one measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    pub(crate) gb_per_s: f64,
    pub(crate) cpu_seconds_per_gb: f64,
    /// Seconds of the timed part.
    pub(crate) seconds: f64,
}

/// Both directions of one measurement.
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

    /// The ratio of `of` to `base`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overall_is_the_geometric_mean() {
        let sample = |gb_per_s| Sample { gb_per_s, cpu_seconds_per_gb: 0.0, seconds: 1.0 };
        let of = |read, write| Pair { read: sample(read), write: sample(write) };
        let (ours, base) = (of(8.0, 1.0), of(2.0, 1.0));
        assert_eq!(Goal::ALL.map(|goal| goal.ratio(&ours, &base)), [2.0, 4.0, 1.0]);
    }
}
