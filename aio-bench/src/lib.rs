//! `aio-bench`: move tensors between memory and files, see what a machine offers, and measure it.
//!
//! `aio-bench --help` is the manual. Each command is a module: [`swap`], [`probe`], [`run`], [`compare`], [`tune`],
//! [`soak`], [`plot`], [`completions`].
//!
//! A library only so that fuzzers, which are crates of their own, reach its parsers; nothing in it is a public API.
// Two things that others do are measured here, and cannot be done without: see `compare/contenders`.
#![deny(unsafe_code)]
// Nobody reads this documentation but those who change it.
#![allow(rustdoc::private_intra_doc_links)]

mod chart;
mod cli;
mod compare;
mod completions;
mod estimate;
mod failure;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod generate;
mod host;
mod interrupt;
mod output;
mod paths;
mod pattern;
mod plot;
mod probe;
mod replace;
mod run;
mod size;
mod soak;
mod swap;
mod tune;
mod warm_up;

use std::io;

use tracing_subscriber::EnvFilter;

use cli::{Cli, Command};
use failure::Failure;

/// The command: reads the arguments of the process, and ends it with an exit code if something failed.
#[doc(hidden)]
pub fn main() {
    let started = cli::parse().and_then(|cli| {
        log_to_stderr(&cli);
        start(&cli)
    });
    if let Err(failure) = started {
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
        Some(Command::Compare(args)) => compare::compare(args),
        Some(Command::Tune(args)) => tune::tune(args),
        Some(Command::Soak(args)) => soak::soak(args),
        Some(Command::Plot(args)) => plot::plot(args),
        Some(Command::Completions(args)) => completions::completions(args),
    }
}

fn log_to_stderr(cli: &Cli) {
    // A soak provokes what the library warns of.
    let usual = if matches!(cli.command, Some(Command::Soak(_))) { "error" } else { "warn" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).without_time().init();
}
