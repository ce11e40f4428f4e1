//! The last steps of a save, and what is said where they fail.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use aio_core::error::OpKind;
use aio_core::{AtomicFile, shown};

use crate::error::{Error, Result};

/// Called after each step of a save, with its name.
pub(super) type AfterStep = Mutex<dyn FnMut(&str) + Send>;

/// For tests: what is called after each step, if anything is.
pub(super) struct Steps(pub(super) Option<Arc<AfterStep>>);

impl Steps {
    pub(super) fn done(&self, step: &str) {
        if let Some(after) = &self.0 {
            (after.lock().unwrap_or_else(PoisonError::into_inner))(step);
        }
    }
}

/// A file that is being put in its place.
pub(super) struct Commit {
    ticket: aio_core::Ticket<()>,
    target: PathBuf,
}

impl Commit {
    pub(super) fn start(file: AtomicFile, durable: bool, steps: &Steps) -> Self {
        let target = file.target().to_owned();
        let ticket = match steps.0.clone() {
            Some(after) if durable => {
                let (steps, name) = (Steps(Some(after)), shown(&target).to_string());
                file.commit_in_steps(move |step| steps.done(&format!("{step:?} {name}")))
            }
            _ if durable => file.commit(),
            _ => file.commit_without_sync(),
        };
        Self { ticket, target }
    }

    pub(super) fn wait(self) -> Result<()> {
        let Self { ticket, target } = self;
        let failure = |error: aio_core::error::OpError<()>| match error.into_error() {
            aio_core::Error::Io(error) if error.op == OpKind::Sync && Some(&*error.path) == target.parent() => {
                Error::NotDurable { path: target, source: error.into() }
            }
            error => error.into(),
        };
        ticket.wait().map_err(failure)
    }
}

pub(super) fn not_saved(path: &Path, error: Error) -> Error {
    match error {
        error @ (Error::NotDurable { .. } | Error::NotSaved { .. } | Error::Incomplete { .. }) => error,
        error => Error::NotSaved { path: path.to_owned(), source: Box::new(error) },
    }
}
