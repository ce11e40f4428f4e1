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
//! file.read_at(&mut bytes, 4321)?; // blocking, any address, any offset, any length
//! assert!(bytes.iter().all(|byte| *byte == 7));
//! # drop(tensor);
//! # Ok(())
//! # }
//! ```
//!
//! # Five words
//!
//! - A **handle**, [`AioHandle`], is an engine: worker threads, an I/O queue of the kernel for each, and memory. A
//!   program
//!   needs one; clones are the same engine.
//! - A **file**, [`AioFile`], is an open file of a handle. Direct I/O where the file system has it, else the page cache.
//! - An **op** moves bytes of one file to memory, or from it: any length, any offset, any address. Thousands may be in
//!   flight; they have no order. An op is Ok only if every byte moved.
//! - A **ticket**, [`Ticket`], is what the caller holds of an op in flight. It is waited for, polled, awaited or
//!   cancelled,
//!   and gives the op's memory back, in errors too.
//! - The **arena**, [`Arena`](buf::Arena), is memory for transfers: huge pages that the kernel knows.
//!   [`AioHandle::alloc`] takes [buffers](buf::AlignedBuf) from it; [other memory](buf::IoBuf) works, too.
//!
//! # The way of an op
//!
//! ```text
//!   caller            op queue         worker            I/O queue          kernel
//!
//!   file.write() ---> op, cut in ----> takes blocks ---> submission ------> device, or page cache
//!        |            blocks           of any op                              |
//!        v                                                                    v
//!   ticket <--------- the op ends, <-- checks each <---- completion <---------+
//!   .wait()?          Ok if all        block, resumes
//!   .await?           bytes moved      what was short
//!
//!   memory: the caller's until the call, the op's while it is in flight, the caller's again with the ticket's result
//!           arena ------------ registered with the I/O queue: the device reads and writes it where it is
//!           other, aligned --- the same, with more work for the kernel
//!           other ------------ a worker copies it through a staging buffer
//! ```
//!
//! # Which call
//!
//! | the caller has | call |
//! |---|---|
//! | a file and a buffer to give away | [`AioFile::read`], [`AioFile::write`]: a [`Ticket`] |
//! | many extents of one file | [`AioFile::read_vectored`], [`AioFile::write_vectored`] |
//! | a path per tensor | [`AioHandle::read_path`], [`write_new`](AioHandle::write_new), [`write_path`](AioHandle::write_path) |
//! | borrowed memory | [`AioHandle::scope`], then [`Scope::read`], [`Scope::write`], [`Scope::read_path`] ... |
//! | one small thing, now | [`AioFile::read_at`], [`AioFile::write_at`] |
//! | many tensors for one file | [`AlignedLayout::push`](op::AlignedLayout::push) says where each begins |
//! | a file that must be whole after a crash | [`AioHandle::create_atomic`], [`AtomicFile::commit`], which syncs too |
//! | other data that must survive a power failure | [`AioFile::sync_data`] after the writes, or [`AioFile::durable`] before them |
//! | safetensors files, or named tensors to save | `tensor::SafeTensors`, `tensor::save` |
//! | raw pointers, or memory on a device | [`AioHandle::submit_raw`], [`AioHandle::submit`] with an [`IoOpDesc`](op::IoOpDesc) |
//! | ops that may come second | [`AioHandle::background`], [`AioFile::background`] |
//!
//! Longer examples, to be copied: `examples/swap.rs` and `examples/checkpoint.rs`.
//!
//! # In async code
//!
//! A [`Ticket`] is a future on any runtime, and needs no reactor. What blocks the calling thread has another form for
//! tasks ([the whole list](AioHandle#in-async-code)):
//!
//! | blocks | in a task |
//! |---|---|
//! | [`Ticket::wait`] | `.await`, with [`Ticket::cancel_on_drop`] if a time-out may end it |
//! | [`AioHandle::alloc`] at the arena's limit | [`AioHandle::alloc_async`] |
//! | starting an op while the queue is full | the same through [`AioHandle::unlimited`] or [`AioFile::unlimited`] |
//! | [`AioHandle::open`], [`AioHandle::create_atomic`] | [`AioHandle::open_async`], [`AioHandle::create_atomic_async`] |
//! | [`AioFile::read_at`], [`AioHandle::scope`] | [`AioFile::read`] |
//!
//! An example: `examples/await_with_tokio.rs`.
//!
//! # Layout
//!
//! Bytes take the fastest way, past the page cache and straight to the op's memory, where [`AioFile::alignment`]
//! allows it:
//!
//! - The **offset** in the file and the **length** are multiples of its `offset`, mostly 4096 bytes. What an extent
//!   has outside
//!   whole units, at either end, goes through the page cache, and the rest past it.
//! - The **address** is a multiple of its `memory`, mostly 512 bytes or fewer. Else a worker copies the bytes through a
//!   staging buffer. Buffers of the arena begin at a page, a `Vec` anywhere. An odd offset makes the address of the whole
//!   units after it odd, too.
//!
//! So of tensors that are packed end to end, and read each into a buffer of its own, nearly all bytes are copied.
//! Popular formats do pack: safetensors allows no gaps, and GGUF aligns to 32 bytes by default. Such a file is best
//! read in long ranges that begin at whole units, all of it from 0 for one: the tensors are slices of the buffer, and
//! nothing is copied. In a format of your own an [`AlignedLayout`](op::AlignedLayout) has each tensor begin at a unit.
//!
//! [`AioHandle::stats`] tells which way bytes went: [`bytes_direct`](Stats::bytes_direct) or
//! [`bytes_buffered`](Stats::bytes_buffered), and of either [`bytes_staged`](Stats::bytes_staged), which should be
//! near 0 for memory of the arena. (Of memory of your own that lies in 4 KiB pages, direct blocks are staged, too, to
//! be faster, until ops have used it again and again.) (Reads of a file that lies in the page cache come from there,
//! see [`DirectMode::Auto`].)
//!
//! # Errors
//!
//! [`Error`] is a sentence with path, offset and reason; an op's comes with its buffer
//! ([`into_buffer`](error::OpError::into_buffer)). The failure of an op whose ticket was dropped goes to the next
//! [`AioHandle::wait`].
//!
//! # Forks and signals
//!
//! In a forked child every call fails with [`Error::Forked`]. Worker threads block all signals.
//!
//! # Backends
//!
//! [`Backend::Auto`] takes the first that works: io_uring, Linux AIO, a thread pool. The environment variable
//! `AIO_BACKEND` (`uring`, `libaio`, `pthread`) overrides `Auto`; a backend chosen in code stays chosen.
//!
//! A backend of one's own implements [`backend::IoBackend`] and goes to [`AioHandle::with_backend`];
//! `examples/backend.rs` is the shortest.
//!
//! # Features
//!
//! `uring`, `libaio` and `pthread` are the backends, all on by default. `system-libaio` has the C library make the
//! system calls. `bytes` makes the types of the crate [bytes](https://docs.rs/bytes) buffers. `tensor`, on by default, is
//! the module `tensor`: safetensors files, read and saved.
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
#[cfg(feature = "tensor")]
#[doc(inline)]
pub use aio_store as tensor;
pub use backends::Backend;
pub use builder::{Builder, builder};

/// The code in the README and in the pages of `docs/` is compiled, and run where it has a `main`.
#[cfg(doctest)]
mod pages {
    #[cfg(feature = "tensor")]
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/guide.md")]
    struct Guide;
    #[doc = include_str!("../docs/deepspeed.md")]
    struct DeepSpeed;
}
