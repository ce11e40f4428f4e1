//! Files, as the engine sees them: descriptors, alignment, whether they are cached, and the state that all opens
//! of an inode share.

pub(crate) mod cachestat;
pub(crate) mod faults;
pub(crate) mod inode;
mod open;
mod residency;
pub(crate) mod routes;
mod statx;

pub use self::open::{OpenFile, OpenOptions};
pub(crate) use self::open::{check_path, close_fd, is_named};
pub(crate) use self::statx::{attributes, refusal};
