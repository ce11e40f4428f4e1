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
//! - The kernel copies a request during `io_submit` and does not look at it afterwards.
//! - The id of a context is the address of its completion ring, mapped into the process. Completions can be taken
//!   from there without a system call (`ring.rs`, where the memory ordering is argued).
//! - Requests are counted against a system-wide limit, `fs.aio-max-nr` (65536 by default), when the context is made.
//!   A queue of depth *n* takes *n* + 1.
//! - `io_getevents` waits for events of its own context. To be woken by anything else, a queue keeps a poll request
//!   on an eventfd in the context (`wait.rs`, and `waker.rs` for why no wake-up is lost).
//!
//! The calls are made directly, because the C library has no wrappers for them and libaio, which has, may not be
//! installed. With the feature `system-libaio` they go through that library; nothing else changes.

mod abi;
mod context;
mod queue;
mod refusal;
mod ring;
mod slots;
mod sys;
mod wait;
mod waker;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use aio_core::{Capabilities, Completion, Direction, IoBackend, IoBlock, IoQueue, QueueConfig, Unavailable};

use crate::queue::LibaioQueue;

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
        let mut queue = LibaioQueue::open(&QueueConfig::new(1), self.avoid)?;
        round_trip(&mut queue).map_err(|error| {
            Unavailable::new(NAME, format!("a write and a read through an AIO context failed: {error}"), Some(&error))
        })?;
        let mut found = Capabilities::default();
        found.features = queue.features();
        Ok(found)
    }

    fn open_queue(&self, config: &QueueConfig) -> Result<Box<dyn IoQueue>, Unavailable> {
        Ok(Box::new(LibaioQueue::open(config, self.avoid)?))
    }
}

/// Writes through `queue` to an anonymous file and reads it back.
///
/// The file is a memfd: it needs no writable directory, and takes the same way through `io_submit` as any file.
fn round_trip(queue: &mut LibaioQueue) -> io::Result<()> {
    const LEN: usize = 512;
    let file = memfd()?;
    let mut written = vec![0xa1; LEN];
    let mut read = vec![0; LEN];
    let blocks = [(Direction::Write, &mut written), (Direction::Read, &mut read)].map(|(direction, memory)| {
        let (fd, ptr) = (file.as_raw_fd(), memory.as_mut_ptr());
        IoBlock { token: 0, direction, fd, file: None, region: None, ptr, len: LEN, offset: 0 }
    });
    let outcome = blocks.iter().try_for_each(|block| {
        let mut done = Vec::new();
        // SAFETY: the memory is used by nobody until this was reaped, and is freed only if `drain` below says that
        // the kernel is done with it; the file is closed after that.
        unsafe { queue.submit(&[*block]) }?;
        queue.reap(1, Some(Duration::from_secs(10)), &mut done)?;
        moved(done.pop(), LEN)
    });
    if queue.drain() > 0 {
        std::mem::forget((written, read));
        return outcome;
    }
    outcome?;
    if read == written { Ok(()) } else { Err(io::Error::other("the bytes read were not the bytes written")) }
}

fn memfd() -> io::Result<OwnedFd> {
    // A hardened system (`vm.memfd_noexec`) insists on the flag, and one before Linux 6.3 does not know it.
    let create = |flags| {
        // SAFETY: the name is a C string that outlives the call.
        let fd = unsafe { libc::memfd_create(c"aio-probe".as_ptr(), libc::MFD_CLOEXEC | flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call just returned this descriptor, and nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    };
    create(libc::MFD_NOEXEC_SEAL).or_else(|_| create(0))
}

fn moved(completion: Option<Completion>, len: usize) -> io::Result<()> {
    let Some(completion) = completion else {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "no completion within 10 s"));
    };
    if completion.result? == len { Ok(()) } else { Err(io::Error::other("fewer bytes moved than were asked for")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_names_what_a_queue_uses() {
        for (avoid, expected) in [
            (Avoid::default(), &["user-space reap", "IOCB_CMD_POLL"][..]),
            (Avoid { ring: true, poll: true }, &["IOCB_FLAG_RESFD"]),
        ] {
            match (LibaioBackend { avoid }).probe() {
                Ok(found) => {
                    let expected =
                        expected.iter().copied().chain(cfg!(feature = "system-libaio").then_some("system-libaio"));
                    assert!(found.features.iter().map(String::as_str).eq(expected), "{found:?}");
                    assert!(!found.registered_memory && !found.registered_files);
                }
                Err(refused) => queue::tests::skip(&refused),
            }
        }
    }
}
