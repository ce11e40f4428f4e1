//! What an op needs before its first block.

use std::sync::OnceLock;

use crate::file::OpenFile;
use crate::file::growth::ExtendingWrite;
use crate::op::plan::Plan;
use crate::sync::Mutex;

/// Who plans an op.
#[derive(Debug)]
pub(super) enum Preparation {
    /// The caller, before it submits the op: its file is open and does not grow.
    AtSubmission(Plan),
    /// The thread that prepares it, a worker or a copier; set when it begins.
    ByWorker(OnceLock<Box<Prepared>>),
}

/// What a worker got for an op before its first block. One worker at a time prepares an op, and writes this; the thread
/// that ends the op takes the file and the extending write.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    /// Of an op on a path: its file, from the time it was opened to the end.
    pub(super) opened: Mutex<Option<OpenFile>>,
    /// There while the op may have to give a length back.
    pub(super) extending: Mutex<Option<ExtendingWrite>>,
    /// Set last: the op is prepared then.
    pub(super) plan: OnceLock<Plan>,
}

impl Preparation {
    pub(super) fn get(&self) -> Option<&Prepared> {
        match self {
            Self::AtSubmission(_) => None,
            Self::ByWorker(prepared) => prepared.get().map(Box::as_ref),
        }
    }

    /// To be written by the worker that prepares the op; nothing for an op that is planned already.
    pub(super) fn begin(&self) -> Option<&Prepared> {
        match self {
            Self::AtSubmission(_) => {
                debug_assert!(false, "the op was planned when it was submitted");
                None
            }
            Self::ByWorker(prepared) => Some(prepared.get_or_init(Box::default)),
        }
    }
}
