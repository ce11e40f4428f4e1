//! Is a queue that was opened any good? Only using it tells: container runtimes filter the system calls of kernels that
//! have them, and what a kernel accepts when a queue is set up it may refuse when there is something to do.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::env;
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::backend::{
    Capabilities, Direction, FileId, IoBlock, IoQueue, Region, RegionId, RegionMemory, Unavailable,
};
use crate::threads::NoFileSizeSignal;

/// Bytes that are written and read back.
const BYTES: usize = 4096;
/// How long to wait for nothing: long enough to be a wait, and short enough for a program's start.
const NAP: Duration = Duration::from_millis(1);
/// Far longer than a transfer within memory takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Has `queue` do once all that the engine asks of it: it waits for nothing, registers memory and a file if it can (give
/// it room for one of each), writes an anonymous file and reads it back.
///
/// Returns which registrations it took; [`Capabilities::features`] is left to the backend of the name `backend`, for
/// which the refusals are. A queue that kept a block for longer than ten seconds is leaked, with the memory of the
/// block: dropping it would wait for it, perhaps for ever.
pub fn round_trip(backend: &'static str, mut queue: Box<dyn IoQueue>) -> Result<Capabilities, Unavailable> {
    let no_signal = NoFileSizeSignal::new();
    let refused = |what: &str, error: io::Error| Unavailable::new(backend, format!("{what}: {error}"), Some(&error));
    let file = anonymous_file().map_err(|error| refused("neither memfd_create nor a temporary file works", error))?;
    let region =
        Region::new(RegionId { slot: 0, generation: 0 }, Arc::new(Pages(Box::new(UnsafeCell::new([0; 2 * BYTES])))));

    // Transfers of a file in memory are over when they are submitted: without this, nothing would ever sleep.
    queue.reap(0, Some(NAP), &mut Vec::new()).map_err(|error| refused("a wait for completions failed", error))?;

    let id = FileId { slot: 0, generation: 0 };
    let registered_memory = queue.add_region(&region).is_ok();
    let registered_files = queue.add_file(id, file.as_fd()).is_ok();

    // SAFETY: the memory of the region is this function's alone until a transfer is submitted.
    unsafe { region.ptr().write_bytes(0xa5, BYTES) };
    for (what, direction, at) in [("write to", Direction::Write, 0), ("read of", Direction::Read, BYTES)] {
        let block = IoBlock {
            file: Some(id),
            region: Some(region.id()),
            ..IoBlock::new(direction, file.as_raw_fd(), region.ptr().wrapping_add(at), BYTES, 0)
        };
        // SAFETY: the block lies in the region, and its file is open. Both stay so until nothing is in flight, or for
        // ever if that cannot be had.
        if let Err(error) = unsafe { transfer(queue.as_mut(), block) } {
            let late = error.kind() == io::ErrorKind::TimedOut;
            if queue.in_flight() > 0 && (late || queue.drain() > 0) {
                mem::forget((queue, region, file));
            }
            no_signal.discard();
            return Err(refused(&format!("a {what} a file in memory failed"), error));
        }
    }
    // SAFETY: both transfers are over, so nothing writes to the region.
    let [written, read] = unsafe { [0, BYTES].map(|at| std::slice::from_raw_parts(region.ptr().add(at), BYTES)) };
    if written != read {
        return Err(Unavailable::new(backend, "what was read back from a file is not what was written to it", None));
    }
    Ok(Capabilities { features: Vec::new(), registered_memory, registered_files })
}

/// Submits and reaps `block`, which must move in full.
///
/// # Safety
///
/// That of [`IoQueue::submit`].
unsafe fn transfer(queue: &mut dyn IoQueue, block: IoBlock) -> io::Result<()> {
    let mut done = Vec::new();
    // SAFETY: the caller's contract is the one of `submit`.
    if unsafe { queue.submit(&[block]) }? != 1 {
        return Err(io::Error::other("an empty queue accepted nothing"));
    }
    queue.reap(1, Some(PATIENCE), &mut done)?;
    let Some(completion) = done.pop() else {
        return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no completion within {PATIENCE:?}")));
    };
    match completion.result? {
        moved if moved == block.len => Ok(()),
        moved => Err(io::Error::other(format!("{moved} of {} bytes moved", block.len))),
    }
}

/// A file that goes when it is closed: in memory, which needs no folder that may be written to, or a temporary one.
fn anonymous_file() -> io::Result<File> {
    // A hardened system (`vm.memfd_noexec`) insists on the second flag, and one before Linux 6.3 does not know it.
    let no_exec = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    for flags in [MFdFlags::MFD_CLOEXEC | no_exec, MFdFlags::MFD_CLOEXEC] {
        if let Ok(file) = memfd_create(c"aio-probe", flags) {
            return Ok(File::from(file));
        }
    }
    File::options().read(true).write(true).custom_flags(libc::O_TMPFILE).open(env::temp_dir())
}

