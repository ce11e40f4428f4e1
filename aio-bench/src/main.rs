//! The process: arguments, signals, log and exit code.

use std::env;
use std::io;
use std::process;

use aio_cli::failure::tell;
use aio_cli::{interrupt, output};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

fn main() {
    log_to_stderr(LevelFilter::WARN);
    let ended = aio_bench::parse().and_then(|cli| {
        output::is_open()?;
        interrupt::install()?;
        cli.run()
    });
    process::exit(ended.map_or_else(|failure| tell(&failure), |()| 0))
}

/// Logs what RUST_LOG asks for, otherwise events of level `usual` or worse.
fn log_to_stderr(usual: LevelFilter) {
    let asked = env::var("RUST_LOG").ok().and_then(|asked| asked.parse().ok());
    let filter = asked.unwrap_or_else(|| Targets::new().with_default(usual));
    let log = fmt::layer().with_writer(io::stderr).without_time().with_filter(filter);
    tracing_subscriber::registry().with(log).init();
}
