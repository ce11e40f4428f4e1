//! What can be asked for on the command line, and the help that explains it.

mod compare;
mod completions;
mod job_file;
mod op;
mod plot;
mod probe;
mod run;
mod soak;
mod swap;
mod tune;

use aio::AioConfig;
use clap::{Args, Parser, Subcommand};

use crate::size;

pub(crate) use compare::CompareArgs;
pub(crate) use completions::CompletionsArgs;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use job_file::job_arguments;
pub(crate) use job_file::parse;
pub(crate) use op::{Op, WeightedOp};
pub(crate) use plot::{Over, PlotArgs};
pub(crate) use probe::{FailOn, ProbeArgs};
pub(crate) use run::RunArgs;
pub(crate) use soak::SoakArgs;
pub(crate) use swap::{Layout, SwapArgs};
pub(crate) use tune::TuneArgs;

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
3 probe found an error (see --fail-on); 129, 130 or 143 interrupted, after cleaning up.

Start here:
  aio-bench                        swap GPT-2 through every backend, in the current folder
  aio-bench probe /mnt/nvme        what this machine and that file system offer, and what to change
  aio-bench tune /mnt/nvme         the fastest configuration for that device, within a minute
  aio-bench run --help             one job at a time, as with fio
  aio-bench compare --help         the same work by every backend, and by others
  aio-bench soak --hours 8         everything at random, every byte verified, until the time is up
  aio-bench plot --help            pictures of what runs measured";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Swap(SwapArgs),
    Probe(ProbeArgs),
    Run(RunArgs),
    Compare(CompareArgs),
    Tune(TuneArgs),
    Soak(SoakArgs),
    Plot(PlotArgs),
    Completions(CompletionsArgs),
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
            ("aio-bench run --op append --file f", ErrorKind::ValueValidation),
            ("aio-bench run --op read --file f --block-size 0", ErrorKind::ValueValidation),
            ("aio-bench run --op read --file f --memory-offset 4096", ErrorKind::ValueValidation),
            ("aio-bench plot --out a.svg", ErrorKind::MissingRequiredArgument),
            ("aio-bench plot a.json", ErrorKind::MissingRequiredArgument),
            ("aio-bench plot a.json --out a.svg --x threads", ErrorKind::InvalidValue),
            ("aio-bench plot a.json --out a.png --width 99", ErrorKind::ValueValidation),
        ] {
            assert_eq!(Cli::try_parse_from(line.split(' ')).unwrap_err().kind(), kind, "{line}");
        }
    }
}
