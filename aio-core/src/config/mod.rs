//! What can be configured: DeepSpeed's keys with DeepSpeed's meaning, and our own beside them.

mod json;
#[cfg(test)]
mod tests;
mod text;

use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::memory::page_size;

/// How an engine is set up.
///
/// Block size and queue depth are by default what measured best for reads and writes together; the repository's
/// `docs/performance.md` has the sweep.
///
/// Start from [`Default`] or from JSON, then set fields. [`validate_ranges`](Self::validate_ranges) is called on what
/// comes from JSON, and on every configuration before an engine uses it.
///
/// # JSON
///
/// The readers take a whole DeepSpeed configuration, of which they use the `"aio"` block and a `"tensor_aio"` block
/// beside it (all else is ignored), or the contents of such blocks alone, mixed or not. A missing or `null` block, and
/// a missing or `null` key, mean defaults; a key that is not known is an error. As in DeepSpeed's files, numbers may be
/// written as floats (`8.0`, `1e6`) and both numbers and booleans as strings (`"8"`, `"True"`), booleans also as 0
/// and 1.
///
/// ```json
/// {
///   "aio": { "block_size": 1048576, "queue_depth": 32, "intra_op_parallelism": 1,
///            "single_submit": false, "overlap_events": true },
///   "tensor_aio": { "direct": "auto", "arena_limit": 8589934592, "spin_us": 20 }
/// }
/// ```
///
/// Two more keys of DeepSpeed's are read: `thread_count`, the old name of `intra_op_parallelism`, and `use_gds`, which
/// must be false.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct AioConfig {
    /// The most that is submitted as one piece, in bytes: a multiple of the page size, 4 KiB to 1 GiB. Default 1 MiB.
    /// DeepSpeed's `aio.block_size`.
    pub block_size: usize,
    /// Blocks in flight per worker, 1 to 4096. Default 32; DeepSpeed's is 8. DeepSpeed's `aio.queue_depth`.
    pub queue_depth: usize,
    /// Whether blocks are submitted one system call each. Default false. DeepSpeed's `aio.single_submit`.
    pub single_submit: bool,
    /// Whether queues are refilled as completions arrive, and not only when a full batch has completed. Default true.
    /// DeepSpeed's `aio.overlap_events`.
    pub overlap_events: bool,
    /// Worker threads, 1 to 256. Default 1. DeepSpeed's `aio.intra_op_parallelism`, formerly `aio.thread_count`.
    pub intra_op_parallelism: usize,
    /// Most threads that copy from and to the page cache, beside the workers: 0 to 256, started as they are needed. With
    /// 0 the workers do that. Default: as many as there are CPUs, at most 16, beyond which memory has no more to give.
    pub copy_threads: usize,
    /// Ops that may be waiting or in flight before submission waits, 1 to 1048576. Default 65536.
    pub max_pending_ops: usize,
    /// Bytes that the arena may map, at least one page: buffers, staging and free memory, see
    /// [`Arena`](crate::buf::Arena#the-limit). Default `None`:
    /// [`Arena::default_limit`](crate::buf::Arena::default_limit), for all such handles of the process together,
    /// which share one arena.
    pub arena_limit: Option<u64>,
    /// Whether files are opened for direct I/O. Default [`DirectMode::Auto`].
    pub direct: DirectMode,
    /// Whether each op is read back and compared. Costs one more read per op. Default false.
    pub validate: bool,
    /// Whether arena memory is registered with backends that can. Default true.
    pub register_memory: bool,
    /// Whether open files are registered with backends that can. Default true.
    pub register_files: bool,
    /// Whether a write past the end of a file allocates disk space first. Default true.
    pub preallocate: bool,
    /// How long workers and waiting threads look for something to do before they sleep, 0 to 10 ms. Default 20 us.
    /// In JSON `spin_us`, in microseconds; fractions count down to the nanosecond.
    pub spin: Duration,
    /// The backend's name. Default `None`: the best that works.
    pub backend: Option<String>,
}

/// Whether files are opened for direct I/O, which bypasses the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DirectMode {
    /// Where the file system can. Reads of a file that lies in the page cache are served from there all the same, where
    /// the kernel tells (`cachestat(2)`, Linux 6.5) and the file system is local: this is looked up at the first read,
    /// after every 1024 reads or 256 MiB, and not per read. Blocking calls of up to 256 KiB that run through a file, each
    /// from where the one before ended, go through the page cache, too. Other writes stay direct, and so does what
    /// [`validate`](AioConfig::validate)s.
    #[default]
    Auto,
    /// Always, cached or not; opening a file where that is not possible fails.
    On,
    /// Never.
    Off,
}

impl Default for AioConfig {
    fn default() -> Self {
        Self {
            block_size: 1 << 20,
            queue_depth: 32,
            single_submit: false,
            overlap_events: true,
            intra_op_parallelism: 1,
            copy_threads: std::thread::available_parallelism().map_or(1, usize::from).min(DEFAULT_COPY_THREADS),
            max_pending_ops: 1 << 16,
            arena_limit: None,
            direct: DirectMode::Auto,
            validate: false,
            register_memory: true,
            register_files: true,
            preallocate: true,
            spin: Duration::from_micros(20),
            backend: None,
        }
    }
}

