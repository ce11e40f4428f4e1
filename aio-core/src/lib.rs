//! The core of tensor-aio: the traits a backend implements, and the engine that drives any of them.
//!
//! This crate contains no way to do I/O. A backend crate implements [`IoBackend`] and [`IoQueue`]; the engine cuts
//! the ops of users into blocks, keeps each worker's queue full across ops, checks every completion and hands the
//! memory back.
#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("tensor-aio runs on Linux only: its backends are io_uring, Linux AIO and pread/pwrite with O_DIRECT");

mod backend;
#[cfg(feature = "conformance")]
pub mod conformance;

pub use backend::{
    Capabilities, Completion, Direction, FileId, IoBackend, IoBlock, IoQueue, QueueConfig, Region, RegionId,
    RegionMemory, Unavailable, Wake,
};
