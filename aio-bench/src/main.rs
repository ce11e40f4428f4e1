//! `aio-bench`: move tensors between memory and files, see what a machine offers, and measure it.
//!
//! `aio-bench --help` is the manual. Each command is a module: [`swap`], [`probe`], [`run`], [`tune`].
#![forbid(unsafe_code)]

mod cli;
mod failure;
mod generate;
mod host;
mod interrupt;
mod output;
mod paths;
mod probe;
mod run;
mod size;
mod swap;
mod tune;
mod warm_up;

use std::io;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use cli::{Cli, Command};
use failure::Failure;

fn main() {
    let cli = Cli::parse();
    log_to_stderr();
    if let Err(failure) = start(&cli) {
        eprintln!("error: {failure}");
        std::process::exit(failure.exit_code());
    }
}

fn start(cli: &Cli) -> Result<(), Failure> {
    interrupt::install().map_err(|error| Failure::Failed(format!("cannot handle signals: {error}")))?;
    match &cli.command {
        None => swap::swap(&cli.swap),
        Some(Command::Swap(args)) => swap::swap(args),
        Some(Command::Probe(args)) => probe::probe(args),
        Some(Command::Run(args)) => run::run(args),
        Some(Command::Tune(args)) => tune::tune(args),
    }
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).without_time().init();
}
