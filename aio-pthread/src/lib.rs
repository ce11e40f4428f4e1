//! The backend for everywhere: `pread(2)` and `pwrite(2)` on a pool of threads.
//!
//! It needs no kernel interface beyond POSIX, so it works on every file system, in every container and under every
//! seccomp filter; it is what the engine falls back to. It is also the honest choice where the others turn into it
//! behind the scenes: a transfer that io_uring or Linux AIO cannot start without blocking is done by a kernel thread,
//! or on the submitter's time.
//!
//! # How a block travels
//!
//! `submit` puts blocks into a queue under a mutex; threads of the pool take them, transfer them and put completions
//! back under the same mutex; `reap` sleeps until as many arrived as it was asked for. Three things keep that cheap:
//!
//! - **Threads wake one another, one at a time.** Waking a thread on another CPU costs as much as tens of small
//!   transfers from the page cache. So `submit` wakes one thread, and a thread that takes work and leaves some behind
//!   wakes the next, unless one is on its way already. Where transfers block, the pool is at full width after a few
//!   of these steps; where they do not, one or two threads do everything and the others sleep. Threads are started
//!   the same way: none when the queue is opened, and never more than the load has kept busy.
//! - **The reaper is woken once**, when the number of completions that it waits for has arrived.
//! - **Small neighbours are merged**: blocks that follow each other in the file become one `preadv(2)` or
//!   `pwritev(2)`. Large ones are not; they are worth more on several threads. Results stay those of single blocks.
//!
//! # Width
//!
//! One pool per queue, at most [`MAX_THREADS`] wide and never wider than the queue is deep. Blocking transfers keep a
//! device busy only with as many threads as it can do things at once, which is more than there are CPUs.
//!
//! # When threads cannot be had
//!
//! A process may be at its limit of threads (`RLIMIT_NPROC`, the pids controller of a container). With fewer threads
//! than planned the queue is slower, no more. With none, `reap` transfers the blocks on its own thread, where the
//! waker cannot interrupt a transfer, and the next `submit` tries again to start one.
//!
//! # Signals
//!
//! Pool threads block every signal that may be meant for another thread. A write beyond `RLIMIT_FSIZE` fails with
//! EFBIG, but the SIGXFSZ that comes with it, fatal by default, stays pending on the pool thread and ends with it.
//!
//! | module | what it is |
//! |---|---|
//! | `queue` | blocks in flight: submit, drain, drop |
//! | `wait` | reap: the sleep that completions or the waker end |
//! | `request` | from blocks to a system call |
//! | `pool` | the threads |
//! | `signals` | what keeps signals away from the threads |

mod pool;
mod queue;
mod request;
mod signals;
#[cfg(test)]
mod tests;
mod wait;

use std::io;
use std::sync::Arc;

use aio_core::backend::{Capabilities, IoBackend, IoBlock, IoQueue, QueueConfig, Unavailable, parts};

use crate::pool::Pool;
use crate::queue::PthreadQueue;

pub use crate::pool::MAX_THREADS;

/// The backend's name, in errors and for selection.
const NAME: &str = "pthread";

/// Opens queues that are pools of threads.
#[derive(Debug, Clone, Default)]
pub struct PthreadBackend;

impl PthreadBackend {
    /// The backend; it has no state and no options.
    pub fn new() -> Self {
        Self
    }
}

impl IoBackend for PthreadBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    fn probe(&self) -> Result<Capabilities, Unavailable> {
        let config = QueueConfig::new(1);
        let pool = Pool::new(&config);
        let queue = PthreadQueue::new(&config, Arc::clone(&pool));
        let found = parts::round_trip(NAME, Box::new(queue))?;
        if pool.threads() == 0 {
            // The queue did the work itself: it is of use, but not what a worker should choose.
            return Err(Unavailable::new(NAME, "no thread could be started; see RLIMIT_NPROC (ulimit -u)", None));
        }
        Ok(found)
    }

    /// Never fails: threads are started when there are blocks for them.
    fn open_queue(&self, config: &QueueConfig) -> Result<Box<dyn IoQueue>, Unavailable> {
        Ok(Box::new(PthreadQueue::new(config, Pool::new(config))))
    }

    unsafe fn read_at_once(&self, block: &IoBlock) -> io::Result<usize> {
        // SAFETY: the caller makes the same promise.
        unsafe { parts::read_at_once(block) }
    }
}
