//! The conformance suite: what the engine relies on, checked against any backend.
//!
//! [`queue`] checks the contract of [`IoBackend`] and [`IoQueue`](aio_core::backend::IoQueue), [`fork`] that of a forked
//! child, both on real files in a folder under `TMPDIR`.
//!
//! Every check runs, on a thread that carries its name, so that a panic message starts with it; the failed ones are
//! listed at the end. A queue that hangs cannot be unwound: after a generous time the process prints the name of the
//! check and aborts. Tests of a backend's own refusals run it on a kernel that is [`refusing`] system calls.
//!
//! What the machine refuses is skipped loudly, on standard error even when the test harness captures output. A backend
//! named in `AIO_EXPECT` (a comma-separated list) must be available.
#![allow(unsafe_code)]

mod fork;
mod queue;
mod refusing;
mod rig;

use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use aio_core::backend::{Capabilities, IoBackend};

pub use fork::fork;
pub use queue::queue;
pub use refusing::refusing;

/// How long a check may take before it counts as hung. Nearly all take milliseconds.
const HANG: Duration = Duration::from_secs(180);

/// Probes `backend` and says whether its tests can run here.
///
/// # Panics
///
/// When it is not available and the environment variable `AIO_EXPECT` names it.
pub fn require(backend: &dyn IoBackend) -> bool {
    available(backend).is_some()
}

/// [`require`], with what the probe found.
fn available(backend: &dyn IoBackend) -> Option<Capabilities> {
    match watched(backend, "probe", || backend.probe()).expect("the probe panicked") {
        Ok(capabilities) => Some(capabilities),
        Err(unavailable) => {
            let expected = std::env::var("AIO_EXPECT").unwrap_or_default();
            let expected = expected.split(',').any(|name| name.trim() == backend.name());
            assert!(!expected, "AIO_EXPECT names {}, but {unavailable}", backend.name());
            loud(format_args!("SKIPPED {}: {}", backend.name(), unavailable.reason));
            None
        }
    }
}

/// Prints a line past the output capture of the test harness.
fn loud(line: fmt::Arguments<'_>) {
    // There is no place left to report that standard error is closed.
    let _ = writeln!(io::stderr(), "{line}");
}

/// What a check works with.
struct Context<'a> {
    backend: &'a dyn IoBackend,
    capabilities: &'a Capabilities,
    /// An empty folder of this check's own.
    folder: &'a Path,
}

/// A named check.
struct Check {
    name: &'static str,
    run: fn(&Context<'_>),
}

/// The checks given by path, each under the name of its function.
macro_rules! checks {
    ($($module:ident :: $check:ident),* $(,)?) => {
        [$($crate::conformance::Check {
            name: concat!(stringify!($module), "::", stringify!($check)),
            run: $module::$check,
        }),*]
    };
}
use checks;

/// Runs every check, then panics with the names of those that failed.
fn run(backend: &dyn IoBackend, checks: &[Check]) {
    let Some(capabilities) = available(backend) else { return };
    let failed: Vec<_> =
        checks.iter().filter(|check| !passes(backend, &capabilities, check)).map(|check| check.name).collect();
    assert!(failed.is_empty(), "{}: {} of {} checks failed: {failed:?}", backend.name(), failed.len(), checks.len());
}

fn passes(backend: &dyn IoBackend, capabilities: &Capabilities, check: &Check) -> bool {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let context = Context { backend, capabilities, folder: folder.path() };
    watched(backend, check.name, || (check.run)(&context)).is_ok()
}

/// Runs `work` on a thread with this name, and aborts the process if it never ends.
fn watched<T: Send>(backend: &dyn IoBackend, name: &str, work: impl FnOnce() -> T + Send) -> thread::Result<T> {
    let (ends, watch) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let work = move || {
            // Dropped when the work returned or unwound.
            let _ends = ends;
            work()
        };
        let thread = thread::Builder::new().name(format!("{} {name}", backend.name()));
        let thread = thread.spawn_scoped(scope, work).expect("a thread for the check");
        if watch.recv_timeout(HANG) == Err(RecvTimeoutError::Timeout) {
            loud(format_args!("{}: {name} hangs", backend.name()));
            std::process::abort();
        }
        thread.join()
    })
}
