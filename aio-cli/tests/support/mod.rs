//! Runs a command as its users do; the tests of `tensor-aio` and of `aio-bench` share it.
//!
//! Each crate names its command in `crate::NAME`, and the file in `crate::PROGRAM`.

pub(crate) mod bench;
pub(crate) mod child;
pub(crate) mod completing;
#[path = "../../../aio/tests/support/disk.rs"]
pub(crate) mod disk;
pub(crate) mod printing;
pub(crate) mod refused;
pub(crate) mod schema;
pub(crate) mod screen;
pub(crate) mod threads;
