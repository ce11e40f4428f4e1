//! The log of a process, on stderr.

use std::env;
use std::io;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

/// Logs what RUST_LOG asks for, otherwise events of level `usual` or worse.
///
/// Only a process calls this, at its start; this library never does.
pub fn to_stderr(usual: LevelFilter) {
    let asked = env::var("RUST_LOG").ok().and_then(|asked| asked.parse().ok());
    let filter = asked.unwrap_or_else(|| Targets::new().with_default(usual));
    let log = fmt::layer().with_writer(io::stderr).without_time().with_filter(filter);
    tracing_subscriber::registry().with(log).init();
}
