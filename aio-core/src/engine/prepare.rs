//! What happens to an op before its first block: checks, opening its path, preallocating, planning.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use crate::backend::Direction;
use crate::config::DirectMode;
use crate::engine::transfer::{Transfer, check_extents};
use crate::engine::{Shared, new_edges};
use crate::error::{Error, OpKind, Result};
use crate::file::growth::Begun;
use crate::file::routes::RoutePermit;
use crate::file::write_back::Sync;
use crate::file::{OpenFile, OpenOptions};
use crate::foreign::{attempt, log};
use crate::op::desc::{Extent, IoOpDesc, PathMode, Target};
use crate::op::plan::{Alignment, Plan};

/// Refuses what can never work, before it is accepted.
pub(crate) fn check(op: &Transfer) -> Result<()> {
    if op.state.plan().is_none() {
        check_extents(op.desc.extents())?;
    }
    if let Target::File(file) = op.desc.target() {
        let direction = op.desc.direction();
        let refused = |why| {
            let source = io::Error::new(io::ErrorKind::PermissionDenied, why);
            Err(op.io_error(op.kind(), source).at(0, total(op.desc.extents())).into())
        };
        if !file.allows(direction) {
            return refused(match direction {
                Direction::Read => "the file is open for writing only",
                Direction::Write => "the file is open for reading only",
            });
        }
        if op.state.options.validate && !file.allows(Direction::Read) {
            return refused("validate reads back what was written, and the file is open for writing only");
        }
    }
    Ok(())
}

/// Plans an op on the caller's thread where that takes no system call (but now and then a look into the page cache);
/// leaves it to a worker otherwise.
pub(crate) fn plan_if_easy(shared: &Shared, desc: &(impl IoOpDesc + ?Sized), validate: bool) -> Option<Plan> {
    // In a forked child nothing may wait for a lock that a thread of the parent held; submission says why.
    let Target::File(file) = desc.target() else { return None };
    if shared.is_forked() {
        return None;
    }
    let extents = desc.extents();
    check_extents(extents).ok()?;
    let grows = desc.direction() == Direction::Write
        && file.inode().is_some_and(|inode| inode.growth.may_grow(range_of(extents).1));
    if grows {
        return None;
    }
    let plan = plan_of(shared, desc, validate, file);
    (plan.blocks > 0 && (plan.cached == 0 || file.buffered_if_open().is_some())).then_some(plan)
}

/// A read of a resident file goes through the page cache, whatever its alignment, and is a copy; so is a write of a
/// file without direct I/O. `validate` compares with what the device has, so both of its passes are planned alike and
/// ask for it.
fn plan_of(shared: &Shared, desc: &(impl IoOpDesc + ?Sized), validate: bool, file: &OpenFile) -> Plan {
    let extents = desc.extents();
    let mut alignment = file.alignment();
    let mut waits_for_device = desc.direction() == Direction::Read || file.is_direct() || validate;
    if file.may_be_resident() && desc.direction() == Direction::Read && !validate {
        if file.is_resident() {
            alignment = Alignment::NONE;
            waits_for_device = false;
        }
        file.count_reads(1, total(extents), range_of(extents).1);
    }
    let mut plan = Plan::new(desc.direction(), extents, alignment, shared.config.block_size);
    plan.is_copy = !waits_for_device && plan.may_be_copied();
    plan
}

/// The open file of an op that writes to one. Asked before the op is accepted: the descriptor is foreign code, which
/// may panic.
pub(crate) fn file_to_write(op: &Transfer) -> Option<OpenFile> {
    if op.desc.direction() == Direction::Read {
        return None;
    }
    match op.desc.target() {
        Target::File(file) => Some(file.clone()),
        Target::Path(..) => None,
    }
}

/// Counts a write to an open file among those that a sync of it waits for.
pub(crate) fn accept(op: &Transfer, file: &OpenFile) {
    if let Some(inode) = file.inode() {
        op.state.set_write_in_flight(inode.accept_write());
    }
}

/// Most durable writes whose files are open only to be synced, before no more are opened.
const UNSYNCED: usize = 128;

