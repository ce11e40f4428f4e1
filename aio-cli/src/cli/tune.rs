//! `tensor-aio tune`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueHint};

use crate::{duration, number, size};

/// Search for the configuration that is fastest on a folder's device, within a given time.
///
/// Varies backend, block_size, queue_depth, intra_op_parallelism, single_submit, overlap_events and direct or buffered
/// I/O. Each candidate is measured with a few large ops in flight (8 of 16 MiB), as in swapping tensors: reads with a
/// cold page cache, and overwrites of an allocated file until the data is on the device. All candidates get a short
/// measurement, the better half a longer one, and so on; the last few and the defaults are measured in interleaved
/// rounds until the time is up. A candidate is recommended only if it beats the defaults by more than noise.
///
/// Several folders are tuned one after the other, and then measured at the same time.
///
/// It makes its data files in a new folder inside each DIR, and removes these at the end, also after a failure or
/// Ctrl-C. Memory for data: 128 MiB per folder that is measured at the same time.
#[derive(Debug, Args)]
#[command(after_long_help = TUNE_EXAMPLES)]
pub(crate) struct TuneArgs {
    /// Folders, one per device; they must exist.
    #[arg(required = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) dirs: Vec<PathBuf>,

    /// Wall-clock time for everything, at least 1s: seconds (60), or with a unit (90s, 5m).
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_runtime, allow_negative_numbers = true)]
    pub(crate) runtime: Duration,

    /// Bytes of the data file in each folder, at least 1M. The file is smaller where writing it would take more than a
    /// seventh of the folder's time.
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = parse_file_size)]
    pub(crate) size: u64,

    /// Save the recommended configuration: an "aio" block for a DeepSpeed configuration, and a "tensor_aio" block
    /// beside it. For one DIR.
    #[arg(long, value_name = "FILE")]
    pub(crate) write: Option<PathBuf>,

    /// Replace the FILE of --write if it exists.
    #[arg(long, requires = "write")]
    pub(crate) overwrite: bool,

    /// Seed for which candidates are drawn, and in which order they are measured.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = number::parse::<u64>)]
    pub(crate) seed: u64,

    /// Print one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

const TUNE_EXAMPLES: &str = "\
Examples:
  tensor-aio tune /mnt/nvme
  tensor-aio tune /mnt/nvme --runtime 5m --write aio.json
  tensor-aio tune /mnt/nvme0 /mnt/nvme1 --runtime 3m --json
  tensor-aio tune . --runtime 20s --size 256M";

fn parse_runtime(text: &str) -> Result<Duration, String> {
    match duration::parse(text)? {
        time if time < Duration::from_secs(1) => Err("it must be at least 1s".to_owned()),
        time => Ok(time),
    }
}

fn parse_file_size(text: &str) -> Result<u64, String> {
    size::parse_at_least(text, 1 << 20, "1M")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_a_least_size() {
        assert_eq!(parse_file_size("1M"), Ok(1 << 20));
        assert!(parse_file_size("1000K").is_err() && parse_file_size("0").is_err());
    }
}
