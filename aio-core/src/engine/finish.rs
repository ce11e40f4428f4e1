//! The end of an op: giving back what it held, telling its descriptor, its waiter and the accounts.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::task::Waker;

use smallvec::SmallVec;

use crate::engine::Shared;
use crate::engine::file_tasks::Task;
use crate::engine::op_queue::EndedOps;
use crate::engine::prepare::end_of;
use crate::engine::promise::Notify;
use crate::engine::transfer::Transfer;
use crate::error::{Error, OpKind, Result};
use crate::file::routes::{Route, RoutePermit};
use crate::file::write_back::Sync;
use crate::file::{OpenFile, is_named};
use crate::foreign::log;
use crate::foreign::{attempt, catch, report, report_drop};
use crate::op::desc::{Outcome, PathMode, Target};
use crate::printable::shown;
use crate::sync::Ordering;

impl Shared {
    /// Ends ops that have no block left. The caller is the only one to end each of them, and holds no lock.
    pub(crate) fn end(self: &Arc<Self>, ops: impl IntoIterator<Item = Arc<Transfer>>) {
        self.end_settled(ops.into_iter().filter_map(|op| self.settle_length(op)));
    }

    fn end_settled(self: &Arc<Self>, ops: impl IntoIterator<Item = Arc<Transfer>>) {
        let mut accounts = EndedOps::default();
        let mut wakers: SmallVec<[Waker; 4]> = SmallVec::new();
        for op in ops {
            if op.state.take_sync() {
                let file = file_key(&op);
                self.run_file_task(Task::SyncWrite { op, file });
                continue;
            }
            let lost = op.state.is_lost();
            // Whatever panicked (a getter of the descriptor, for instance), the op has to end.
            let outcome =
                if lost { attempt("the end of the op", || finish_lost(self, &op)) } else { finish(self, &op) };
            // The write does not hold up syncs any more, however it ended.
            op.state.release_syncs();
            let ok = outcome.is_ok();
            let Notify { wakers: waiting, unreported } = op.state.promise.fulfil(outcome, lost);
            let epoch = op.state.epoch.load(Ordering::Acquire);
            accounts.add(op.state.options.priority, epoch, ok, unreported);
            wakers.extend(waiting);
            // The descriptor may go with this reference, and with it the user's buffer.
            report_drop(op);
        }
        self.account(accounts);
        for waker in wakers {
            report(catch("wake", || waker.wake()));
        }
    }

    /// Brings the file of a write to the length that it is to have, where that is not its length already. This may make
    /// a page dirty, so it takes a permit for the page cache; if there is none now, the op is ended with it later, on a
    /// thread for file operations.
    #[inline]
    fn settle_length(self: &Arc<Self>, op: Arc<Transfer>) -> Option<Arc<Transfer>> {
        if op.state.is_accepted_write() { self.settle_length_of_write(op) } else { Some(op) }
    }

    fn settle_length_of_write(self: &Arc<Self>, op: Arc<Transfer>) -> Option<Arc<Transfer>> {
        let mut is_needed = false;
        // They ask the descriptor, which is foreign code.
        let asked = catch("target", || is_needed = !op.state.is_lost() && changes_length(&op));
        if asked.is_err() || !is_needed {
            return Some(op);
        }
        let Some(routes) = op.state.routes() else { return Some(op) };
        let engine = self.clone();
        let then = move |op, permit| engine.run_file_task(Task::EndWrite(op, permit));
        let (op, permit) = routes.enter(Route::Cached, None, op, then)?;
        change_length(&op, permit);
        Some(op)
    }

    /// Ends an op that waited for a permit.
    pub(crate) fn end_with_permit(self: &Arc<Self>, op: Arc<Transfer>, permit: RoutePermit) {
        change_length(&op, permit);
        self.end_settled([op]);
    }

    /// Counts ended ops, and logs the failures that no ticket reports.
    pub(crate) fn account(self: &Arc<Self>, accounts: EndedOps) {
        for error in &accounts.unreported {
            log(|| tracing::warn!(%error, "an op whose ticket was dropped failed"));
        }
        let (finished, helpers) = self.op_queue.ops_ended(accounts);
        self.call(helpers);
        if finished {
            self.wake_all();
            self.file_threads.wake_all();
        }
    }
}

