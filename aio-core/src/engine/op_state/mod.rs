//! The state of an op, in parts: each says who writes it, and when.
//!
//! ```text
//!            push             a plan             the last block                promise
//! created ----------> queued --------> pending ----------------> over ------------------> ended
//!                                         ^                       |  ^  |
//!                                         |  VERIFYING is set:    |  |  |  SYNC_DUE is cleared:
//!                                         +-- a second pass ------+  +--+  one sync
//! ```
//!
//! An op that is stopped ([cancelled](Flags::CANCELLED) or [failed](Flags::FAILED)) goes the same way: blocks that no
//! worker has issued are accounted for without being issued. One that no worker has begun may end at once, whatever
//! is pending of it: the blocks of an op that is planned at submission are pending from the start.

mod flags;
mod preparation;
mod progress;

use std::sync::{Arc, OnceLock};

use self::flags::Flags;
use self::preparation::Preparation;
use self::progress::Progress;
use crate::engine::callers_pages::OpNumber;
use crate::engine::promise::Promise;
use crate::engine::transfer::OpOptions;
use crate::error::Error;
use crate::file::OpenFile;
use crate::file::growth::ExtendingWrite;
use crate::file::routes::{Route, RouteBusy, RoutePermit, Routes};
use crate::file::write_back::WriteInFlight;
use crate::op::desc::PathMode;
use crate::op::plan::Plan;
use crate::sync::{AtomicU64, Mutex, lock};

/// What the engine keeps per transfer.
#[derive(Debug)]
pub(crate) struct OpState {
    /// Fulfilled once, by the thread that ends the op.
    pub(crate) promise: Promise,
    /// As the op was submitted.
    pub(crate) options: OpOptions,
    flags: Flags,
    /// The epoch of the op queue that it was accepted in. Written under the queue's lock, when it is accepted.
    pub(crate) epoch: AtomicU64,
    /// Of a write, while syncs wait for it. Written when the write is accepted, or when its path is opened; taken by
    /// the thread that ends the op, before the promise.
    write_in_flight: Mutex<Option<WriteInFlight>>,
    /// For the memory that ops use again.
    pub(crate) number: OpNumber,
    preparation: Preparation,
    progress: Progress,
}

impl OpState {
    pub(crate) fn new(promise: Promise, options: OpOptions, plan: Option<Plan>) -> Self {
        Self {
            promise,
            options,
            flags: Flags::new(if options.durable { Flags::SYNC_DUE } else { 0 }),
            epoch: AtomicU64::new(0),
            number: OpNumber::default(),
            write_in_flight: Mutex::default(),
            progress: Progress::new(plan.as_ref().map_or(0, |plan| plan.blocks)),
            preparation: plan.map_or_else(|| Preparation::ByWorker(OnceLock::new()), Preparation::AtSubmission),
        }
    }

    /// Of an op with a path, before it is submitted.
    pub(crate) fn by_path(self, mode: PathMode) -> Self {
        self.flags.set(Flags::BY_PATH | if mode == PathMode::Read { 0 } else { Flags::MAKES_FILE });
        self
    }

    /// Whether it may make a file. Asks nothing of the descriptor.
    pub(crate) fn makes_file(&self) -> bool {
        self.flags.has(Flags::MAKES_FILE)
    }

    /// Whether it has a path to be opened. Asks nothing of the descriptor.
    pub(crate) fn is_by_path(&self) -> bool {
        self.flags.has(Flags::BY_PATH)
    }

    /// Its blocks, once they are known.
    pub(crate) fn plan(&self) -> Option<&Plan> {
        match &self.preparation {
            Preparation::AtSubmission(plan) => Some(plan),
            Preparation::ByWorker(prepared) => prepared.get()?.plan.get(),
        }
    }

    /// Whether it was planned after it was submitted, and so opened its path if it has one.
    pub(crate) fn is_prepared(&self) -> bool {
        matches!(self.preparation, Preparation::ByWorker(_)) && self.plan().is_some()
    }

    /// Sets the plan; its blocks are pending from now on.
    pub(crate) fn start(&self, plan: Plan) {
        self.progress.restart(plan.blocks - plan.blocks_done(), plan.bytes_done());
        if let Some(prepared) = self.preparation.begin() {
            let _ = prepared.plan.set(plan);
        }
    }

    /// Begins the second pass, which reads every block back.
    pub(crate) fn start_verifying(&self) {
        self.flags.set(Flags::VERIFYING);
        self.progress.restart(self.plan().map_or(0, |plan| plan.blocks), 0);
    }

    /// The first block to be claimed of this pass; 0 until it is planned.
    pub(crate) fn first_block(&self) -> usize {
        self.plan().filter(|_| !self.is_verifying()).map_or(0, Plan::blocks_done)
    }

    /// `blocks` blocks that moved `bytes` are done with, well or not. True for exactly one caller: the last.
    pub(crate) fn account(&self, blocks: usize, bytes: u64) -> bool {
        self.progress.account(blocks, bytes)
    }

    /// Whether all blocks of this pass are accounted for.
    pub(crate) fn is_over(&self) -> bool {
        self.progress.is_over()
    }

    /// Bytes that this pass moved so far.
    pub(crate) fn moved(&self) -> u64 {
        self.progress.moved()
    }