const BLOCK_SIZE: RangeInclusive<usize> = 4096..=1 << 30;
const QUEUE_DEPTH: RangeInclusive<usize> = 1..=4096;
const INTRA_OP_PARALLELISM: RangeInclusive<usize> = 1..=256;
const COPY_THREADS: RangeInclusive<usize> = 0..=256;
/// Most copy threads by default.
const DEFAULT_COPY_THREADS: usize = 16;
const MAX_PENDING_OPS: RangeInclusive<usize> = 1..=1 << 20;
const MAX_SPIN: Duration = Duration::from_millis(10);

impl AioConfig {
    /// Checks every value against its range.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] with the first key that is out of range, its value and what is accepted.
    pub fn validate_ranges(&self) -> Result<()> {
        let arena_limit = self.arena_limit.unwrap_or(u64::MAX);
        let checks: [(&'static str, bool, &dyn fmt::Display); 7] = [
            (
                "block_size",
                BLOCK_SIZE.contains(&self.block_size) && self.block_size.is_multiple_of(page_size()),
                &self.block_size,
            ),
            ("queue_depth", QUEUE_DEPTH.contains(&self.queue_depth), &self.queue_depth),
            (
                "intra_op_parallelism",
                INTRA_OP_PARALLELISM.contains(&self.intra_op_parallelism),
                &self.intra_op_parallelism,
            ),
            ("copy_threads", COPY_THREADS.contains(&self.copy_threads), &self.copy_threads),
            ("max_pending_ops", MAX_PENDING_OPS.contains(&self.max_pending_ops), &self.max_pending_ops),
            ("arena_limit", arena_limit >= page_size() as u64, &arena_limit),
            ("spin_us", self.spin <= MAX_SPIN, &json::in_microseconds(self.spin)),
        ];
        match checks.into_iter().find(|(_, accepted, _)| !accepted) {
            Some((key, _, value)) => Err(refused(key, value)),
            None => Ok(()),
        }
    }

    /// Reads a configuration from JSON text, which may begin with a byte order mark.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for a key that is not known and for a value that is not accepted, [`Error::InvalidInput`] with
    /// line and column for text that is not JSON or has a key twice in one object.
    pub fn from_json(text: &str) -> Result<Self> {
        Self::from_json_value(&text::parse(text)?)
    }

    /// Reads a configuration from JSON that was parsed before.
    ///
    /// # Errors
    ///
    /// As for [`from_json`](Self::from_json).
    pub fn from_json_value(value: &serde_json::Value) -> Result<Self> {
        let config = json::read(value)?;
        config.validate_ranges()?;
        Ok(config)
    }

    /// Reads a configuration from a JSON file of at most 16 MiB.
    ///
    /// # Errors
    ///
    /// As for [`from_json`](Self::from_json), naming the file; [`Error::Io`] if it cannot be read.
    pub fn from_json_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_json(&text::read(path)?).map_err(|error| text::in_file(path, error))
    }

    /// The configuration as JSON that reads back as the same: an `"aio"` block with nothing but DeepSpeed's keys and a
    /// `"tensor_aio"` block with ours.
    pub fn to_json_value(&self) -> serde_json::Value {
        json::write(self)
    }

    /// [`to_json_value`](Self::to_json_value) as indented text.
    pub fn to_json(&self) -> String {
        format!("{:#}", self.to_json_value())
    }
}

/// What would be accepted for a key, as the end of a sentence.
fn accepted(key: &str) -> String {
    let between =
        |range: RangeInclusive<usize>| format!("it must be a whole number from {} to {}", range.start(), range.end());
    match key {
        "block_size" => format!("{} (bytes), a multiple of the page size ({})", between(BLOCK_SIZE), page_size()),
        "queue_depth" => between(QUEUE_DEPTH),
        "intra_op_parallelism" | "thread_count" => between(INTRA_OP_PARALLELISM),
        "copy_threads" => between(COPY_THREADS),
        "max_pending_ops" => between(MAX_PENDING_OPS),
        "arena_limit" => format!("it must be a whole number of bytes, at least {}, or null", page_size()),
        "spin_us" => format!("it must be a number of microseconds from 0 to {}", MAX_SPIN.as_micros()),
        "direct" => "it must be \"auto\", \"on\" or \"off\"".into(),
        "backend" => "it must be the name of a backend, or null for the best that works".into(),
        "use_gds" => "it must be false: GPUDirect Storage is not supported".into(),
        _ => "it must be true or false".into(),
    }
}

fn refused(key: &str, value: impl fmt::Display) -> Error {
    Error::Config { key: key.into(), value: value.to_string(), accepted: accepted(key) }
}

impl fmt::Display for DirectMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

impl FromStr for DirectMode {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let modes = [Self::Auto, Self::On, Self::Off];
        let named = modes.into_iter().find(|mode| name.trim().eq_ignore_ascii_case(&mode.to_string()));
        named.ok_or_else(|| refused("direct", text::shortened(name)))
    }
}
