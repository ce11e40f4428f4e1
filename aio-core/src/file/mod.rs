//! Files, as the engine sees them: descriptors, alignment, and the state that all opens of an inode share.

pub(crate) mod inode;
mod open;
mod statx;

pub use self::open::{OpenFile, OpenOptions};
