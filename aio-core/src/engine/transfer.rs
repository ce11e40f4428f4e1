//! A transfer: the descriptor of an op, with its [state](OpState).

use std::fmt;
use std::path::Path;

use crate::backend::Direction;
use crate::engine::op_queue::WhenFull;
use crate::engine::op_state::OpState;
use crate::error::{Error, IoError, OpKind};
use crate::file::OpenFile;
use crate::foreign::catch;
use crate::op::desc::{Extent, IoOpDesc, Outcome, Target};

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
    /// What a caller waits for, such as a prefetch.
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
    /// The descriptor is a user's, whose callbacks may take long.
    pub(crate) has_callbacks: bool,
}

impl OpOptions {
    pub(crate) fn is_background(self) -> bool {
        self.priority == Priority::Background
    }

    /// What a full queue does with a call that may wait.
    pub(crate) fn when_full(self) -> WhenFull {
        if self.unlimited { WhenFull::Exceed } else { WhenFull::Wait }
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

    /// Whether the thread that waits for it may make it: a read by path, or a copy of one block, without callbacks.
    pub(crate) fn is_for_waiter(&self) -> bool {
        !self.state.options.has_callbacks
            && !self.state.promise.is_of_scope()
            && self.desc.direction() == Direction::Read
            && (self.state.is_by_path() || self.state.plan().is_some_and(|plan| plan.is_copy && plan.blocks == 1))
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

    /// If it is a write, notes on its inode that it failed: a commit of the file asks for that.
    #[cold]
    pub(crate) fn note_failed_write(&self, error: &Error) {
        // In a forked child nothing may wait for a lock that a thread of the parent held.
        if self.desc.direction() == Direction::Write
            && !matches!(error, Error::Forked)
            && let Some(file) = self.file()
            && let Some(inode) = file.inode()
        {
            inode.write_back.write_failed(error);
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
        if let Some(failure) = state.take_failure() {
            // An end of the file says that everything before it was read; of a cancelled op, blocks may be left out.
            let is_end = matches!(failure, Error::UnexpectedEof { .. });
            if !(is_end && state.is_cancelled()) {
                return Err(failure);
            }
        }
        let moved = state.moved();
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
    use crate::engine::promise::Promise;
    use crate::op::desc::PathMode;
    use crate::op::owned::Owned;

    #[test]
    fn a_cancelled_op_does_not_report_the_end_of_the_file() {
        for cancelled in [false, true] {
            let desc = Owned::read(Target::at("t", PathMode::Read), vec![0_u8; 100], 0);
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
