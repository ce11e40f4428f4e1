//! The core of tensor-aio: what users hold, what a backend promises, and the engine in between.
//!
//! This crate contains no way to do I/O. A backend crate implements [`IoBackend`](backend::IoBackend) and
//! [`IoQueue`](backend::IoQueue); the engine cuts the ops of users into blocks, keeps each worker's queue full across
//! ops, checks every completion and hands the memory back. Users depend on the crate `tensor-aio`, which picks a
//! backend.
//!
//! # Map
//!
//! | folder | what is in it |
//! |---|---|
//! | `api` | what users hold: handle, file, atomic file, scope, ticket |
//! | [`op`] | what an op is: its descriptor, its memory, and the plan that cuts it into blocks |
//! | `engine` | the way of an op: accepted, queued, prepared, issued, completed, finished |
//! | `file` | an open file: descriptors, what all opens of an inode share, whether it is cached |
//! | `memory` | the arena: huge pages that queues register, cut into buffers |
//! | [`backend`] | the contract of a backend, and the parts that backends share |
//! | `config` | settings, as text and as JSON |
//!
//! Beside them: [`error`], `inbox` (the requests of other threads to a worker), `process` (forks), `foreign` (calls
//! of users' code), `threads` (signals, and which threads are workers), `epochs` (what was accepted before a wait),
//! `stats` (counters per worker), `printable` (paths in errors), `sync` (locks and atomics, or loom's).
#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("tensor-aio runs on Linux only: its backends are io_uring, Linux AIO and pread/pwrite with O_DIRECT");

mod api;
pub mod backend;
mod config;
mod engine;
mod epochs;
pub mod error;
mod file;
mod foreign;
mod inbox;
mod memory;
pub mod op;
mod printable;
mod process;
mod stats;
mod sync;
mod threads;

/// Memory of ops: buffers from the arena, and what a type of one's own has to promise.
pub mod buf {
    pub use crate::memory::{AlignedBuf, Allocation, Arena, fault_in, use_huge_pages};
    pub use crate::op::buf::{IoBuf, IoBufMut};
    pub use crate::op::elements::Elements;
}

pub use api::atomic_file::AtomicFile;
pub use api::file::AioFile;
pub use api::handle::AioHandle;
pub use api::scope::Scope;
pub use api::ticket::Ticket;
pub use config::{AioConfig, DirectMode};
pub use error::{Error, Result};
pub use file::OpenOptions;
#[doc(hidden)]
pub use file::replace::CommitStep;
#[doc(hidden)]
pub use memory::can_collapse;
#[doc(hidden)]
pub use printable::{Printable, shown};
pub use stats::Stats;
