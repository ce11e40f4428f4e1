//! The process: arguments, signals, log and exit code.

use std::process;

use aio_cli::failure::tell;
use aio_cli::{interrupt, log, output};
use tracing::level_filters::LevelFilter;

fn main() {
    log::to_stderr(LevelFilter::WARN);
    let ended = aio_bench::parse().and_then(|cli| {
        output::is_open()?;
        interrupt::install()?;
        cli.run()
    });
    process::exit(ended.map_or_else(|failure| tell(&failure), |()| 0))
}
