//! The process: its arguments, signals, log and exit code.

use std::io;
use std::process::ExitCode;

use aio_cli::interrupt;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).without_time().init();
    match aio_bench::parse().and_then(|cli| interrupt::install().and_then(|()| cli.run())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit_code()
        }
    }
}
