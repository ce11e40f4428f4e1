//! The process: its arguments, signals, log and exit code.

use std::env;
use std::io;
use std::process::ExitCode;

use aio_cli::{Cli, interrupt};
use clap::Parser;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr(cli.log_level());
    match interrupt::install().and_then(|()| cli.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit_code()
        }
    }
}

/// What RUST_LOG asks for, or what is at least as bad as `usual`.
fn log_to_stderr(usual: LevelFilter) {
    let asked = env::var("RUST_LOG").ok().and_then(|asked| asked.parse().ok());
    let filter = asked.unwrap_or_else(|| Targets::new().with_default(usual));
    let log = fmt::layer().with_writer(io::stderr).without_time().with_filter(filter);
    tracing_subscriber::registry().with(log).init();
}
