//! What can be asked for on the command line, and the help that explains it.

use std::path::PathBuf;

use aio::{AioConfig, Backend, DirectMode};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::size;
use crate::swap::tensors;

/// Move tensors between memory and files, look at what a machine can do, and measure it.
///
/// Without a command it does `swap` with the options given: GPT-2 small with its Adam moments goes out to files and
/// comes back, on every backend that this machine has, and every byte is compared.
#[derive(Debug, Parser)]
#[command(name = "aio-bench", version, args_conflicts_with_subcommands = true, after_long_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    #[command(flatten)]
    pub(crate) swap: SwapArgs,
}

const AFTER_HELP: &str = "\
Sizes: plain bytes (4096), binary units (64K, 1M, 1GiB; K is 1024 as in fio) or decimal units (10MB).
Results go to stdout; progress, logs (RUST_LOG=debug for more) and errors to stderr.
Exit codes: 0 done and verified; 1 something failed or did not verify; 2 the command line is wrong;
130 or 143 interrupted, after cleaning up.

Start here:
  aio-bench                        swap GPT-2 through every backend, in the current folder
  aio-bench probe /mnt/nvme        what this machine and that file system offer
  aio-bench run --help             one job at a time, as with fio";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Swap(SwapArgs),
    Probe(ProbeArgs),
    Run(RunArgs),
}

/// Write tensors to files and read them back, on every backend, and compare every byte.
///
/// For each backend in turn: the tensors are put into memory and hashed (XXH3), written to new files (swap-out,
/// timed), the memory is overwritten, and the files are read back (swap-in, timed) and hashed again. Starting the
/// engine and getting memory ready are not timed. The tensors are on disk once at a time; a set that is larger than
/// memory goes through it in groups.
///
/// The files are made in a new folder of their own inside --dir, which is removed at the end, also after a failure or
/// Ctrl-C.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of swap", after_long_help = SWAP_EXAMPLES)]
pub(crate) struct SwapArgs {
    /// Take the tensors of these safetensors files instead of GPT-2's shapes.
    #[arg(long, value_name = "FILE.safetensors", num_args = 1.., conflicts_with_all = ["tensors", "tensor_size"])]
    pub(crate) from: Vec<PathBuf>,

    /// Make a uniform set of this many tensors, each of --tensor-size.
    #[arg(long, value_name = "N", requires = "tensor_size", value_parser = clap::value_parser!(u64).range(1..=tensors::MOST))]
    pub(crate) tensors: Option<u64>,

    /// Size of each tensor of a uniform set.
    #[arg(long, value_name = "SIZE", requires = "tensors", value_parser = size::parse_positive)]
    pub(crate) tensor_size: Option<u64>,

    /// Folder on the device to use; it must exist.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,

    /// How tensors lie in files.
    #[arg(long, value_enum, default_value_t = Layout::Files)]
    pub(crate) layout: Layout,

    /// Use this backend only, and fail if it is not available: uring, libaio, pthread, or auto for the best one (or
    /// the one that AIO_BACKEND names).
    ///
    /// [default: every backend that is available, in turn]
    #[arg(long, value_name = "BACKEND")]
    pub(crate) backend: Option<Backend>,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,

    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

const SWAP_EXAMPLES: &str = "\
Examples:
  aio-bench swap --dir /mnt/nvme
  aio-bench swap --tensors 256 --tensor-size 1M --backend uring --queue-depth 64
  aio-bench swap --from model-00001.safetensors model-00002.safetensors --json";

/// How the tensors of a set lie in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Layout {
    /// A file per tensor.
    Files,
}

impl Layout {
    /// As on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
        }
    }
}

/// Settings of the engine that are left at its own defaults when they are not given.
#[derive(Debug, Args)]
pub(crate) struct EngineArgs {
    /// Blocks in flight per thread.
    #[arg(long, value_name = "N")]
    pub(crate) queue_depth: Option<usize>,

    /// Bytes of a block, the largest piece that is handed to the kernel at once.
    #[arg(long, value_name = "SIZE", value_parser = parse_usize)]
    pub(crate) block_size: Option<usize>,

    /// Worker threads, each with a queue of its own.
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
}

impl EngineArgs {
    /// The engine's defaults, and what was given on top.
    pub(crate) fn config(&self) -> AioConfig {
        let mut config = AioConfig::default();
        config.queue_depth = self.queue_depth.unwrap_or(config.queue_depth);
        config.block_size = self.block_size.unwrap_or(config.block_size);
        config.intra_op_parallelism = self.threads.unwrap_or(config.intra_op_parallelism);
        config
    }
}

/// Show which backends work here, or why not, and what limits them.
///
/// Each backend is tried with a real operation. With DIR it also finds out, with a small file that is made there and
/// removed again, whether that file system does direct I/O and how it must be aligned.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  aio-bench probe\n  aio-bench probe /mnt/nvme --json")]
pub(crate) struct ProbeArgs {
    /// A folder on the file system to look at.
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,

