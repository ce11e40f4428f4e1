//! An op on its way through the engine.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use crate::backend::Direction;
use crate::engine::op_queue::Full;
use crate::engine::promise::Promise;
use crate::error::{Error, IoError, OpKind};
use crate::file::OpenFile;
use crate::file::inode::{Accepted, Growing};
use crate::file::routes::{Pass, Route, Routes};
use crate::foreign::catch;
use crate::op::desc::{Extent, IoOpDesc, Outcome, Target};
use crate::op::plan::Plan;
use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex, Ordering, lock};

/// What [`OpState::try_enter`] says.
#[derive(Debug)]
pub(crate) enum Entered {
    /// A read needs nothing.
    Free,
    With(Pass),
    /// Writes on the other route are in flight.
    Busy,
}

/// A transfer: its state and its descriptor, in one allocation.
pub(crate) struct Op<D: ?Sized> {
    pub(crate) state: OpState,
    pub(crate) desc: D,
}

impl<D: ?Sized> fmt::Debug for Op<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Op").field("state", &self.state).finish_non_exhaustive()
    }
}

/// A transfer as the engine handles it.
pub(crate) type Transfer = Op<dyn IoOpDesc>;

/// Which of the two queues an op waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Priority {
    /// What somebody waits for, such as a prefetch.
    #[default]
    Normal,
    /// What may take longer, such as a checkpoint: it leaves room in every queue for normal ops.
    Background,
}

/// What ops inherit from the handle or the file that they are submitted through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct OpOptions {
    pub(crate) priority: Priority,
    pub(crate) validate: bool,
    /// Of writes: Ok means that the bytes are on the device.
    pub(crate) durable: bool,
    /// They are accepted beyond the limit of pending ops.
    pub(crate) unlimited: bool,
}

impl OpOptions {
    /// What a full queue does with them.
    pub(crate) fn when_full(self) -> Full {
        if self.unlimited { Full::Exceed } else { Full::Wait }
    }
}

/// What the engine keeps per transfer.
#[derive(Debug)]
pub(crate) struct OpState {
    pub(crate) promise: Promise,
    pub(crate) priority: Priority,
    pub(crate) validate: bool,
    pub(crate) durable: bool,
    /// The epoch of the handle that it was accepted in.
    pub(crate) epoch: AtomicU64,
    /// Of a write, while it is one that a sync waits for: from its acceptance, or from the time its path was opened.
    accepted: OnceLock<Mutex<Option<Accepted>>>,
    /// Of a write to an open file: which one.
    file_key: OnceLock<usize>,
    /// It is durable, and a sync that ends it, if it is a write, is still to be done.
    to_be_synced: AtomicBool,
    /// Made with the op, or by the worker that opened its file.
    early_plan: Option<Plan>,
    late_plan: OnceLock<Box<Plan>>,
    /// Of an op on a path: its file, from the time it was opened to the end.
    pub(crate) opened: Mutex<Option<OpenFile>>,
    /// There while the op may have to give a length back.
    pub(crate) growing: Mutex<Option<Growing>>,
    /// Blocks that are not accounted for.
    pending: AtomicUsize,
    moved: AtomicU64,
    cancelled: AtomicBool,
    failed: AtomicBool,
    /// The failure nearest to the start of the op, with its position.
    failure: Mutex<Option<Box<(u64, Error)>>>,
    verifying: AtomicBool,
    /// The kernel may use the op's memory for ever.
    lost: AtomicBool,
}

impl OpState {
    pub(crate) fn new(promise: Promise, options: OpOptions, plan: Option<Plan>) -> Self {
        let OpOptions { priority, validate, durable, unlimited: _ } = options;
        Self {
            promise,
            priority,
            validate,
            durable,
            epoch: AtomicU64::new(0),
            accepted: OnceLock::new(),
            file_key: OnceLock::new(),
            to_be_synced: AtomicBool::new(durable),
            pending: AtomicUsize::new(plan.as_ref().map_or(0, |plan| plan.blocks)),
            early_plan: plan,
            late_plan: OnceLock::new(),
            opened: Mutex::default(),
            growing: Mutex::default(),
            moved: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            failure: Mutex::default(),
            verifying: AtomicBool::new(false),
            lost: AtomicBool::new(false),
        }
    }

    /// Its blocks, once they are known.
    pub(crate) fn plan(&self) -> Option<&Plan> {
        self.early_plan.as_ref().or_else(|| self.late_plan.get().map(Box::as_ref))
    }

    /// Whether a worker planned it, and so opened its path if it has one.
    pub(crate) fn is_prepared(&self) -> bool {
        self.late_plan.get().is_some()
    }

    /// Asks the op to stop; blocks that a queue has accepted run on.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Whether blocks that nobody has claimed are not worth starting.
    pub(crate) fn is_stopped(&self) -> bool {
        self.is_cancelled() || self.failed.load(Ordering::Acquire)
    }

