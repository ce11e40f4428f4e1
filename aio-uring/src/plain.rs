//! Blocks that go past the ring, by plain calls: those of files on FUSE, and those that the ring did not do.
//!
//! # FUSE
//!
//! When a transfer of a regular file comes short, io_uring asks for the rest itself, and relies on the file system to
//! have moved the position of the request and of its memory. FUSE does not always: where a file is opened past the page
//! cache, by the program or by its server, the rest is asked for at the old position, and with other memory. The request
//! completes with all of its bytes, and the file does not hold them; or a read that the end of the file cuts short gets
//! the file's beginning once more (seen on Linux 6.18; only servers without `FUSE_ASYNC_DIO`, which a client cannot ask
//! for). A block that was reported whole cannot be told from one that is, so FUSE gets one call for each block, whose
//! short result the engine sees. That makes it slower than the pool of threads; it makes it right.
//!
//! An overlay over FUSE calls itself an overlay, and goes through the ring. That is right: the kernel never tries its
//! transfers on the thread that submits, and in a kernel worker the ring does not ask for the rest (seen on Linux 6.18,
//! with FUSE as the lower and as the upper layer).
//!
//! # No kernel workers
//!
//! What may have to wait before it is in flight (writes through the page cache, writes that allocate, everything on
//! tmpfs) is done by a worker thread that the kernel makes for the ring. Where it may make none, because of
//! `RLIMIT_NPROC` or of the `pids.max` of a control group, it tries for some 60 ms and ends the request with ECANCELED,
//! which nothing else does here: the engine never asks for a request to be cancelled. So that block is done by a plain
//! call, and for the next five seconds requests come with `RWF_NOWAIT`: what would need a kernel worker ends with EAGAIN
//! at once, or with EOPNOTSUPP where a file system does not know the flag, and is done by a plain call, while direct I/O
//! that needs none stays in flight. The calls run in `reap`, one after the other, on the thread that owns the queue: it
//! is as fast as one thread is, and a wake-up waits for the end of the call.

use std::io;
use std::os::fd::RawFd;

use aio_core::backend::{Completion, IoBackend, IoBlock};

use crate::UringBackend;
use crate::register::Tables;

/// What was found out about descriptors during one call, in which they stay open.
#[derive(Debug, Default)]
pub(crate) struct Checked(Option<(RawFd, bool)>);

impl Checked {
    /// Whether this block must not go through the ring. Costs a system call if its file is not registered.
    pub(crate) fn needs_plain_call(&mut self, block: &IoBlock, tables: &Tables) -> bool {
        match self.0 {
            Some((fd, on_fuse)) if fd == block.fd => on_fuse,
            _ => {
                let told = block.file.and_then(|id| tables.is_on_fuse(id));
                self.0.insert((block.fd, told.unwrap_or_else(|| is_on_fuse(block.fd)))).1
            }
        }
    }
}

/// Whether an open file may lie on FUSE, as virtiofs does too. FUSE asks its server, which may fail to answer: plain
/// calls are right everywhere, so what does not tell gets those. What is no descriptor lies nowhere.
pub(crate) fn is_on_fuse(fd: RawFd) -> bool {
    let mut found = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the kernel fills the structure, which is alive for the call, or fails.
    if unsafe { libc::fstatfs(fd, found.as_mut_ptr()) } != 0 {
        return io::Error::last_os_error().raw_os_error() != Some(libc::EBADF);
    }
    // SAFETY: filled, since the call succeeded.
    unsafe { found.assume_init() }.f_type == libc::FUSE_SUPER_MAGIC
}

/// Transfers a block on this thread.
///
/// # Safety
///
/// As for [`IoBackend::transfer`].
pub(crate) unsafe fn transfer(block: &IoBlock) -> Completion {
    // SAFETY: the caller's contract is this one's.
    let result: io::Result<usize> = unsafe { UringBackend::default().transfer(block) };
    Completion { token: block.token, result }
}