    /// Print one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Run one job, as fio would, through the library's public API, and measure it.
///
/// Moves blocks of --block-size between one file and memory, --queue-depth of them in flight per thread, and reports
/// rate, I/Os per second, CPU time per I/O and latency. With one block in flight each is a blocking call. Starting the
/// engine, opening the file, allocating its space and memory, and closing it are not timed.
///
/// Latency is that of an op (--extents blocks) from its submission until its result was taken, in order of submission.
///
/// An existing file is never truncated or shrunk, and is written to only with --overwrite, which destroys what it
/// holds. A file that the run makes is kept, as with fio, unless the run fails or is interrupted.
#[derive(Debug, Args)]
#[command(after_long_help = RUN_EXAMPLES)]
pub(crate) struct RunArgs {
    /// Backend: auto, uring, libaio or pthread.
    #[arg(long, default_value_t = Backend::Auto)]
    pub(crate) backend: Backend,

    /// What to do; rand* picks block-aligned offsets at random, with repetition.
    #[arg(long, value_enum)]
    pub(crate) op: Op,

    /// The file.
    #[arg(long, value_name = "PATH")]
    pub(crate) file: PathBuf,

    /// Use the first SIZE bytes of the file, rounded down to whole blocks [default: all of an existing file]
    #[arg(long, value_parser = size::parse_positive)]
    pub(crate) size: Option<u64>,

    /// Bytes of a block.
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = parse_usize)]
    pub(crate) block_size: usize,

    /// Blocks in flight per thread.
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(crate) queue_depth: usize,

    /// Worker threads [default: the library's]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,

    /// Direct I/O, past the page cache: auto (where the file system has it), on (or fail), off.
    #[arg(long, value_name = "MODE", default_value_t = DirectMode::Auto)]
    pub(crate) direct: DirectMode,

    /// Blocks per op: 1 gives each block an op and a ticket of its own, more make vectored ops.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) extents: u32,

    /// Go on for this long, starting over at the end of the file.
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, conflicts_with = "bytes",
        allow_negative_numbers = true)]
    pub(crate) runtime: Option<f64>,

    /// Move this many bytes, rounded down to whole blocks [default: the size, once]
    #[arg(long, value_name = "SIZE", value_parser = size::parse_positive)]
    pub(crate) bytes: Option<u64>,

    /// Pin the process to this CPU.
    #[arg(long, value_name = "N")]
    pub(crate) cpu: Option<usize>,

    /// Write to a file that exists already. Its contents are lost.
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
  aio-bench run --op randread --file /mnt/nvme/t --block-size 4K --extents 16 --backend libaio";

/// What a run does.
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
    /// As on the command line.
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

    /// Whether it jumps about.
    pub(crate) fn is_random(self) -> bool {
        matches!(self, Self::Randread | Self::Randwrite)
    }
}

fn parse_usize(text: &str) -> Result<usize, String> {
    usize::try_from(size::parse_positive(text)?).map_err(|error| error.to_string())
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    /// A week.
    const LONGEST: f64 = 604_800.0;
    match text.trim().trim_end_matches('s').parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= LONGEST => Ok(seconds),
        _ => Err(format!("{text:?} is not a number of seconds above 0 and at most {LONGEST}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_a_command_it_is_a_swap() {
        let cli = Cli::try_parse_from(["aio-bench", "--json", "--tensors", "2", "--tensor-size", "1K"]).unwrap();
        assert!(cli.command.is_none() && cli.swap.json);
        assert_eq!((cli.swap.tensors, cli.swap.tensor_size), (Some(2), Some(1024)));
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        for (line, kind) in [
            ("aio-bench swap --tensors 1", ErrorKind::MissingRequiredArgument),
            ("aio-bench swap --from a --tensors 1 --tensor-size 1", ErrorKind::ArgumentConflict),
            ("aio-bench swap --tensors 0 --tensor-size 1", ErrorKind::ValueValidation),
            ("aio-bench run --op read", ErrorKind::MissingRequiredArgument),
            ("aio-bench run --op read --file f --runtime 1 --bytes 1", ErrorKind::ArgumentConflict),
            ("aio-bench run --op read --file f --runtime 0", ErrorKind::ValueValidation),
            ("aio-bench run --op read --file f --runtime nan", ErrorKind::ValueValidation),
            ("aio-bench run --op append --file f", ErrorKind::InvalidValue),
            ("aio-bench run --op read --file f --block-size 0", ErrorKind::ValueValidation),
        ] {
            assert_eq!(Cli::try_parse_from(line.split(' ')).unwrap_err().kind(), kind, "{line}");
        }
    }
}
