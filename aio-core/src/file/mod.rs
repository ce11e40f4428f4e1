//! Files, as the engine sees them: descriptors, alignment, whether they are cached, and the state that all opens
//! of an inode share.

pub(crate) mod inode;
mod open;
pub(crate) mod replace;
mod residency;
pub(crate) mod routes;
pub(crate) mod slots;
pub(crate) mod sys;
pub(crate) mod write_back;

pub use self::open::{OpenFile, OpenOptions};
pub(crate) use self::open::{check_path, close_fd, is_named};
pub(crate) use self::sys::statx::{attributes, refusal};
