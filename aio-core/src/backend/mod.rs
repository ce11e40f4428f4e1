//! What a backend is: [`IoBackend`] makes [`IoQueue`]s, a queue takes [`IoBlock`]s and gives [`Completion`]s.
//!
//! The engine is the only caller. It owns the memory of every block from the moment a queue accepted it until the
//! queue reported its completion, so a backend never has to keep buffers alive; in return a queue must never lose
//! track of a block it accepted.
//!
//! What backends are built from, beside the system calls that each has for itself, is in [`parts`]. The
//! shortest whole backend is `aio/examples/backend.rs`; the conformance suite of `aio-testkit` checks one
//! (`aio/tests/example_backend.rs` runs it).
#![allow(unsafe_code)]

mod block;
pub mod parts;
mod region;

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

pub use self::block::{Completion, Direction, IoBlock};
pub use self::region::{FileId, Region, RegionId, RegionMemory};

/// A way to do I/O: a factory of queues.
///
/// Object safe on purpose: the engine calls a queue once per batch of blocks, so dynamic dispatch costs nothing that
/// can be measured.
pub trait IoBackend: Send + Sync + fmt::Debug {
    /// The name that users select it by and that errors carry: `"uring"`, `"libaio"`, `"pthread"`.
    fn name(&self) -> &'static str;

    /// Does a real operation the way a queue would and says whether it worked.
    ///
    /// A kernel version proves nothing: container seccomp filters refuse `io_uring_setup` with EPERM on kernels that
    /// have it. The reason in [`Unavailable`] is one sentence for a user.
    fn probe(&self) -> Result<Capabilities, Unavailable>;

    /// Opens a queue on the thread that will use it and drop it.
    fn open_queue(&self, config: &QueueConfig) -> Result<Box<dyn IoQueue>, Unavailable>;

