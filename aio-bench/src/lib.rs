//! `aio-bench`: measure tensor I/O in detail, compare it with other software, and draw the results.
//!
//! `aio-bench --help` is the manual. Each command is a module: [`run`], [`compare`], [`plot`]. What they share with
//! `tensor-aio`, from sizes to signals, is in that command's library.
//!
//! This is a library only so that the fuzzers reach its parsers; nothing in it is a public API.
// Only `compare/contenders` needs unsafe code, for other software.
#![deny(unsafe_code)]
// Only those who change this crate read its documentation.
#![allow(rustdoc::private_intra_doc_links)]

mod cli;
mod compare;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod input_file;
mod plot;
mod run;
#[doc(hidden)]
pub mod sizes;

#[doc(hidden)]
pub use cli::{Cli, parse};
