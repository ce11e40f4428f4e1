//! `tensor-aio`: move tensors between memory and files, see what a machine offers, find its fastest settings, and look
//! into files of tensors.
//!
//! `tensor-aio --help` is the manual. Each command is a module: [`swap`], [`probe`], [`tune`], [`soak`], [`inspect`],
//! [`verify`], [`completions`].
//!
//! This is a library only so that `tensor-aio`, `aio-bench` and the fuzzers share its parts: nothing in it is a public
//! API. Signals and the log belong to the process, which sets them up in `src/main.rs`.
#![deny(unsafe_code)]
// Only those who change this crate read its documentation.
#![allow(rustdoc::private_intra_doc_links)]

mod cli;
mod inspect;
mod probe;
mod soak;
mod swap;
mod tune;
mod verify;

// Parts that `aio-bench` uses, too.
#[doc(hidden)]
pub mod command_line;
#[doc(hidden)]
pub mod completions;
#[doc(hidden)]
pub mod duration;
#[doc(hidden)]
pub mod estimate;
#[doc(hidden)]
pub mod failure;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
#[doc(hidden)]
pub mod generate;
#[doc(hidden)]
pub mod host;
#[doc(hidden)]
pub mod interrupt;
#[doc(hidden)]
pub mod log;
#[doc(hidden)]
pub mod number;
#[doc(hidden)]
pub mod output;
#[doc(hidden)]
pub mod paths;
#[doc(hidden)]
pub mod pattern;
#[doc(hidden)]
pub mod size;
#[doc(hidden)]
pub mod warm_up;

#[doc(hidden)]
pub use cli::Cli;