/// What became of an op that was to be prepared.
#[derive(Debug)]
pub(crate) enum Prepared {
    /// It is to be claimed.
    Ready(Arc<Transfer>),
    /// It is to be ended.
    Ended(Arc<Transfer>),
    /// It went back, and comes with a permit.
    Waits,
    /// It went back to the workers, since too many files are open.
    TooManyOpen,
}

impl Shared {
    /// Opens and plans an op that this thread alone has in hand.
    pub(crate) fn prepare(self: &Arc<Self>, op: Arc<Transfer>, permit: Option<RoutePermit>) -> Prepared {
        let closed = self.op_queue.open_paths.closed();
        match attempt("a getter", || prepare(self, &op, permit)) {
            Err(error) if is_out_of_files(&error) && self.op_queue.open_paths.is_worth_another_try(closed) => {
                self.requeue(op);
                Prepared::TooManyOpen
            }
            Err(error) => {
                op.state.fail(0, error);
                Prepared::Ended(op)
            }
            Ok(Readiness::TooManyOpen) => {
                self.requeue(op);
                Prepared::TooManyOpen
            }
            Ok(Readiness::NeedsPermit) => {
                self.requeue_with_permit(op);
                Prepared::Waits
            }
            // Nothing to transfer; opening the file was all.
            Ok(Readiness::Ready) if op.state.plan().is_none_or(|plan| plan.blocks == 0) => Prepared::Ended(op),
            Ok(Readiness::Ready) if op.state.is_over() => match self.blocks_ended(op) {
                Some(op) => Prepared::Ended(op),
                None => Prepared::Waits,
            },
            Ok(Readiness::Ready) => Prepared::Ready(op),
        }
    }

    /// All blocks of an op are done with: it is to be verified, for which it goes back, or given back to be ended.
    pub(crate) fn blocks_ended(self: &Arc<Self>, op: Arc<Transfer>) -> Option<Arc<Transfer>> {
        let state = &op.state;
        if !state.options.validate || state.is_verifying() || !state.is_complete() || state.is_cancelled() {
            return Some(op);
        }
        match attempt("a getter", || prepare_verify(&op)) {
            Ok(()) => {
                self.requeue(op);
                None
            }
            Err(error) => {
                state.fail(0, error);
                Some(op)
            }
        }
    }
}

fn is_out_of_files(error: &Error) -> bool {
    matches!(error, Error::Io(error) if error.op == OpKind::Open)
        && matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// How far [`prepare`] got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Readiness {
    /// The op has a plan and a file.
    Ready,
    /// The op is to be prepared again, with a permit for the page cache.
    NeedsPermit,
    /// The op is to be prepared again when fewer files are open only to be synced.
    TooManyOpen,
}

/// Opens, preallocates and plans an op.
fn prepare(shared: &Shared, op: &Arc<Transfer>, permit: Option<RoutePermit>) -> Result<Readiness> {
    let planned = |file: &OpenFile| plan_of(shared, &op.desc, op.state.options.validate, file);
    let (file, mut plan) = match (op.desc.target(), op.state.opened()) {
        (Target::File(file), _) => (file.clone(), planned(file)),
        // It had to wait for the permit.
        (Target::Path(..), Some(file)) => {
            let plan = planned(&file);
            (file, plan)
        }
        (Target::Path(..), None)
            if op.state.options.durable
                && op.desc.direction() == Direction::Write
                && shared.file_threads.unsynced() >= UNSYNCED =>
        {
            return Ok(Readiness::TooManyOpen);
        }
        (Target::Path(path, mode), None) => open(shared, op, path, *mode)?,
    };
    if let (Direction::Write, Some(inode), true) = (op.desc.direction(), file.inode(), plan.bytes > 0) {
        let (from, end) = range_of(op.desc.extents());
        let begun = inode
            .growth
            .begin(file.fd(), from, end, shared.config.preallocate && !is_small_new_file(shared, op), permit.as_ref())
            .map_err(|source| op.io_error(OpKind::Allocate, source).at(from, end - from))?;
        match begun {
            Begun::Inside => {}
            Begun::Extending(write) => {
                let old_end = write.from;
                op.state.set_extending(write);
                new_edges::write(shared, op, &file, &mut plan, old_end);
            }
            Begun::NeedsPermit => return Ok(Readiness::NeedsPermit),
        }
    }
    op.state.start(plan);
    Ok(Readiness::Ready)
}

