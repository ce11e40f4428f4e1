//! Moves tensors between memory and storage, as fast as the device goes, and never says "done" when it is not.
//!
//! ```
//! use aio::AioHandle;
//!
//! # fn main() -> aio::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("layer0.bin");
//! let aio = aio::builder().queue_depth(64).build()?; // the best backend this machine has
//! let file = aio.create(&path)?;
//!
//! let mut tensor = aio.alloc(1 << 20)?; // huge pages, registered with the kernel where it takes them
//! tensor.fill(7);
//! let ticket = file.write(tensor, 0); // in flight: the engine owns the buffer ...
//! let tensor = ticket.wait()?; // ... and gives it back with the result
//!
//! let mut bytes = vec![0; 1000];
//! file.read_at(&mut bytes, 4321)?; // blocking, any memory, any offset, any length
//! assert!(bytes.iter().all(|byte| *byte == 7));
//! # drop(tensor);
//! # Ok(())
//! # }
//! ```
//!
//! # Which call
//!
//! | you have | call |
//! |---|---|
//! | a file and a buffer to give away | [`AioFile::read`], [`AioFile::write`]: a [`Ticket`] to wait for, poll or await |
//! | many extents of one file | [`AioFile::read_vectored`], [`AioFile::write_vectored`] |
//! | a path per tensor | [`AioHandle::read_path`], [`write_new`](AioHandle::write_new), [`write_path`](AioHandle::write_path) |
//! | borrowed memory | [`AioHandle::scope`] |
//! | a runtime such as tokio | [what blocks there, and what does not](AioHandle#in-async-code) |
//! | one small thing, now | [`AioFile::read_at`], [`AioFile::write_at`] |
//! | raw pointers, or memory on a device | [`AioHandle::submit_raw`], [`IoOpDesc`](op::IoOpDesc) |
//!
//! # Backends
//!
//! [`Backend::Auto`] takes the first that works: io_uring, Linux AIO, a thread pool. The environment variable
//! `AIO_BACKEND` (`uring`, `libaio`, `pthread`) overrides `Auto`; a backend chosen in code stays chosen.
//!
//! A backend of one's own implements [`backend::IoBackend`] and goes to [`AioHandle::with_backend`]; `examples/backend.rs` is
//! the shortest.
#![forbid(unsafe_code)]

#[cfg(not(any(feature = "uring", feature = "libaio", feature = "pthread")))]
compile_error!("tensor-aio needs at least one backend: enable the feature `uring`, `libaio` or `pthread`");

mod backends;
mod builder;

pub use aio_core::{
    AioConfig, AioFile, AioHandle, AtomicFile, DirectMode, Error, OpenOptions, Result, Scope, Stats, Ticket,
};
#[doc(inline)]
pub use aio_core::{backend, buf, error, op};
pub use backends::Backend;
pub use builder::{Builder, builder};

/// The README's quick start is compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
