//! `tensor-aio soak`.

use std::path::PathBuf;
use std::time::Duration;

use aio::Backend;
use clap::Args;

use crate::{duration, number, size};

/// Run random operations of the library for a long time, and verify every byte.
///
/// On every backend at the same time: reads and writes of a few bytes up to a mebibyte, at any offset, many in flight;
/// vectored, blocking, in scopes, by path; through aligned, ordinary and odd memory; validated, durable, in the
/// background, cancelled, timed out, their tickets dropped; files that grow and are truncated; syncs; handles that are
/// closed or dropped with ops in flight and opened again with another configuration, direct and buffered. Each write
/// stores its file, offset and number in the data, and each read checks them.
///
/// With --faults, a layer between the library and its backend injects faults: short transfers, storms of EINTR, EAGAIN
/// and EBUSY, delayed and reordered completions, refused and partial submissions, and pages that cannot be read or
/// written: an op on such a page has to fail with that page's error, and no other op may fail.
///
/// At the end it counts what the process still holds: file descriptors, threads, mappings of queues, arenas. Exits with
/// code 1 if a byte was wrong, an op ended in a way it must not, or something leaked.
///
/// It makes its files in a new folder inside --dir, and removes that at the end, also after Ctrl-C.
#[derive(Debug, Args)]
#[command(after_long_help = SOAK_EXAMPLES)]
pub(crate) struct SoakArgs {
    /// How long: seconds (60), or with a unit (30m, 8h).
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration::parse, allow_negative_numbers = true)]
    pub(crate) runtime: Duration,

    /// The folder to make the files in.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,

    /// A backend, uring, libaio or pthread; may be given several times [default: all that work here]
    #[arg(long = "backend", value_name = "BACKEND", value_parser = parse_backend)]
    pub(crate) backends: Vec<Backend>,

    /// Most bytes of disk space, at least 16M. Memory for data is bounded too: 48 MiB per backend.
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_size)]
    pub(crate) size: u64,

    /// Inject faults.
    #[arg(long)]
    pub(crate) faults: bool,

    /// Seed of all random choices [default: the clock]
    #[arg(long, value_name = "N", value_parser = number::parse::<u64>)]
    pub(crate) seed: Option<u64>,

    /// Print one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

const SOAK_EXAMPLES: &str = "\
Examples:
  tensor-aio soak --runtime 30s
  tensor-aio soak --runtime 8h --dir /mnt/nvme --size 4G
  tensor-aio soak --runtime 1h --faults --backend uring --seed 7 --json";

fn parse_backend(text: &str) -> Result<Backend, String> {
    match text.parse() {
        Ok(Backend::Auto) => Err("name one backend: uring, libaio or pthread".to_owned()),
        Ok(backend) => Ok(backend),
        Err(error) => Err(format!("{error}")),
    }
}

fn parse_size(text: &str) -> Result<u64, String> {
    size::parse_at_least(text, 16 << 20, "16M")
}
