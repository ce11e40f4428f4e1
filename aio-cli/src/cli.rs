//! The command line and its help.

mod inspect;
mod probe;
mod soak;
mod swap;
mod tune;
mod verify;

use aio::AioConfig;
use clap::{Args, Parser, Subcommand};
use tracing::level_filters::LevelFilter;

use crate::completions::{self, CompletionsArgs};
use crate::failure::Failure;
use crate::{number, size};

pub(crate) use inspect::InspectArgs;
pub(crate) use probe::{FailOn, ProbeArgs};
pub(crate) use soak::SoakArgs;
pub(crate) use swap::{Layout, SwapArgs};
pub(crate) use tune::TuneArgs;
pub(crate) use verify::VerifyArgs;

/// The command's name, as the user types it.
const NAME: &str = "tensor-aio";

/// Move tensors between memory and files, look at what a machine can do, find its fastest settings, and look into files
/// of tensors.
///
/// Without a command it does `swap` with the options given: GPT-2 small with its Adam moments goes out to files and
/// comes back, on every backend that this machine has, and every byte is compared.
#[derive(Debug, Parser)]
#[command(name = NAME, version, args_conflicts_with_subcommands = true, after_long_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    swap: SwapArgs,
}

const AFTER_HELP: &str = "\
Sizes: plain bytes (4096), binary units (64K, 1M, 1GiB; K is 1024 as in fio) or decimal units (10MB).
Results go to stdout; progress, logs (RUST_LOG=debug for more) and errors to stderr.
Exit codes: 0 done and verified; 1 something failed or did not verify; 2 the command line is wrong;
3 probe found an error (see --fail-on); 129, 130 or 143 interrupted, after cleaning up.

Start here:
  tensor-aio                       swap GPT-2 through every backend, in the current folder
  tensor-aio probe /mnt/nvme       what this machine and that file system offer, and what to change
  tensor-aio tune /mnt/nvme        the fastest configuration for that device, within a minute
  tensor-aio soak --runtime 8h     everything at random, every byte verified, until the time is up
  tensor-aio inspect model/        the tensors of safetensors files
  tensor-aio verify model/         whether they are still what was saved";

#[derive(Debug, Subcommand)]
enum Command {
    Swap(SwapArgs),
    Probe(ProbeArgs),
    Tune(TuneArgs),
    Soak(SoakArgs),
    Inspect(InspectArgs),
    Verify(VerifyArgs),
    #[command(after_long_help = completions::places(NAME))]
    Completions(CompletionsArgs),
}

impl Cli {
    /// Runs the command that the user named.
    pub fn run(&self) -> Result<(), Failure> {
        match &self.command {
            None => crate::swap::swap(&self.swap),
            Some(Command::Swap(args)) => crate::swap::swap(args),
            Some(Command::Probe(args)) => crate::probe::probe(args),
            Some(Command::Tune(args)) => crate::tune::tune(args),
            Some(Command::Soak(args)) => crate::soak::soak(args),
            Some(Command::Inspect(args)) => crate::inspect::inspect(args),
            Some(Command::Verify(args)) => crate::verify::verify(args),
            Some(Command::Completions(args)) => completions::completions::<Self>(args),
        }
    }

    /// The log level where RUST_LOG is not set. A soak provokes what the library warns of.
    pub fn log_level(&self) -> LevelFilter {
        if matches!(self.command, Some(Command::Soak(_))) { LevelFilter::ERROR } else { LevelFilter::WARN }
    }
}

/// Settings of the engine; one that is not given keeps the engine's default.
#[derive(Debug, Args)]
pub(crate) struct EngineArgs {
    /// Blocks in flight per thread.
    #[arg(long, value_name = "N", value_parser = number::parse::<usize>)]
    pub(crate) queue_depth: Option<usize>,

    /// Bytes of a block, the largest piece that is handed to the kernel at once.
    #[arg(long, value_name = "SIZE", value_parser = size::parse_usize)]
    pub(crate) block_size: Option<usize>,

    /// Worker threads, each with a queue of its own.
    #[arg(long, value_name = "N", value_parser = number::parse::<usize>)]
    pub(crate) threads: Option<usize>,
}

impl EngineArgs {
    /// The engine's defaults, overridden by the options given.
    pub(crate) fn config(&self) -> AioConfig {
        let mut config = AioConfig::default();
        config.queue_depth = self.queue_depth.unwrap_or(config.queue_depth);
        config.block_size = self.block_size.unwrap_or(config.block_size);
        config.intra_op_parallelism = self.threads.unwrap_or(config.intra_op_parallelism);
        config
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
        let cli = Cli::try_parse_from(["tensor-aio", "--json", "--tensors", "2", "--tensor-size", "1K"]).unwrap();
        assert!(cli.command.is_none() && cli.swap.json);
        assert_eq!((cli.swap.tensors, cli.swap.tensor_size), (Some(2), Some(1024)));
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        for (line, kind) in [
            ("tensor-aio swap --tensors 1", ErrorKind::MissingRequiredArgument),
            ("tensor-aio swap --from a --tensors 1 --tensor-size 1", ErrorKind::ArgumentConflict),
            ("tensor-aio swap --tensors 0 --tensor-size 1", ErrorKind::ValueValidation),
        ] {
            assert_eq!(Cli::try_parse_from(line.split(' ')).unwrap_err().kind(), kind, "{line}");
        }
    }
}
