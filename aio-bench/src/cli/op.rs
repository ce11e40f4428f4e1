//! The ops of a run, and their weights.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Op {
    /// Sequential reads.
    Read,
    /// Sequential writes.
    Write,
    /// Reads at random offsets.
    Randread,
    /// Writes at random offsets.
    Randwrite,
}

impl Op {
    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Randread => "randread",
            Self::Randwrite => "randwrite",
        }
    }

    /// Whether it changes the file.
    pub(crate) fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Randwrite)
    }

    /// Whether its offsets are random.
    pub(crate) fn is_random(self) -> bool {
        matches!(self, Self::Randread | Self::Randwrite)
    }
}

/// One of the ops of a job, and its share: `read`, `read:70`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WeightedOp {
    pub(crate) op: Op,
    /// Relative to the other ops; from 1 to [`Self::LARGEST`].
    pub(crate) weight: u32,
}

impl WeightedOp {
    /// Beyond this the smallest share is too small to see.
    const LARGEST: u32 = 1_000_000;
}

impl FromStr for WeightedOp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, weight) = text.split_once(':').map_or((text, None), |(name, weight)| (name, Some(weight)));
        let op = Op::from_str(name, false)
            .map_err(|_| format!("{name:?} is none of read, write, randread and randwrite"))?;
        let weight = match weight {
            None => 1,
            Some(weight) => match weight.parse() {
                Ok(weight) if (1..=Self::LARGEST).contains(&weight) => weight,
                _ => return Err(format!("the weight {weight:?} is not a number from 1 to {}", Self::LARGEST)),
            },
        };
        Ok(Self { op, weight })
    }
}

impl fmt::Display for WeightedOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.op.name(), self.weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weight_is_1_unless_it_is_given() {
        let parsed = |text: &str| text.parse().map(|WeightedOp { op, weight }| (op, weight));
        assert_eq!(parsed("read"), Ok((Op::Read, 1)));
        assert_eq!(parsed("randwrite:30"), Ok((Op::Randwrite, 30)));
        for text in ["", "READ", "erase", ":3", "read:", "read:0", "read:-1", "read:1.5", "read:1000001", "read:1:1"]
        {
            assert!(parsed(text).is_err(), "{text}");
        }
    }
}
