//! What tests of a backend, and of the engine on a backend, need.
//!
//! # A backend and its tests
//!
//! A backend implements [`IoBackend`](aio_core::backend::IoBackend) and [`IoQueue`](aio_core::backend::IoQueue).
//! [`conformance::queue`] checks what the engine relies on: every block completes once, with the right bytes,
//! whatever its file, its size and its neighbours; an error stays with its block; a wait ends when it should, and no
//! wake-up is lost; the end of a queue leaves no memory to the kernel. One test in the folder `tests/` of the
//! backend's crate is enough:
//!
//! ```
//! # mod mine {
//! #     use aio_core::backend::{Capabilities, IoBackend, IoQueue, QueueConfig, Unavailable};
//! #     #[derive(Debug, Default)]
//! #     pub struct MyBackend;
//! #     impl IoBackend for MyBackend {
//! #         fn name(&self) -> &'static str { "mine" }
//! #         fn probe(&self) -> Result<Capabilities, Unavailable> {
//! #             Err(Unavailable::new("mine", "this is an example", None))
//! #         }
//! #         fn open_queue(&self, _: &QueueConfig) -> Result<Box<dyn IoQueue>, Unavailable> {
//! #             Err(Unavailable::new("mine", "this is an example", None))
//! #         }
//! #     }
//! # }
//! use aio_testkit::conformance;
//! use mine::MyBackend;
//!
//! # /*
//! #[test]
//! # */
//! fn conforms() {
//!     conformance::queue(&MyBackend::default());
//! }
//! # conforms();
//! ```
//!
//! Each check that fails is named on standard error, with what it expected; the test fails after all of them have
//! run. Where the backend is not available the suite is skipped with a printed line, unless the environment variable
//! `AIO_EXPECT` names the backend. [`conformance::fork`], which checks a queue in a forked child, is for a test
//! binary of its own.
//!
//! `aio/examples/backend.rs` is the shortest backend that passes.
//!
//! # The engine and its tests
//!
//! [`fault::FaultBackend`] wraps any backend and makes its queues misbehave as a broken kernel, device or driver could.
//! [`leftovers`] counts what a process holds of the system, so that a test sees what a handle left behind.
#![deny(unsafe_code)]

pub mod conformance;
pub mod fault;
pub mod leftovers;
