//! The end of an op: giving back what it held, telling its descriptor, its waiter and the accounts.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::task::Waker;

use smallvec::SmallVec;

use crate::backend::Direction;
use crate::desc::{Outcome, PathMode, Target};
use crate::engine::Shared;
use crate::engine::file_ops::Task;
use crate::engine::op::{Transfer, catch, message_of, report, report_drop};
use crate::engine::prepare::end_of;
use crate::engine::promise::Fulfilled;
use crate::engine::work::Ended;
use crate::error::{Error, OpKind, Result};
use crate::file::faults::Sync;
use crate::file::{OpenFile, is_named};
use crate::printable::shown;
use crate::sync::{Ordering, lock};

impl Shared {
    /// Ends ops that have no block left. The caller is the only one to end each of them, and holds no lock.
    pub(crate) fn end(self: &Arc<Self>, ops: impl IntoIterator<Item = Arc<Transfer>>) {
        let mut accounts = Ended::default();
        let mut wakers: SmallVec<[Waker; 4]> = SmallVec::new();
        for op in ops {
            if op.take_sync() {
                self.run_file_task(Task::Durable(op));
                continue;
            }
            let lost = op.state.is_lost();
            let finished =
                catch_unwind(AssertUnwindSafe(|| if lost { finish_lost(self, &op) } else { finish(self, &op) }));
            // Whatever panicked (a getter of the descriptor, a subscriber of the log), the op has to end.
            let outcome = finished.unwrap_or_else(|panic| {
                Err(Error::Panicked { callback: "the end of the op", message: message_of(&*panic) })
            });
            // The write does not hold up syncs any more, however it ended.
            op.state.let_syncs_pass();
            let ok = outcome.is_ok();
            let Fulfilled { wakers: waiting, unclaimed } = op.state.promise.fulfil(outcome, lost);
            let epoch = op.state.epoch.load(Ordering::Acquire);
            accounts.add(op.state.priority, epoch, ok, unclaimed);
            wakers.extend(waiting);
            // The descriptor may go with this reference, and with it the user's buffer.
            report_drop(op);
        }
        self.account(accounts);
        for waker in wakers {
            report(catch("wake", || waker.wake()));
        }
    }

    /// Books ended ops.
    pub(crate) fn account(&self, accounts: Ended) {
        for error in &accounts.unclaimed {
            report(catch("log", || tracing::warn!(%error, "an op whose ticket was dropped failed")));
        }
        if self.work.ended(accounts) {
            self.wake_all();
            self.file_ops.wake_all();
        }
    }
}

/// Gives back what the op held and calls `fini`.
fn finish(shared: &Shared, op: &Transfer) -> Outcome {
    let mut outcome = op.outcome();
    if let Err(error) = &outcome {
        op.note_failed_write(error);
    }
    match op.desc.target() {
        Target::File(file) => finish_growing(op, file, outcome.is_ok()),
        Target::Path(path, mode) => {
            if let Some(file) = lock(&op.state.opened).take() {
                let _held = shared.paths.held();
                finish_growing(op, &file, outcome.is_ok());
                outcome = finish_path(op, path, *mode, file, outcome);
            }
        }
    }
    if let Err(panicked) = op.call("fini", |desc| desc.fini(&outcome)) {
        op.note_failed_write(&panicked);
        outcome = outcome.and(Err(panicked));
    }
    outcome
}

/// Settles the length that a write gave the file.
fn finish_growing(op: &Transfer, file: &OpenFile, wrote: bool) {
    let Some(inode) = file.inode().filter(|_| op.desc.direction() == Direction::Write) else { return };
    if let Some(growing) = lock(&op.state.growing).take()
        && let Err(error) = inode.grown(file.fd(), growing, wrote)
    {
        tracing::warn!(path = %shown(op.path()), %error, "could not give back the length of a failed write");
    }
}

/// The kernel may go on using the op's memory and file, so neither is given back, and `fini` must not run.
fn finish_lost(shared: &Shared, op: &Transfer) -> Outcome {
    // It is not closed, so that no op should wait for that.
    drop(op.state.opened().map(|_file| shared.paths.held()));
    let reason = match op.outcome() {
        Err(Error::WorkerDied { reason }) => reason,
        Err(error) => format!("its queue broke after another failure: {error}"),
        Ok(_) => "its queue broke".to_owned(),
    };
    // By this error the owner of raw memory knows that it must stay valid.
    let error = Error::WorkerDied { reason };
    op.note_failed_write(&error);
    Err(error)
}

/// The last part of a durable write whose bytes have all moved.
pub(crate) fn make_durable(op: &Transfer) -> Result<()> {
    let Some(file) = op.file() else { return Ok(()) };
    cut_tail(op, &file)?;
    file.sync(Sync::Data).map_err(|source| op.io_error(OpKind::Sync, 0, 0, "", source))
}

/// Of a file that was written as a whole, what it was longer before goes.
fn cut_tail(op: &Transfer, file: &OpenFile) -> Result<()> {
    let end = end_of(op);
    match (op.desc.target(), file.inode()) {
        (Target::Path(_, PathMode::Write), Some(inode)) if file.len_at_open() > end => {
            inode.set_len(file.fd(), end).map_err(|source| op.io_error(OpKind::SetLen, 0, end, "", source))
        }
        _ => Ok(()),
    }
}

/// The op opened the file, so it closes it, and what closing says counts.
fn finish_path(op: &Transfer, path: &Path, mode: PathMode, file: OpenFile, outcome: Outcome) -> Outcome {
    let failed = |kind, source: io::Error| op.io_error(kind, 0, end_of(op), "", source);
    let mut outcome = outcome;
    if !op.state.durable {
        outcome = outcome.and_then(|bytes| cut_tail(op, &file).map(|()| bytes));
    }
    let is_new = mode == PathMode::WriteNew;
    let mut remove = is_new && outcome.is_err() && file.is_at(path);
    let identity = file.identity();
    // Closed, its number may be another file's, whose syncs have no business with this write.
    op.state.let_syncs_pass();
    let closed = file.close();
    if let Err(error) = closed
        && outcome.is_ok()
    {
        remove = is_new && is_named(path, identity);
        outcome = Err(failed(OpKind::Close, error));
    }
    if remove && let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(path = %shown(path), %error, "could not remove the file of a failed write");
    }
    outcome
}
