//! `aio-bench run`.

use std::path::PathBuf;
use std::time::Duration;

use aio::{Backend, DirectMode};
use clap::Args;

use super::op::WeightedOp;
use aio_cli::{duration, number, size};

/// Run one job, as fio would, through the library's public API, and measure it.
///
/// Moves blocks of --block-size between one file and memory, --queue-depth of them in flight per thread, and reports
/// rate, I/Os per second, CPU time per I/O and latency. With one block in flight each is a blocking call. Starting the
/// engine, opening the file, allocating its space and memory, and closing it are not timed.
///
/// Latency is the time of an op (--extents blocks) from its submission until its result is taken; results are taken in
/// order of submission.
///
/// With --bare, for jobs with one block in flight, the job alternates with plain pread(2) or pwrite(2) calls on the
/// same file, in the same process, so that both see the same state of the machine.
///
/// With several ops, each op is picked at random by weight, with the same picks in every run. A job that reads and
/// writes a file that it makes first writes all of it, untimed, so that there is something to read.
///
/// With --verify, writes fill blocks with patterns that name file, offset and generation, and reads check them: errors
/// tell apart blocks that are misplaced, of another file, lost, torn or damaged. Filling and checking are in the CPU
/// time.
///
/// Ctrl-C ends the job early: it prints the result so far, marked as partial.
///
/// An existing file is never truncated, and is written to only with --overwrite, which destroys its contents. A file
/// that the run makes is kept, as with fio, unless the run fails or is interrupted.
#[derive(Debug, Args)]
#[command(after_long_help = RUN_EXAMPLES)]
pub(crate) struct RunArgs {
    /// Backend: auto, uring, libaio or pthread.
    #[arg(long, default_value_t = Backend::Auto)]
    pub(crate) backend: Backend,

    /// What to do: read, write, randread or randwrite; rand* picks block-aligned offsets at random, with repetition.
    ///
    /// Given several times, each with a weight, they are mixed: --op read:70 --op randwrite:30. The weight is 1 unless
    /// it is given.
    #[arg(long = "op", value_name = "OP[:WEIGHT]", required = true)]
    pub(crate) ops: Vec<WeightedOp>,

    /// The file.
    #[arg(long, value_name = "PATH")]
    pub(crate) file: PathBuf,

    /// Use the first SIZE bytes of the file, rounded down to whole blocks [default: all of an existing file]
    #[arg(long, value_parser = size::parse_positive)]
    pub(crate) size: Option<u64>,

    /// Bytes of a block.
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = size::parse_usize)]
    pub(crate) block_size: usize,

    /// Blocks in flight per thread.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = number::parse::<usize>)]
    pub(crate) queue_depth: usize,

    /// Worker threads [default: the library's]
    #[arg(long, value_name = "N", value_parser = number::parse::<usize>)]
    pub(crate) threads: Option<usize>,

    /// Direct I/O, past the page cache: auto (where the file system has it), on (or fail), off.
    #[arg(long, value_name = "MODE", default_value_t = DirectMode::Auto)]
    pub(crate) direct: DirectMode,

    /// Blocks per op: 1 gives each block its own op and ticket, more make vectored ops.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) extents: u32,

    /// Bytes past a page boundary at which each buffer begins, 0 to 4095. Memory that direct I/O does not accept goes
    /// through staging buffers. With an offset, the buffers are not registered with the kernel.
    #[arg(long, value_name = "BYTES", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..4096))]
    pub(crate) memory_offset: u16,

    /// Also measure plain pread(2) or pwrite(2) calls, alternating with the job: as many, or for as long.
    ///
    /// Their descriptor is of the same kind as the job's with --direct on (O_DIRECT) and --direct off. With --direct
    /// auto it goes through the page cache. For --queue-depth 1 only.
    #[arg(long)]
    pub(crate) bare: bool,

    /// Run for this long, starting over at the end of the file: seconds (5, 0.5), or with a unit (90s, 2h).
    #[arg(long, value_name = "TIME", value_parser = duration::parse, conflicts_with = "bytes",
        allow_negative_numbers = true)]
    pub(crate) runtime: Option<Duration>,

    /// Move this many bytes, rounded down to whole blocks [default: the size, once]
    #[arg(long, value_name = "SIZE", value_parser = size::parse_positive)]
    pub(crate) bytes: Option<u64>,

    /// Run for this long first. No figure counts what ends in that time; the queue stays full when it is over.
    #[arg(long, value_name = "TIME", value_parser = duration::parse, allow_negative_numbers = true)]
    pub(crate) ramp: Option<Duration>,

    /// Write patterns that name their place, check them in everything that is read, and at the end, untimed, read back
    /// what was written. A job that only reads checks what an earlier one wrote with this option, in blocks of the same
    /// size.
    #[arg(long)]
    pub(crate) verify: bool,

    /// Write latency histograms to FILE, one per second and, if ops are mixed, op: an HdrHistogram interval log, in
    /// nanoseconds. An existing file is refused.
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,

    /// Take options from a TOML file: keys are the long names of the options. Options on the command line win.
    #[arg(long, value_name = "FILE.toml")]
    pub(crate) job: Option<PathBuf>,

    /// Pin the process to this CPU.
    #[arg(long, value_name = "N", value_parser = number::parse::<usize>)]
    pub(crate) cpu: Option<usize>,

    /// Write to an existing file. Its contents are lost.
    #[arg(long)]
    pub(crate) overwrite: bool,

    /// Print one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

const RUN_EXAMPLES: &str = "\
Examples:
  aio-bench run --op write --file /mnt/nvme/t --size 1G
  aio-bench run --op read --file /mnt/nvme/t --queue-depth 32 --direct on
  aio-bench run --op randread --file /mnt/nvme/t --block-size 4K --runtime 5 --cpu 1 --json
  aio-bench run --op randread --file /mnt/nvme/t --block-size 4K --extents 16 --backend libaio
  aio-bench run --op randread --file /mnt/nvme/t --block-size 4K --queue-depth 1 --bare \\
    --runtime 5 --direct on
  aio-bench run --op randread:70 --op randwrite:30 --file /mnt/nvme/t --overwrite \\
    --ramp 2 --runtime 10 --log t.hlog
  aio-bench run --op write --file /mnt/nvme/v --size 1G --verify
  aio-bench run --op read --file /mnt/nvme/v --verify
  aio-bench run --job nightly.toml --runtime 60

A job file is TOML; its paths are relative to the current folder:
  file = \"/mnt/nvme/t\"
  op = [\"randread:70\", \"randwrite:30\"]
  block-size = \"4K\"
  queue-depth = 32
  overwrite = true
  runtime = 10";

impl RunArgs {
    /// Whether any of its ops changes the file.
    pub(crate) fn writes(&self) -> bool {
        self.ops.iter().any(|op| op.op.writes())
    }

    /// Whether any of its ops reads the file.
    pub(crate) fn reads(&self) -> bool {
        self.ops.iter().any(|op| !op.op.writes())
    }

    /// Whether the ops have to be picked at random.
    pub(crate) fn is_mixed(&self) -> bool {
        self.ops.len() > 1
    }

    /// The one op of a job; of a mixed job, all ops with their weights.
    pub(crate) fn op_name(&self) -> String {
        match self.ops.as_slice() {
            [only] => only.op.name().to_owned(),
            ops => ops.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        }
    }
}
