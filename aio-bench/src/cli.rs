//! The command line and its help.

mod compare;
mod job_file;
mod op;
mod plot;
mod run;

use aio_cli::completions::{self, CompletionsArgs};
use aio_cli::failure::Failure;
use clap::{Parser, Subcommand};

pub(crate) use compare::CompareArgs;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use job_file::job_arguments;
pub use job_file::parse;
pub(crate) use op::{Op, WeightedOp};
pub(crate) use plot::{Over, PlotArgs};
pub(crate) use run::RunArgs;

/// The command's name, as the user types it.
const NAME: &str = "aio-bench";

/// Measure tensor I/O in detail, compare it with other software, and draw the results.
#[derive(Debug, Parser)]
#[command(name = NAME, version, after_long_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
Sizes: plain bytes (4096), binary units (64K, 1M, 1GiB; K is 1024 as in fio) or decimal units (10MB).
Results go to stdout; progress, logs (RUST_LOG=debug for more) and errors to stderr.
Exit codes: 0 done and verified; 1 something failed or did not verify; 2 the command line is wrong;
129, 130 or 143 interrupted, after cleaning up.

Start here:
  aio-bench run --help             one job at a time, as with fio
  aio-bench compare --help         the same work by every backend, and by others
  aio-bench plot --help            pictures of what runs measured";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(RunArgs),
    Compare(CompareArgs),
    Plot(PlotArgs),
    #[command(after_long_help = completions::places(NAME))]
    Completions(CompletionsArgs),
}

impl Cli {
    /// Runs the command that the user named.
    pub fn run(&self) -> Result<(), Failure> {
        match &self.command {
            Command::Run(args) => crate::run::run(args),
            Command::Compare(args) => crate::compare::compare(args),
            Command::Plot(args) => crate::plot::plot(args),
            Command::Completions(args) => completions::completions::<Self>(args),
        }
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
    fn options_that_contradict_each_other_are_refused() {
        for (line, kind) in [
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
        ] {
            assert_eq!(Cli::try_parse_from(line.split(' ')).unwrap_err().kind(), kind, "{line}");
        }
    }
}