    /// Transfers one block on the calling thread and returns how many bytes moved, which may be fewer than asked
    /// (0 on a read is end of file). EINTR is returned, not retried.
    ///
    /// The default is `pread(2)`/`pwrite(2)` on [`IoBlock::fd`], which nothing beats at queue depth 1.
    ///
    /// # Safety
    ///
    /// `block.ptr` is valid for `block.len` bytes, for writing when the direction is [`Direction::Read`] and for
    /// reading otherwise, until the call returns. `block.fd` is open.
    unsafe fn transfer(&self, block: &IoBlock) -> io::Result<usize> {
        let offset = libc::off_t::try_from(block.offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        // SAFETY: the caller vouches for the memory and the descriptor for the duration of the call.
        let moved = unsafe {
            match block.direction {
                Direction::Read => libc::pread(block.fd, block.ptr.cast(), block.len, offset),
                Direction::Write => libc::pwrite(block.fd, block.ptr.cast(), block.len, offset),
            }
        };
        usize::try_from(moved).map_err(|_| io::Error::last_os_error())
    }

    /// Reads one block on the calling thread if that takes no waiting, as where the page cache holds it, and returns how
    /// many bytes moved. Fewer than asked, and whatever error, mean that the block goes to a queue.
    ///
    /// The default refuses, so that every block of a backend that does something else than transfer goes through its
    /// queues. [`parts::read_at_once`] asks the kernel.
    ///
    /// # Safety
    ///
    /// As for [`transfer`](Self::transfer).
    unsafe fn read_at_once(&self, block: &IoBlock) -> io::Result<usize> {
        let _ = block;
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// One submission and completion context: a ring, a kernel AIO context, a pool of threads.
///
/// Opened, used and dropped on one thread (a ring set up with `IORING_SETUP_SINGLE_ISSUER` refuses every other one),
/// which is why the trait is not `Send`.
///
/// # Forking
///
/// In a forked child a queue is the parent's: whatever is asked of it that could touch what is in flight fails, with an
/// error of the kind [`Other`](io::ErrorKind::Other), and [`drain`](Self::drain) and dropping it leave the parent's
/// blocks and completions alone, and return at once.
///
/// # Dropping
///
/// The engine calls [`drain`](Self::drain) first. A drop that finds blocks in flight all the same waits for them:
/// closing an io_uring does *not* wait for direct I/O in flight, so returning early would let the device write into
/// memory that has another owner by then.
pub trait IoQueue {
    /// How many blocks may be in flight at once. At least 1, at most [`QueueConfig::depth`], and never more than the
    /// completion side can hold, so that completions cannot overflow.
    fn capacity(&self) -> usize;

    /// How many accepted blocks have not been reported by [`reap`](Self::reap) yet.
    fn in_flight(&self) -> usize;

    /// Accepts blocks from the front of `blocks` and returns how many; never more than the capacity has room for.
    ///
    /// Accepted means in flight until its completion is reaped, even if a system call failed afterwards. The system
    /// call may be put off until the next `reap`, so that one call does both.
    ///
    /// An error that belongs to one block (EBADF, EINVAL, EFAULT, ...) is not an error of this call: that block is
    /// accepted and completes with it. `Err` concerns the queue as a whole and means that none was accepted. EAGAIN
    /// and EBUSY mean "not now" and come only with blocks in flight, whose completions make room; with none, the queue
    /// tries for a bounded time itself and then returns another error. Anything else means that the queue is broken.
    ///
    /// A block that the kernel does not transfer in the queue's way, but would in another (a file without asynchronous
    /// reads, no thread for a ring), is no error: the queue makes a plain call, here or in `reap`, which then takes as
    /// long as the transfer.
    ///
    /// # Safety
    ///
    /// The memory of an accepted block stays valid, for writing when it is read into and unchanged by anyone else
    /// when it is written from, until its completion is reaped or [`drain`](Self::drain) has returned 0. Its file
    /// descriptor stays open as long.
    unsafe fn submit(&mut self, blocks: &[IoBlock]) -> io::Result<usize>;

    /// Submits what was put off, waits, and appends completions to `done`.
    ///
    /// Returns when `min` completions were appended (`min` is clamped to the number in flight), `timeout` passed
    /// (`None`: no limit) or the [`waker`](Self::waker) was used since the last `reap` returned. With `min` 0 it
    /// does not wait, unless nothing is in flight and `timeout` is not zero: then it waits for the waker. With a
    /// timeout of zero it never waits. It may append more than `min`, and returns early without completions only
    /// for the waker or the timeout. Every return uses a wake-up up, also with a timeout of zero; one that arrives
    /// while it returns may end the next `reap`.
    ///
    /// EINTR is retried here. EAGAIN and EBUSY of a submission with blocks in flight mean "reap first"; with nothing
    /// in flight they become an error after a bounded wait. `Err` means that the queue is broken; completions that
    /// were already appended count.
    fn reap(&mut self, min: usize, timeout: Option<Duration>, done: &mut Vec<Completion>) -> io::Result<()>;

    /// Waits until no block is in flight, throwing completions away, and returns how many blocks the kernel may
    /// still be working on: 0, unless the queue is so broken that they can never be reaped. Blocks that were
    /// accepted but never reached the kernel may be dropped without being transferred. Afterwards
    /// [`in_flight`](Self::in_flight) is the returned number. For the end of a queue; do not submit afterwards.
    fn drain(&mut self) -> usize;

    /// Wakes a `reap` of this queue from any thread. A wake-up is never lost: one that arrives while nothing waits
    /// makes the next `reap` return at once. It uses capacity of its own and is never reported as a completion.
    fn waker(&self) -> Arc<dyn Wake>;

    /// Registers memory, so that blocks whose [`IoBlock::region`] names it can skip pinning it.
    ///
    /// An id is registered at most once. The queue keeps the region (and so its mapping) alive until
    /// [`remove_region`](Self::remove_region) or its own end. The slot may still hold an older generation that the queue
    /// failed to remove. An error means that blocks in this region have to come without its id. The default refuses, for
    /// backends that have no such thing.
    fn add_region(&mut self, region: &Region) -> io::Result<()> {
        let _ = region;
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    /// Takes a region's registration back: when this returns, the kernel does not hold its pages for this queue any
    /// more, and the queue does not keep it alive. Not called while blocks that name the region are in flight. An id
    /// that is not registered is ignored. If it fails the queue keeps the region, and blocks do not name it any more.
    ///
    /// A backend that implements [`add_region`](Self::add_region) implements this, too: where a queue kept its regions,
    /// the arena could not give memory back.
    fn remove_region(&mut self, id: RegionId) -> io::Result<()> {
        let _ = id;
        Ok(())
    }

    /// Registers an open file under `id`, so that blocks whose [`IoBlock::file`] is this id can use it.
    ///
    /// The slot may still hold an older generation, none of whose blocks is in flight; a newer one is an error.
    /// The default refuses, for backends that have no such thing.
    fn add_file(&mut self, id: FileId, fd: BorrowedFd<'_>) -> io::Result<()> {
        let _ = (id, fd);
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    /// Gives a registered file's slot back; the kernel's reference to the file goes with it. Not called while blocks
    /// of that file are in flight. An id that is not registered, or whose slot has a newer generation, is ignored.
    fn remove_file(&mut self, id: FileId) -> io::Result<()> {
        let _ = id;
        Ok(())
    }
}

/// Wakes a queue that is blocked in [`IoQueue::reap`]. Outlives its queue harmlessly.
pub trait Wake: Send + Sync {
    /// Makes the queue's current or next `reap` return. Never blocks.
    fn wake(&self);
}

/// What to open a queue with.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct QueueConfig {
    /// Most blocks in flight at once, 1 to [`MAX_DEPTH`](Self::MAX_DEPTH); clamped to that. A backend may offer less
    /// through [`IoQueue::capacity`].
    pub depth: usize,
    /// Room for registered regions; slots of [`RegionId`] are below it. 0: none will be registered.
    pub regions: u32,
    /// Room for registered files; slots of [`FileId`] are below it. 0: none will be registered.
    pub files: u32,
    /// Hand blocks to the kernel one system call each, as DeepSpeed's `single_submit` does.
    pub single_submit: bool,
}

impl QueueConfig {
    /// The deepest queue: 32768, the most that an io_uring holds.
    pub const MAX_DEPTH: usize = 32768;

    /// A queue for `depth` blocks with no room for registrations.
    pub fn new(depth: usize) -> Self {
        Self { depth, regions: 0, files: 0, single_submit: false }
    }

    /// [`depth`](Self::depth), or what is nearest to it from 1 to [`MAX_DEPTH`](Self::MAX_DEPTH).
    pub fn clamped_depth(&self) -> usize {
        self.depth.clamp(1, Self::MAX_DEPTH)
    }
}

/// What [`IoBackend::probe`] found.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Capabilities {
    /// What a queue will use, in the words of man pages where they have one, e.g. `"DEFER_TASKRUN"`.
    pub features: Vec<String>,
    /// Registered memory can be used.
    pub registered_memory: bool,
    /// Registered files can be used.
    pub registered_files: bool,
}

/// Why a backend cannot be used here: one sentence.
#[derive(Debug, Clone, thiserror::Error)]
#[error("backend {backend} is not available: {reason}")]
pub struct Unavailable {
    /// The backend's name.
    pub backend: &'static str,
    /// What was tried, what the kernel said and, where it is known, what to do about it.
    pub reason: String,
    /// The system call's error number, if there is one.
    pub errno: Option<i32>,
}

impl Unavailable {
    /// From a failed system call.
    pub fn new(backend: &'static str, reason: impl Into<String>, source: Option<&io::Error>) -> Self {
        Self { backend, reason: reason.into(), errno: source.and_then(io::Error::raw_os_error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depths_are_clamped() {
        for (depth, clamped) in [(0, 1), (1, 1), (33, 33), (32768, 32768), (32769, 32768), (usize::MAX, 32768)] {
            assert_eq!(QueueConfig::new(depth).clamped_depth(), clamped);
        }
    }
}