/// What is transferred from and to.
#[derive(Debug)]
struct Pages(Box<UnsafeCell<[u8; 2 * BYTES]>>);

// SAFETY: only `round_trip` touches the bytes, between transfers, on one thread.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}
// SAFETY: a box neither moves nor goes before its owner, and its memory is readable and writable.
unsafe impl RegionMemory for Pages {
    fn ptr(&self) -> *mut u8 {
        self.0.get().cast()
    }

    fn len(&self) -> usize {
        2 * BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Completion, Wake};

    /// A queue that works as asked, up to the fault under test.
    struct Scripted {
        fault: Fault,
        blocks: Vec<IoBlock>,
        naps: usize,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Fault {
        None,
        Sleeping,
        Reaping,
        ShortTransfers,
        NothingMoves,
        NothingCompletes,
    }

    fn queue(fault: Fault) -> Box<dyn IoQueue> {
        Box::new(Scripted { fault, blocks: Vec::new(), naps: 0 })
    }

    struct NoWaker;

    impl Wake for NoWaker {
        fn wake(&self) {}
    }

    impl IoQueue for Scripted {
        fn capacity(&self) -> usize {
            1
        }

        fn in_flight(&self) -> usize {
            self.blocks.len()
        }

        unsafe fn submit(&mut self, blocks: &[IoBlock]) -> io::Result<usize> {
            assert_eq!((self.naps, blocks.len()), (1, 1), "a wait for nothing comes first");
            self.blocks.extend(blocks);
            Ok(1)
        }

        fn reap(&mut self, min: usize, limit: Option<Duration>, done: &mut Vec<Completion>) -> io::Result<()> {
            let refusal = Err(io::Error::from_raw_os_error(libc::EPERM));
            if self.blocks.is_empty() {
                assert!(min == 0 && limit.is_some_and(|limit| !limit.is_zero()), "a wait for nothing, with a limit");
                self.naps += 1;
                return if self.fault == Fault::Sleeping { refusal } else { Ok(()) };
            }
            match self.fault {
                Fault::Reaping => return refusal,
                Fault::NothingCompletes => return Ok(()),
                _ => {}
            }
            for block in self.blocks.drain(..) {
                let result = match (self.fault, block.direction) {
                    (Fault::ShortTransfers, _) => Ok(block.len - 1),
                    (Fault::NothingMoves, _) => Ok(block.len),
                    (_, Direction::Read) => {
                        // SAFETY: the block's memory is valid until its completion was reaped.
                        Ok(unsafe { libc::pread(block.fd, block.ptr.cast(), block.len, 0) }.cast_unsigned())
                    }
                    (_, Direction::Write) => {
                        // SAFETY: as above.
                        Ok(unsafe { libc::pwrite(block.fd, block.ptr.cast(), block.len, 0) }.cast_unsigned())
                    }
                };
                done.push(Completion { token: block.token, result });
            }
            Ok(())
        }

        fn drain(&mut self) -> usize {
            assert_ne!(self.fault, Fault::NothingCompletes, "a wait for a block that does not complete");
            self.blocks.clear();
            0
        }

        fn waker(&self) -> Arc<dyn Wake> {
            Arc::new(NoWaker)
        }
    }

    impl Drop for Scripted {
        fn drop(&mut self) {
            self.drain();
        }
    }

    #[test]
    fn each_fault_has_its_sentence() {
        let outcome = |fault| round_trip("scripted", queue(fault));
        let found = outcome(Fault::None).unwrap();
        assert!(!found.registered_memory && !found.registered_files && found.features.is_empty());
        for (fault, errno, words) in [
            (Fault::Sleeping, Some(libc::EPERM), "a wait for completions failed"),
            (Fault::Reaping, Some(libc::EPERM), "a write to a file in memory failed"),
            (Fault::ShortTransfers, None, "4095 of 4096 bytes moved"),
            (Fault::NothingMoves, None, "not what was written"),
        ] {
            let refusal = outcome(fault).unwrap_err();
            assert_eq!((refusal.backend, refusal.errno), ("scripted", errno), "{refusal}");
            assert!(refusal.reason.contains(words), "{refusal} lacks {words}");
        }
    }

    #[test]
    fn a_queue_that_keeps_a_block_is_leaked_and_not_waited_for() {
        let refusal = round_trip("scripted", queue(Fault::NothingCompletes)).unwrap_err();
        assert!(refusal.reason.contains("no completion within 10s"), "{refusal}");
    }
}
