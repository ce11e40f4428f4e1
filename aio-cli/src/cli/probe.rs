//! `tensor-aio probe`.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

/// Show which backends work here, or why not, what limits them, and what to do about it.
///
/// Each backend is tried with a real operation. In DIR it makes a small file and removes it again, to find out whether
/// that file system does direct I/O and which alignment it needs.
///
/// Below the table stand findings, the worst first, each with what to type or change. error: a backend or direct I/O
/// cannot be used at all; warning: it works, but slower, or will fail under load; note: good to know.
#[derive(Debug, Args)]
#[command(after_long_help = PROBE_EXAMPLES)]
pub(crate) struct ProbeArgs {
    /// A folder on the file system to look at.
    #[arg(default_value = ".", value_hint = ValueHint::DirPath)]
    pub(crate) dir: PathBuf,

    /// Exit with code 3 if there is a finding of this severity or a worse one. The report is printed in any case.
    #[arg(long, value_name = "SEVERITY", value_enum, default_value_t = FailOn::Error)]
    pub(crate) fail_on: FailOn,

    /// Print one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

const PROBE_EXAMPLES: &str = "\
Exit codes: 0 nothing is as bad as --fail-on says; 1 it could not look, such as at a DIR that is
not there; 2 the command line or AIO_BACKEND is wrong; 3 something is.

Examples:
  tensor-aio probe
  tensor-aio probe /mnt/nvme --json
  tensor-aio probe /mnt/nvme --fail-on warning >/dev/null || echo 'not ready for tensors'";

/// The least severity of a finding at which the exit code is 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FailOn {
    /// A backend or direct I/O cannot be used at all.
    Error,
    /// It works, but slower, or will fail under load.
    Warning,
    /// Exit with 0 whatever the findings.
    Never,
}
