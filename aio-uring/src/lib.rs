//! The io_uring backend.
//!
//! An io_uring is two ring buffers shared with the kernel: requests go in one, completions come out of the other, and
//! one system call (`io_uring_enter`) can submit a batch, post what has completed and wait for more. So a queue puts
//! every submission off until it reaps, and pays one call for both.
//!
//! What makes it cheap, from the outside in:
//!
//! * **The ring is set up for one thread that asks for its completions** (`SINGLE_ISSUER`, `DEFER_TASKRUN`): no locks,
//!   no interruptions, completions in batches. Older kernels get the best set of flags they know.
//! * **The ring's own descriptor is registered**, so that entering the kernel skips the look-up.
//! * **Files and memory are registered** where the engine asks for it, so that a block skips taking a reference to the
//!   file and pinning its pages. On huge pages that also keeps large blocks off the kernel's worker threads.
//!
//! What makes it correct:
//!
//! * **Memory belongs to the kernel until its completion is taken.** Closing a ring does not wait for direct I/O in
//!   flight, so dropping a queue does; a request that was pushed before a failed system call still counts.
//! * **Completions cannot overflow**, because a queue accepts no more blocks than its ring holds.
//! * **A wake-up is never lost**: wakers change one atomic word, and ring an eventfd that the ring watches only if that
//!   word said that the queue waits ([`EventWaker`](aio_core::backend::parts::EventWaker)).
//! * **Registered memory is released last**, after the ring is closed.
//!
//! | module | what it is |
//! |---|---|
//! | `queue` | blocks in flight: submit, drain, drop |
//! | `wait` | reap: what has completed, and the wait that a completion or the waker ends |
//! | `blocks` | from a completion to its block |
//! | `ring` | the system call |
//! | `setup` | the flags of the ring, best first |
//! | `register` | tables of registered memory and files |
//! | `request` | from a block to what the kernel reads |
//! | `plain` | blocks that the ring does not transfer, or not right |
//! | `refusal` | why there is no queue |

mod blocks;
mod plain;
mod queue;
mod refusal;
mod register;
mod request;
mod ring;
mod setup;
#[cfg(test)]
mod tests;
mod wait;

use std::io;

use aio_core::backend::{Capabilities, IoBackend, IoBlock, IoQueue, QueueConfig, Unavailable, parts};

use crate::queue::UringQueue;
use crate::setup::{LADDER, Rung};

/// The backend's name, in errors and for selection.
const NAME: &str = "uring";

/// I/O through io_uring: the fastest backend where the kernel allows it. Needs Linux 5.6; is at its best from 6.6 on.
#[derive(Debug, Clone)]
pub struct UringBackend {
    ladder: &'static [Rung],
}

impl Default for UringBackend {
    fn default() -> Self {
        Self { ladder: LADDER }
    }
}

impl IoBackend for UringBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    fn probe(&self) -> Result<Capabilities, Unavailable> {
        let mut config = QueueConfig::new(1);
        (config.regions, config.files) = (1, 1);
        let queue = UringQueue::open(&config, self.ladder)?;
        let features = queue.features();
        let mut found = parts::round_trip(NAME, Box::new(queue))?;
        found.features = features;
        for (registered, name) in
            [(found.registered_memory, "REGISTER_BUFFERS"), (found.registered_files, "REGISTER_FILES")]
        {
            found.features.extend(registered.then(|| name.to_owned()));
        }
        Ok(found)
    }

    fn open_queue(&self, config: &QueueConfig) -> Result<Box<dyn IoQueue>, Unavailable> {
        Ok(Box::new(UringQueue::open(config, self.ladder)?))
    }

    unsafe fn read_at_once(&self, block: &IoBlock) -> io::Result<usize> {
        // SAFETY: the caller makes the same promise.
        unsafe { parts::read_at_once(block) }
    }
}