/// Opens the path of an op, with all the descriptors that its plan needs, or none.
fn open(shared: &Shared, op: &Arc<Transfer>, path: &Path, mode: PathMode) -> Result<(OpenFile, Plan)> {
    let opening = shared.op_queue.open_paths.begin();
    // Comparing what was written needs to read it.
    let read = mode == PathMode::Read || op.state.options.validate;
    let options = OpenOptions::new()
        .read(read)
        .one_op(true)
        .one_read(mode == PathMode::Read && !op.state.options.validate)
        .create(mode == PathMode::Write)
        .create_new(mode == PathMode::WriteNew);
    let direct = if is_small_new_file(shared, op) { DirectMode::Off } else { shared.config.direct };
    let file = OpenFile::open(path, &options, direct)?;
    let plan = plan_of(shared, &op.desc, op.state.options.validate, &file);
    if (plan.cached > 0 || meets_end(op, &file))
        && let Err(source) = file.buffered()
    {
        if mode == PathMode::WriteNew && file.is_at(path) {
            // Made by this call; the next try makes it again.
            let _ = std::fs::remove_file(path);
        }
        return Err(op.io_error(OpKind::Open, source).into());
    }
    op.state.set_opened(file.clone());
    if let (Direction::Write, Some(inode)) = (op.desc.direction(), file.inode()) {
        op.state.set_write_in_flight(inode.accept_write());
    }
    opening.keep();
    Ok((file, plan))
}

/// Most bytes of a small file.
const SMALL_FILE: u64 = 256 << 10;

/// Whether it writes a new file that is so small that direct I/O gains nothing: the device would wait for the file
/// system, and the next file for the device.
fn is_small_new_file(shared: &Shared, op: &Transfer) -> bool {
    matches!(op.desc.target(), Target::Path(_, PathMode::WriteNew))
        && shared.config.direct != DirectMode::On
        && !op.state.options.durable
        && !op.state.options.validate
        && end_of(op) <= SMALL_FILE
}

/// Whether it reads past an end of the file that lies inside a direct unit: the page cache tells that end.
fn meets_end(op: &Transfer, file: &OpenFile) -> bool {
    let (unit, len) = (u64::from(file.alignment().offset), file.len_at_open());
    let ends_inside = unit > 0 && !len.is_multiple_of(unit);
    op.desc.direction() == Direction::Read && ends_inside && end_of(op) > len
}

/// Makes the second pass of `validate` read what the device has: what went through the page cache is written out and
/// dropped from it.
fn prepare_verify(op: &Transfer) -> Result<()> {
    op.state.start_verifying();
    let (Some(plan), Some(file)) = (op.state.plan(), op.file()) else { return Ok(()) };
    let through_cache = !file.is_direct() || plan.cached > 0;
    let Some(fd) = file.buffered_if_open().filter(|_| through_cache) else { return Ok(()) };
    if op.desc.direction() == Direction::Write {
        file.sync(Sync::Data).map_err(|source| op.io_error(OpKind::Sync, source))?;
    }
    for segment in plan.segments.iter().filter(|segment| !segment.direct) {
        let (offset, len) = (segment.offset.cast_signed(), (segment.len as u64).cast_signed());
        let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        if let Err(error) = nix::fcntl::posix_fadvise(fd, offset, len, advice) {
            log(|| tracing::debug!(fd = fd.as_raw_fd(), %error, "validate may compare with the page cache"));
        }
    }
    Ok(())
}

fn total(extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| extent.len as u64).sum()
}

/// From the first byte that the op touches to the end of the last.
fn range_of(extents: &[Extent]) -> (u64, u64) {
    let touched = || extents.iter().filter(|extent| extent.len > 0);
    let from = touched().map(|extent| extent.offset).min();
    (from.unwrap_or(0), touched().map(|extent| extent.offset + extent.len as u64).max().unwrap_or(0))
}

/// The end of the last byte that the op touches.
pub(crate) fn end_of(op: &Transfer) -> u64 {
    range_of(op.desc.extents()).1
}
