//! `aio-bench`: measure tensor I/O in detail, compare it with what else there is, and draw what was measured.
//!
//! `aio-bench --help` is the manual. Each command is a module: [`run`], [`compare`], [`plot`]. What they share with
//! `tensor-aio`, from sizes to signals, is in its library.
//!
//! A library only so that fuzzers, which are crates of their own, reach its parsers; nothing in it is a public API.
// Two things that others do are measured here, and cannot be done without: see `compare/contenders`.
#![deny(unsafe_code)]
// Nobody reads this documentation but those who change it.
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
pub use cli::{Cli, parse};
