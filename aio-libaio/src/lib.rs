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
//!   from there without a system call (`ring.rs`, where the memory ordering is argued).
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
//! | `queue` | blocks in flight: submit, reap, drain, drop |
//! | `wait` | the sleep that a completion or the waker ends |
//! | `slots` | the requests, and from a block to what the kernel reads |
//! | `context` | the system calls |
//! | `ring` | completions without a system call |
//! | `refusal` | why there is no queue |
//! | `sys`, `abi` | what the kernel or the C library calls these things |

mod abi;
mod context;
mod queue;
mod refusal;
mod ring;
mod slots;
mod sys;
mod wait;

use aio_core::backend::{Capabilities, IoBackend, IoQueue, QueueConfig, Unavailable, parts};

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
}

#[cfg(test)]
mod tests {
    use std::io;

    use aio_testkit::conformance::{refusing, require};

    use super::*;

    /// What the probe says when the kernel refuses `call`.
    fn refusal_without(call: libc::c_long, avoid: Avoid) -> Option<Unavailable> {
        refusing(&[call], libc::EPERM, || (LibaioBackend { avoid }).probe().expect_err("a call that is not needed"))
    }

    #[test]
    fn the_probe_notices_each_call_that_is_refused_and_names_it() {
        if !require(&LibaioBackend::default()) {
            return;
        }
        let library = cfg!(feature = "system-libaio");
        let (usual, oldest) = (Avoid::default(), Avoid { ring: true, poll: true });
        for (call, avoid, words) in [
            (libc::SYS_io_setup, usual, "io_setup was refused"),
            (libc::SYS_io_submit, usual, "io_submit of a poll for the waker"),
            (libc::SYS_io_submit, oldest, "a write to a file in memory failed"),
            (libc::SYS_io_getevents, usual, "a wait for completions failed"),
            // libaio spares itself the call while there is nothing to fetch.
            (libc::SYS_io_getevents, oldest, if library { "a write to a file" } else { "a wait for completions" }),
            (libc::SYS_ppoll, oldest, "a wait for completions failed"),
            (libc::SYS_eventfd2, usual, "eventfd for the waker"),
        ] {
            let Some(refusal) = refusal_without(call, avoid) else { return };
            assert_eq!((refusal.backend, refusal.errno), (NAME, Some(libc::EPERM)), "{refusal}");
            assert!(refusal.reason.contains(words), "{refusal} lacks {words}");
            let kernel = io::Error::from_raw_os_error(libc::EPERM).to_string();
            assert!(refusal.reason.contains(&kernel), "{refusal} lacks what the kernel said");
        }
    }

    #[test]
    fn the_probe_names_what_a_queue_uses() {
        for (avoid, expected) in [
            (Avoid::default(), &["user-space reap", "IOCB_CMD_POLL"][..]),
            (Avoid { ring: true, poll: true }, &["IOCB_FLAG_RESFD"]),
        ] {
            let backend = LibaioBackend { avoid };
            if require(&backend) {
                let found = backend.probe().unwrap();
                let library = cfg!(feature = "system-libaio").then_some("system-libaio");
                assert!(found.features.iter().map(String::as_str).eq(expected.iter().copied().chain(library)));
                assert!(!found.registered_memory && !found.registered_files);
            }
        }
    }
}
