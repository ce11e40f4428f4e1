//! What the library's end-to-end tests have, too.

#[path = "../../../aio/tests/support/disk.rs"]
pub(crate) mod disk;
