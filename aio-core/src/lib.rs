//! The core of tensor-aio: the traits a backend implements, and the engine that drives any of them.
//!
//! This crate contains no way to do I/O. A backend crate implements [`IoBackend`] and [`IoQueue`]; the engine cuts
//! the ops of users into blocks, keeps each worker's queue full across ops, checks every completion and hands the
//! memory back.
#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("tensor-aio runs on Linux only: its backends are io_uring, Linux AIO and pread/pwrite with O_DIRECT");

mod aio_file;
mod arena;
mod atomic_file;
mod backend;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
mod buf;
mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
mod desc;
mod engine;
mod epochs;
mod error;
mod file;
mod foreign;
mod fork;
mod handle;
mod owned;
mod plan;
mod printable;
mod registry;
mod scope;
mod signals;
mod stats;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
mod ticket;

pub use aio_file::AioFile;
pub use arena::{AlignedBuf, Arena};
pub use atomic_file::AtomicFile;
#[doc(hidden)]
pub use atomic_file::CommitStep;
pub use backend::{
    Capabilities, Completion, Direction, FileId, IoBackend, IoBlock, IoQueue, QueueConfig, Region, RegionId,
    RegionMemory, Unavailable, Wake, parts,
};
pub use buf::{IoBuf, IoBufMut};
pub use config::{AioConfig, DirectMode};
pub use desc::{Extent, ExtentMemory, IoOpDesc, Outcome, PathMode, Target};
pub use engine::op::Priority;
pub use error::{Error, Failures, IoError, OpError, OpKind, Result};
pub use file::{OpenFile, OpenOptions};
pub use handle::AioHandle;
pub use owned::RawOp;
pub use plan::Alignment;
#[doc(hidden)]
pub use printable::Printable;
pub use scope::Scope;
pub use stats::Stats;
pub use sync::ThreadSync;
pub use ticket::Ticket;
