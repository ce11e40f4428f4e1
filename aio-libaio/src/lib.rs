//! The Linux native AIO (libaio) backend.
//!
//! # Native AIO in one page
//!
//! A *context* (`io_setup`) holds a fixed number of requests and a ring of completions. `io_submit` takes an array of
//! pointers to requests (`iocb`: opcode, descriptor, memory, offset, and a word of ours), `io_getevents` gives back
//! events (that word, and bytes or a negated errno). `io_destroy` waits for what is in flight. Documented in
//! `io_setup(2)` and its neighbours; what the manual leaves out is in `fs/aio.c`, and these facts decide how this
//! crate is built:
//!
//! - It is asynchronous for direct I/O only, and there only while the file system does not have to sleep first: a
//!   buffered block is copied inside `io_submit`, and a write that extends the file waits there for the allocation.
//!   Hence the engine's preallocation; correctness does not depend on it.
//! - `io_submit` stops at the first request it cannot take. It returns how many came before, or, if there were none,
//!   that request's error. So an error belongs to the first request of the call, and a short count means "call again
//!   to hear why". Only EAGAIN speaks of the context: no room, or no memory.
//! - EINVAL says that a file has no asynchronous reads or writes, as those of `/proc`, among other things. The block is
//!   done by a plain call then, on the thread that submits.
//! - The kernel copies a request during `io_submit` and does not look at it afterwards.
//! - The id of a context is the address of its completion ring, mapped into the process. Completions can be taken
//!   from there without a system call (`completion_ring.rs`, where the memory ordering is argued).
//! - Requests are counted against a system-wide limit, `fs.aio-max-nr` (65536 by default), when the context is made.
//!   A queue of depth *n* takes *n* + 1.
//! - `io_destroy` takes some 32 ms even if nothing is in flight: it waits for other CPUs to have seen that the context
//!   goes (RCU), and so does the end of a queue.
//! - `io_getevents` waits for events of its own context. To be woken by anything else, a queue keeps a poll request
//!   on an eventfd in the context (`wait.rs`; that no wake-up is lost is argued at
//!   [`EventWaker`](aio_core::backend::parts::EventWaker)).
//!
//! The calls are made directly, because the C library has no wrappers for them and libaio, which has, may not be
//! installed. With the feature `system-libaio` they go through that library; nothing else changes.
//!
//! | module | what it is |
//! |---|---|
//! | `queue` | blocks in flight: submit, drain, drop |
//! | `wait` | reap: what has completed, and the sleep that a completion or the waker ends |
//! | `request` | from a block to what the kernel reads |
//! | `slots` | the requests of a queue, and from a completion to its block |
//! | `context` | the system calls |
//! | `completion_ring` | completions without a system call |
//! | `refusal` | why there is no queue |
//! | `sys`, `abi` | what the kernel or the C library calls these things |

mod abi;
mod completion_ring;
mod context;
mod queue;
mod refusal;
mod request;
mod slots;
mod sys;
#[cfg(test)]
mod tests;
mod wait;

use std::io;

use aio_core::backend::{Capabilities, IoBackend, IoBlock, IoQueue, QueueConfig, Unavailable, parts};

use crate::queue::LibaioQueue;

/// The backend's name, in errors and for selection.
const NAME: &str = "libaio";

/// Linux native AIO. A queue is a kernel AIO context of [`QueueConfig::depth`] + 1 requests, counted in `fs.aio-nr`.
///
/// Depths outside 1 to 32768 are taken for the nearest of these. There are no registered regions or files.
#[derive(Debug, Clone, Default)]
pub struct LibaioBackend {
    avoid: Avoid,
}

/// Kernel interfaces not to use, so that tests reach what old kernels make us do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Avoid {
    /// Reading the mapped ring: use `io_getevents`.
    ring: bool,
    /// `IOCB_CMD_POLL`: use `IOCB_FLAG_RESFD`.
    poll: bool,
}

impl IoBackend for LibaioBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    fn probe(&self) -> Result<Capabilities, Unavailable> {
        let queue = LibaioQueue::open(&QueueConfig::new(1), self.avoid)?;
        let features = queue.features();
        let mut found = parts::round_trip(NAME, Box::new(queue))?;
        found.features = features;
        Ok(found)
    }

    fn open_queue(&self, config: &QueueConfig) -> Result<Box<dyn IoQueue>, Unavailable> {
        Ok(Box::new(LibaioQueue::open(config, self.avoid)?))
    }

    unsafe fn read_at_once(&self, block: &IoBlock) -> io::Result<usize> {
        // SAFETY: the caller makes the same promise.
        unsafe { parts::read_at_once(block) }
    }
}
