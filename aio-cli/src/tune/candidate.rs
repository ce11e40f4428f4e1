//! A configuration to try.

use std::fmt;

use aio::{AioConfig, DirectMode};
use serde::Serialize;

use crate::size;

/// What the search varies; everything else is as in [`AioConfig::default`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub(crate) struct Candidate {
    /// `None`: the best that works.
    pub(crate) backend: Option<&'static str>,
    pub(crate) block_size: usize,
    pub(crate) queue_depth: usize,
    pub(crate) intra_op_parallelism: usize,
    pub(crate) single_submit: bool,
    pub(crate) overlap_events: bool,
    #[serde(serialize_with = "as_text")]
    pub(crate) direct: DirectMode,
}

impl Candidate {
    /// The library's defaults.
    pub(crate) fn defaults() -> Self {
        let config = AioConfig::default();
        Self {
            backend: None,
            block_size: config.block_size,
            queue_depth: config.queue_depth,
            intra_op_parallelism: config.intra_op_parallelism,
            single_submit: config.single_submit,
            overlap_events: config.overlap_events,
            direct: config.direct,
        }
    }

    /// The engine's configuration for it.
    pub(crate) fn config(&self) -> AioConfig {
        let mut config = AioConfig::default();
        config.backend = self.backend.map(str::to_owned);
        config.block_size = self.block_size;
        config.queue_depth = self.queue_depth;
        config.intra_op_parallelism = self.intra_op_parallelism;
        config.single_submit = self.single_submit;
        config.overlap_events = self.overlap_events;
        config.direct = self.direct;
        config
    }
}

/// Writes the differences from the defaults, in a few words.
impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usual = Self::defaults();
        let mut words = Vec::new();
        if let Some(backend) = self.backend {
            words.push(backend.to_owned());
        }
        if self.block_size != usual.block_size {
            words.push(format!("block {}", size::show(self.block_size as u64)));
        }
        if self.queue_depth != usual.queue_depth {
            words.push(format!("depth {}", self.queue_depth));
        }
        if self.intra_op_parallelism != usual.intra_op_parallelism {
            words.push(format!("{} threads", self.intra_op_parallelism));
        }
        if self.single_submit != usual.single_submit {
            words.push(if self.single_submit { "single submit" } else { "batched submit" }.to_owned());
        }
        if self.overlap_events != usual.overlap_events {
            words.push(if self.overlap_events { "overlapped" } else { "no overlap" }.to_owned());
        }
        if self.direct != usual.direct {
            words.push(if self.direct == DirectMode::Off {
                "buffered".to_owned()
            } else {
                format!("direct {}", self.direct)
            });
        }
        f.pad(&if words.is_empty() { "defaults".to_owned() } else { words.join(", ") })
    }
}

fn as_text<S: serde::Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_librarys() {
        assert_eq!(Candidate::defaults().config(), AioConfig::default());
        assert_eq!(Candidate::defaults().to_string(), "defaults");
    }

    #[test]
    fn every_difference_is_configured_and_named() {
        let candidate = Candidate {
            backend: Some("pthread"),
            block_size: 2 << 20,
            queue_depth: 8,
            intra_op_parallelism: 2,
            single_submit: true,
            overlap_events: false,
            direct: DirectMode::Off,
        };
        let config = candidate.config();
        let read = AioConfig::from_json(&config.to_json()).unwrap();
        assert_eq!(read, config);
        assert_eq!((config.backend.as_deref(), config.block_size, config.queue_depth), (Some("pthread"), 2 << 20, 8));
        assert_eq!(
            (config.intra_op_parallelism, config.single_submit, config.overlap_events, config.direct),
            (2, true, false, DirectMode::Off)
        );
        let words = candidate.to_string();
        assert_eq!(words, "pthread, block 2.0 MiB, depth 8, 2 threads, single submit, no overlap, buffered");
    }
}