    /// Records a failure at `position` bytes into the op. The nearest to the start is the one reported, so that the
    /// same fault gives the same error however its blocks were spread.
    #[cold]
    pub(crate) fn fail(&self, position: u64, error: Error) {
        self.progress.record_failure(position, error);
        self.flags.set(Flags::FAILED);
    }

    /// The failure nearest to the start, once.
    pub(crate) fn take_failure(&self) -> Option<Error> {
        if self.flags.has(Flags::FAILED) { self.progress.take_failure() } else { None }
    }

    /// Asks the op to stop; blocks that a queue has accepted run on.
    pub(crate) fn cancel(&self) {
        self.flags.set(Flags::CANCELLED);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.flags.has(Flags::CANCELLED)
    }

    /// Whether blocks that no worker has claimed are not worth starting.
    pub(crate) fn is_stopped(&self) -> bool {
        self.flags.has(Flags::CANCELLED | Flags::FAILED)
    }

    /// Whether this pass reads back and compares.
    pub(crate) fn is_verifying(&self) -> bool {
        self.flags.has(Flags::VERIFYING)
    }

    /// Whether every byte of this pass moved.
    pub(crate) fn is_complete(&self) -> bool {
        !self.flags.has(Flags::FAILED) && self.plan().is_some_and(|plan| plan.bytes == self.moved())
    }

    /// Whether it is over and has done all that it was to do.
    pub(crate) fn ends_well(&self) -> bool {
        // Cancelled between the two passes of `validate`, it has moved everything and compared nothing.
        let verified =
            !self.options.validate || self.is_verifying() || self.plan().is_none_or(|plan| plan.blocks == 0);
        self.is_complete() && verified
    }

    /// A queue broke with blocks of this op in flight: its memory is never given back.
    pub(crate) fn set_lost(&self) {
        self.flags.set(Flags::LOST);
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.flags.has(Flags::LOST)
    }

    /// It is durable, and not synced yet.
    pub(crate) fn is_sync_due(&self) -> bool {
        self.flags.has(Flags::SYNC_DUE)
    }

    /// Whether all its bytes moved and a sync is still to be done; no more after that.
    pub(crate) fn take_sync(&self) -> bool {
        self.is_sync_due()
            && self.is_accepted_write()
            && self.is_complete()
            && !self.is_lost()
            && self.flags.clear(Flags::SYNC_DUE)
    }

    /// Syncs wait for this write from now on.
    pub(crate) fn set_write_in_flight(&self, write: WriteInFlight) {
        *lock(&self.write_in_flight) = Some(write);
        self.flags.set(Flags::ACCEPTED_WRITE);
    }

    /// Whether it is a write that syncs wait for, or has been one.
    #[inline]
    pub(crate) fn is_accepted_write(&self) -> bool {
        self.flags.has(Flags::ACCEPTED_WRITE)
    }

    /// If it is a write, syncs need not wait for it any more.
    pub(crate) fn release_syncs(&self) {
        if self.is_accepted_write() {
            let write = lock(&self.write_in_flight).take();
            drop(write);
        }
    }

    /// Of a write, before its end: the routes of its inode.
    pub(crate) fn routes(&self) -> Option<Arc<Routes>> {
        lock(&self.write_in_flight).as_ref().map(|write| write.routes().clone())
    }

    /// What names the inode of a write, before its end; nothing for a read.
    pub(crate) fn written_inode(&self) -> Option<usize> {
        if !self.is_accepted_write() {
            return None;
        }
        self.routes().map(|routes| Arc::as_ptr(&routes).addr())
    }

    /// The permit that a run of blocks needs before it is issued: none if it is read.
    pub(crate) fn try_enter_route(&self, route: Route) -> Result<Option<RoutePermit>, RouteBusy> {
        if !self.is_accepted_write() || self.is_verifying() {
            return Ok(None);
        }
        lock(&self.write_in_flight).as_ref().map(|write| write.routes().try_enter(route)).transpose()
    }

    /// The op's path was opened.
    pub(crate) fn set_opened(&self, file: OpenFile) {
        if let Some(prepared) = self.preparation.begin() {
            *lock(&prepared.opened) = Some(file);
        }
    }

    /// A second owner of the file that the op opened; nothing for one on an open file. Asks nothing of the descriptor,
    /// which is foreign code: this runs under a lock.
    pub(crate) fn opened(&self) -> Option<OpenFile> {
        lock(&self.preparation.get()?.opened).clone()
    }

    /// The file that the op opened, to be closed.
    pub(crate) fn take_opened(&self) -> Option<OpenFile> {
        lock(&self.preparation.get()?.opened).take()
    }

    /// The worker made the file longer for this write.
    pub(crate) fn set_extending(&self, write: ExtendingWrite) {
        if let Some(prepared) = self.preparation.begin() {
            *lock(&prepared.extending) = Some(write);
        }
    }

    /// Whether the op may have to give a length back.
    pub(crate) fn is_extending(&self) -> bool {
        self.preparation.get().is_some_and(|prepared| lock(&prepared.extending).is_some())
    }

    /// The extending write, to be ended.
    pub(crate) fn take_extending(&self) -> Option<ExtendingWrite> {
        lock(&self.preparation.get()?.extending).take()
    }
}
