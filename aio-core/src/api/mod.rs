//! What users hold.

pub(crate) mod atomic_file;
pub(crate) mod file;
pub(crate) mod handle;
pub(crate) mod scope;
pub(crate) mod ticket;