/// Gives back what the op held and calls `fini`, whatever else panics: of an op of a scope it drops what was borrowed.
fn finish(shared: &Shared, op: &Transfer) -> Outcome {
    let mut outcome = attempt("the end of the op", || give_back(shared, op));
    if let Err(panicked) = op.call("fini", |desc| desc.fini(&outcome)) {
        report(catch("target", || op.note_failed_write(&panicked)));
        match outcome {
            Ok(_) => outcome = Err(panicked),
            // Its ticket reports the first failure.
            Err(_) => report(Err(panicked)),
        }
    }
    outcome
}

/// Gives back what the op held: the length of a failed write, its file.
fn give_back(shared: &Shared, op: &Transfer) -> Outcome {
    // It has ended well here, or has nothing to give back.
    settle_growth(op);
    let outcome = op.outcome();
    if let Err(error) = &outcome {
        op.note_failed_write(error);
    }
    if let Target::Path(path, mode) = op.desc.target()
        && let Some(file) = op.state.take_opened()
    {
        let _open = shared.op_queue.open_paths.resume();
        return finish_path(op, path, *mode, file, outcome);
    }
    outcome
}

/// The kernel may go on using the op's memory and file, so neither is given back, and `fini` must not run.
fn finish_lost(shared: &Shared, op: &Transfer) -> Outcome {
    // It is not closed, so that no op should wait for that.
    drop(op.state.opened().map(|_file| shared.op_queue.open_paths.resume()));
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
    file.sync(Sync::Data).map_err(|source| op.io_error(OpKind::Sync, source).into())
}

/// What writes to the same open file have in common; nothing if the op opened its file.
fn file_key(op: &Transfer) -> Option<usize> {
    // It asks the descriptor, which is foreign code. Without a key, the write has a sync of its own; if
    // the descriptor panicked, `make_durable` asks it again, and a panic there is the op's error.
    let key = catch("target", || match op.desc.target() {
        Target::File(file) => Some(file.key()),
        Target::Path(..) => None,
    });
    key.ok().flatten()
}

/// Whether the file of a write is to get another length now that its blocks are over.
fn changes_length(op: &Transfer) -> bool {
    match op.state.ends_well() {
        true => tail_of(op).is_some(),
        // The length that it gave the file is given back.
        false => op.state.is_extending(),
    }
}

/// The end of an op that wrote its file as a whole, if the file was longer before.
fn tail_of(op: &Transfer) -> Option<(OpenFile, u64)> {
    let Target::Path(_, PathMode::Write) = op.desc.target() else { return None };
    let (file, end) = (op.file()?, end_of(op));
    // Durable, it comes by a second time, and is cut already.
    let is_cut = op.state.options.durable && !op.state.is_sync_due();
    (file.len_at_open() > end && !is_cut).then_some((file, end))
}

/// Does what [`changes_length`] saw. A failure is the op's, and so is a panic of the descriptor that it asks.
fn change_length(op: &Transfer, _permit: RoutePermit) {
    let changed = catch("target", || {
        if op.state.ends_well()
            && let Some((file, end)) = tail_of(op)
            && let Some(inode) = file.inode()
            && let Err(source) = inode.growth.set_len(file.fd(), end)
        {
            op.state.fail(end, op.io_error(OpKind::SetLen, source).with_length(end).into());
        }
        if !op.state.ends_well() {
            settle_growth(op);
        }
    });
    if let Err(panicked) = changed {
        op.state.fail(0, panicked);
    }
}

/// Settles the length that a write gave its file: it keeps it, or gives it back.
fn settle_growth(op: &Transfer) {
    if op.state.is_accepted_write()
        && let Some(write) = op.state.take_extending()
        && let Some(file) = op.file()
    {
        file.end_extending(write, op.state.ends_well());
    }
}

/// The op opened the file, so it closes it, and what closing says counts.
fn finish_path(op: &Transfer, path: &Path, mode: PathMode, file: OpenFile, outcome: Outcome) -> Outcome {
    let failed = |kind, source: io::Error| Error::from(op.io_error(kind, source).with_length(end_of(op)));
    let mut outcome = outcome;
    let is_new = mode == PathMode::WriteNew;
    let mut remove = is_new && outcome.is_err() && file.is_at(path);
    let identity = file.identity();
    // Closed, its number may be another file's, whose syncs have no business with this write.
    op.state.release_syncs();
    let closed = file.close();
    if let Err(error) = closed
        && outcome.is_ok()
    {
        remove = is_new && is_named(path, identity);
        outcome = Err(failed(OpKind::Close, error));
    }
    if remove && let Err(error) = std::fs::remove_file(path) {
        log(|| tracing::warn!(path = %shown(path), %error, "could not remove the file of a failed write"));
    }
    outcome
}
