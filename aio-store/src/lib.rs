//! Named tensors on storage, for the engine of `tensor-aio`: safetensors files, read at the speed of the device, and
//! saved so that they are the old ones or the new ones, whole, whatever happens.
//!
//! Users reach it as `aio::tensor`. What is on disk, and what a crash leaves: `docs/store.md` of the repository.
#![forbid(unsafe_code)]

mod entries;
mod error;
mod header;
mod memory;
mod ranges;
mod read_ahead;
mod runs;
mod safe_tensors;
mod set;
mod sources;
mod stream;
mod verify;
mod writer;

pub use error::{Error, Result};
pub use memory::{Element, Memory, MemoryMut, Tensor, TensorView};
pub use safe_tensors::SafeTensors;
pub use safetensors::Dtype;
pub use set::TensorInfo;
pub use stream::Stream;
pub use verify::{Verified, Verify};
pub use writer::{SaveOptions, TensorSpec, Writer, save};