    /// Whether this pass reads back and compares.
    pub(crate) fn is_verifying(&self) -> bool {
        self.verifying.load(Ordering::Acquire)
    }

    /// Records a failure at `position` bytes into the op. The nearest to the start is the one reported, so that the
    /// same fault gives the same error however its blocks were spread.
    #[cold]
    pub(crate) fn fail(&self, position: u64, error: Error) {
        let mut failure = lock(&self.failure);
        if failure.as_ref().is_none_or(|first| position < first.0) {
            *failure = Some(Box::new((position, error)));
        }
        self.failed.store(true, Ordering::Release);
    }

    /// Sets the plan; its blocks are pending from now on.
    pub(crate) fn start(&self, plan: Plan) {
        self.moved.store(plan.bytes_done(), Ordering::Release);
        self.pending.store(plan.blocks - plan.blocks_done(), Ordering::Release);
        let _ = self.late_plan.set(Box::new(plan));
    }

    /// The first block to be claimed of this pass; 0 until it is planned.
    pub(crate) fn first_block(&self) -> usize {
        self.plan().filter(|_| !self.is_verifying()).map_or(0, Plan::blocks_done)
    }

    /// Whether all blocks of this pass are accounted for.
    pub(crate) fn is_over(&self) -> bool {
        self.pending.load(Ordering::Acquire) == 0
    }

    /// Begins the second pass, which reads every block back.
    pub(crate) fn start_verifying(&self) {
        self.verifying.store(true, Ordering::Release);
        self.moved.store(0, Ordering::Release);
        self.pending.store(self.plan().map_or(0, |plan| plan.blocks), Ordering::Release);
    }

    /// `blocks` blocks that moved `bytes` are done with, well or not. True for exactly one caller: the last.
    pub(crate) fn account(&self, blocks: usize, bytes: u64) -> bool {
        if self.pending.load(Ordering::Acquire) == blocks {
            // Nobody else has any of the op's blocks.
            self.moved.store(self.moved.load(Ordering::Relaxed) + bytes, Ordering::Release);
            self.pending.store(0, Ordering::Release);
            return true;
        }
        self.moved.fetch_add(bytes, Ordering::AcqRel);
        self.pending.fetch_sub(blocks, Ordering::AcqRel) == blocks
    }

    /// Syncs wait for this write from now on.
    pub(crate) fn accept(&self, accepted: Accepted) {
        let _ = self.accepted.set(Mutex::new(Some(accepted)));
    }

    /// Whether it is a write that syncs wait for, or has been one.
    #[inline]
    pub(crate) fn is_accepted_write(&self) -> bool {
        self.accepted.get().is_some()
    }

    /// Of a write, before its end: the routes of its inode.
    pub(crate) fn routes(&self) -> Option<Arc<Routes>> {
        lock(self.accepted.get()?).as_ref().map(|accepted| accepted.routes().clone())
    }

    /// What a run of blocks needs before it is issued.
    pub(crate) fn try_enter(&self, route: Route) -> Entered {
        let Some(accepted) = self.accepted.get().filter(|_| !self.is_verifying()) else { return Entered::Free };
        match &*lock(accepted) {
            None => Entered::Free,
            Some(accepted) => accepted.routes().try_enter(route).map_or(Entered::Busy, Entered::With),
        }
    }

    /// It is durable, and not synced yet.
    pub(crate) fn is_to_be_synced(&self) -> bool {
        self.to_be_synced.load(Ordering::Acquire)
    }

    /// Of a write to an open file, what other writes to it have too.
    pub(crate) fn file_key(&self) -> Option<usize> {
        self.file_key.get().copied()
    }

    pub(crate) fn set_file_key(&self, key: usize) {
        let _ = self.file_key.set(key);
    }

    /// If it is a write, syncs need not wait for it any more.
    pub(crate) fn let_syncs_pass(&self) {
        let accepted = self.accepted.get().and_then(|accepted| lock(accepted).take());
        drop(accepted);
    }

    /// Whether every byte of this pass moved.
    pub(crate) fn is_complete(&self) -> bool {
        !self.failed.load(Ordering::Acquire)
            && self.plan().is_some_and(|plan| plan.bytes == self.moved.load(Ordering::Acquire))
    }

    /// Whether it is over and has done all that it was to do.
    pub(crate) fn ends_well(&self) -> bool {
        // Cancelled between the two passes of `validate`, it has moved everything and compared nothing.
        let verified = !self.validate || self.is_verifying() || self.plan().is_none_or(|plan| plan.blocks == 0);
        self.is_complete() && verified
    }

