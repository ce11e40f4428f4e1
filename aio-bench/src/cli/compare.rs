//! `aio-bench compare`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use aio_cli::size;

/// Do the same work with every backend and with what people use otherwise, and compare them.
///
/// The others are std::fs on one thread and on several, mmap with a copy, fio if it is on PATH, and rio and glommio if
/// they were compiled in (features peer-rio, peer-glommio). The contenders do each workload one after the other, in
/// rounds that each start with a different contender; the result is the median of the rounds, with the lowest and the
/// highest. Every block is checked, and wrong bytes make a contender fail; only fio's blocks, which it makes itself,
/// are not checked.
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

    /// Bytes of large files.
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = size::parse_positive)]
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

    /// Threads of the std::fs contender with several.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(2..=256))]
    pub(crate) threads: u16,

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
  aio-bench compare --json > compare.json";

fn parse_tensor(text: &str) -> Result<usize, String> {
    match size::parse_usize(text)? {
        bytes if bytes < 16 => Err("it must be at least 16 bytes".to_owned()),
        bytes => Ok(bytes),
    }
}
