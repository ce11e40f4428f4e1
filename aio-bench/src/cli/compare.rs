//! `aio-bench compare`.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::{Args, ValueHint};

use crate::compare::LARGE;
use aio_cli::{duration, size};

/// Do the same work with every backend and with what people use otherwise, and compare them.
///
/// The others are std::fs on one thread and on more, mmap with a copy, the crate safetensors, fio if it is on PATH, and
/// rio and glommio if they were compiled in (features peer-rio, peer-glommio). The contenders do each workload one
/// after the other, in rounds that each start with a different contender; in a round, a contender repeats the work
/// until --runtime is over. The result is the median of the rounds, with the lowest and the highest. Every block is
/// checked, and wrong bytes make a contender fail; only fio's blocks, which it makes itself, are not checked. What
/// should be cold and is in the page cache makes a contender fail, too.
///
/// Except for fio, the time runs from opening or making files until they are closed. fio's own figures leave out
/// opening and allocating a large file, and the CPU time of the kernel's workers.
///
/// It makes all files in a new folder in --dir, and removes them.
#[derive(Debug, Args)]
#[command(after_long_help = COMPARE_EXAMPLES)]
pub(crate) struct CompareArgs {
    /// A folder on the file system to measure.
    #[arg(long, value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
    pub(crate) dir: PathBuf,

    /// Bytes of large files and of the model, of which whole MiB are used: at least 1M.
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_size)]
    pub(crate) size: u64,

    /// How many small tensors.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) tensors: u32,

    /// Bytes of each of them, at least 16.
    #[arg(long, value_name = "SIZE", default_value = "64K", value_parser = parse_tensor)]
    pub(crate) tensor_size: usize,

    /// How many random reads of 4 KiB.
    #[arg(long, value_name = "N", default_value_t = 16384, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) random_reads: u32,

    /// Blocks in flight, for contenders that can have more than one.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) queue_depth: u16,

    /// The most threads of std::fs, which runs on 1, 2, 4 and so on [default: the CPUs, at least 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: Option<u16>,

    /// How long a measurement lasts at least: each contender repeats the work in each round until then.
    #[arg(long, value_name = "TIME", default_value = "0.5", value_parser = duration::parse)]
    pub(crate) runtime: Duration,

    /// Rounds to measure; an untimed one comes first.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) rounds: u16,

    /// Only these workloads, by name, separated by commas [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) only: Vec<String>,

    /// Also write report.json, report.md and report.svg into this folder, which is made if it does not exist.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) out: Option<PathBuf>,

    /// Print one JSON object instead of tables.
    #[arg(long)]
    pub(crate) json: bool,
}

const COMPARE_EXAMPLES: &str = "\
Examples:
  aio-bench compare --dir /mnt/nvme
  aio-bench compare --dir /mnt/nvme --size 4G --only read,save-durable --out report
  aio-bench compare --dir /mnt/nvme --size 2G --only load-cold,load-warm,save-model
  aio-bench compare --json > compare.json";

impl CompareArgs {
    /// The most threads of std::fs.
    pub(crate) fn most_threads(&self) -> usize {
        let cpus = || thread::available_parallelism().map_or(1, usize::from);
        self.threads.map_or_else(|| cpus().max(8), usize::from)
    }
}

fn parse_size(text: &str) -> Result<u64, String> {
    size::parse_at_least(text, LARGE as u64, "1 MiB")
}

fn parse_tensor(text: &str) -> Result<usize, String> {
    match size::parse_usize(text)? {
        bytes if bytes < 16 => Err("it must be at least 16 bytes".to_owned()),
        bytes => Ok(bytes),
    }
}
