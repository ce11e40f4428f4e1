//! The process: arguments, signals, log and exit code.

use std::process;

use aio_cli::failure::tell;
use aio_cli::{Cli, command_line, interrupt, log, output};
use clap::Parser;

fn main() {
    let cli = Cli::try_parse().unwrap_or_else(|error| command_line::exit::<Cli>(error));
    log::to_stderr(cli.log_level());
    let ended = output::is_open().and_then(|()| interrupt::install()).and_then(|()| cli.run());
    process::exit(ended.map_or_else(|failure| tell(&failure), |()| 0))
}
