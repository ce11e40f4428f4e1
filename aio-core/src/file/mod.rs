//! Files, as the engine sees them: descriptors, alignment, whether they are cached, and the state that all opens
//! of an inode share.

mod descriptors;
pub(crate) mod growth;
pub(crate) mod inode;
mod open;
mod options;
pub(crate) mod replace;
mod residency;
pub(crate) mod routes;
pub(crate) mod slots;
pub(crate) mod streams;
pub(crate) mod sys;
pub(crate) mod write_back;

pub(crate) use self::descriptors::close_fd;
pub use self::open::OpenFile;
pub(crate) use self::open::{check_path, is_named};
pub use self::options::OpenOptions;
pub(crate) use self::sys::statx::{attributes, refusal};