    /// A queue broke with blocks of this op in flight: its memory is never given back.
    pub(crate) fn set_lost(&self) {
        self.lost.store(true, Ordering::Release);
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// A second owner of the file that the op opened; nothing for one on an open file. Asks nothing of the descriptor,
    /// which is foreign code: this runs under a lock.
    pub(crate) fn opened(&self) -> Option<OpenFile> {
        // Only an op on an open file is planned early.
        if self.early_plan.is_some() { None } else { lock(&self.opened).clone() }
    }
}

impl<D: IoOpDesc + ?Sized> Op<D> {
    pub(crate) fn kind(&self) -> OpKind {
        match self.desc.direction() {
            Direction::Read => OpKind::Read,
            Direction::Write => OpKind::Write,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        match self.desc.target() {
            Target::File(file) => file.path(),
            Target::Path(path, _) => path,
        }
    }

    /// A second owner of its file.
    pub(crate) fn file(&self) -> Option<OpenFile> {
        match self.desc.target() {
            Target::File(file) => Some(file.clone()),
            Target::Path(..) => self.state.opened(),
        }
    }

    /// An error of the operating system in this op.
    pub(crate) fn io_error(&self, kind: OpKind, source: std::io::Error) -> IoError {
        IoError::new(kind, self.path(), source)
    }

    /// If it is a write, it failed: whoever vouches for the file has to know.
    #[cold]
    pub(crate) fn note_failed_write(&self, error: &Error) {
        // In a forked child nothing may wait for a lock that a thread of the parent held.
        if self.desc.direction() == Direction::Write
            && !matches!(error, Error::Forked)
            && let Some(file) = self.file()
            && let Some(inode) = file.inode()
        {
            inode.faults.write_failed(error);
        }
    }

    /// Ends an op that was not accepted.
    #[cold]
    pub(crate) fn refuse(&self, error: Error) {
        self.note_failed_write(&error);
        let outcome = Err(error);
        let finished = self.call("fini", |desc| desc.fini(&outcome));
        let _nothing_to_wake =
            self.state.promise.fulfil(outcome.and_then(|bytes: u64| finished.map(|()| bytes)), false);
    }

    /// Whether all its bytes moved and a sync is still to be done; no more after that.
    pub(crate) fn take_sync(&self) -> bool {
        let state = &self.state;
        state.is_to_be_synced()
            && state.is_accepted_write()
            && state.is_complete()
            && !state.is_lost()
            && state.to_be_synced.swap(false, Ordering::AcqRel)
    }

    /// The end of the file came `read` bytes into the op.
    pub(crate) fn eof(&self, read: u64) -> Error {
        let extents = self.desc.extents();
        Error::UnexpectedEof {
            path: self.path().to_owned(),
            offset: extents.first().map_or(0, |extent| extent.offset),
            length: extents.iter().map(|extent| extent.len as u64).sum(),
            read,
        }
    }

    /// How it ended, going by what was recorded.
    pub(crate) fn outcome(&self) -> Outcome {
        let state = &self.state;
        if state.failed.load(Ordering::Acquire)
            && let Some(failure) = lock(&state.failure).take()
        {
            // An end of the file says that everything before it was read; of a cancelled op, blocks may be left out.
            let is_end = matches!(failure.1, Error::UnexpectedEof { .. });
            if !(is_end && state.is_cancelled()) {
                return Err(failure.1);
            }
        }
        let moved = state.moved.load(Ordering::Acquire);
        if state.ends_well() {
            return Ok(moved);
        }
        Err(Error::Cancelled { op: self.kind(), path: self.path().to_owned(), bytes: moved })
    }

    /// Runs a callback of the descriptor; a panic becomes the op's error.
    pub(crate) fn call(&self, callback: &'static str, run: impl FnOnce(&D)) -> Result<(), Error> {
        catch(callback, || run(&self.desc))
    }
}

/// Checks what every range must satisfy before it is planned.
pub(crate) fn check_extents(extents: &[Extent]) -> Result<(), Error> {
    let mut total = 0_u64;
    for extent in extents {
        let end = extent.offset.checked_add(extent.len as u64);
        if end.is_none_or(|end| i64::try_from(end).is_err()) {
            return Err(Error::InvalidInput(format!(
                "{} bytes at offset {} end past the largest file offset, 2^63 - 1",
                extent.len, extent.offset
            )));
        }
        total = total.checked_add(extent.len as u64).ok_or_else(|| {
            Error::InvalidInput("the extents of the op are longer together than 2^64 - 1 bytes".to_owned())
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::scope::path_target;
    use crate::op::desc::PathMode;
    use crate::op::owned::Owned;

    #[test]
    fn the_end_of_the_file_is_not_told_of_a_cancelled_op() {
        for cancelled in [false, true] {
            let desc = Owned::read(path_target("t", PathMode::Read), vec![0_u8; 100], 0);
            let op = Op { state: OpState::new(Promise::new(None), OpOptions::default(), None), desc };
            op.state.fail(50, op.eof(50));
            if cancelled {
                op.state.cancel();
            }
            let outcome = op.outcome();
            assert_eq!(matches!(outcome, Err(Error::UnexpectedEof { read: 50, .. })), !cancelled, "{outcome:?}");
            assert_eq!(matches!(outcome, Err(Error::Cancelled { .. })), cancelled, "{outcome:?}");
        }
    }
}
