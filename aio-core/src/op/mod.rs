//! What an op is: direction, file, extents with their memory. For descriptors of one's own, and for raw memory.

pub(crate) mod buf;
pub(crate) mod desc;
pub(crate) mod elements;
pub(crate) mod layout;
pub(crate) mod lent;
pub(crate) mod owned;
pub(crate) mod plan;

pub use self::desc::{Extent, ExtentMemory, IoOpDesc, Outcome, PathMode, Target};
pub use self::layout::AlignedLayout;
pub use self::owned::RawOp;
pub use self::plan::Alignment;
pub use crate::backend::Direction;
pub use crate::file::OpenFile;
