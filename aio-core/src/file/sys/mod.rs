//! System calls that neither libc nor nix wraps as they are needed here.

pub(crate) mod cachestat;
pub(crate) mod statx;
pub(crate) mod sync_file_range;
