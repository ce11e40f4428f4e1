//! Is io_uring available here, and if not, what can be done about it.
//!
//! Only doing it tells: container runtimes filter the system calls of kernels that have them, and what a kernel
//! accepts on an empty file it may refuse on one with data.

use std::cell::UnsafeCell;
use std::fs::{self, File};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use aio_core::{
    Capabilities, Direction, FileId, IoBlock, IoQueue, QueueConfig, Region, RegionId, RegionMemory, Unavailable,
};

use crate::NAME;
use crate::queue::UringQueue;
use crate::setup::Rung;

/// Bytes that the probe writes and reads back.
const BYTES: usize = 4096;
/// Far longer than a transfer within memory takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens a queue, writes a file in memory through it and reads it back.
pub(crate) fn probe(ladder: &[Rung]) -> Result<Capabilities, Unavailable> {
    let mut config = QueueConfig::new(1);
    config.regions = 1;
    config.files = 1;
    let mut queue = UringQueue::open(ladder, &config).map_err(|error| refused_setup(&error))?;
    let region = Region::new(RegionId(0), Arc::new(Pages(Box::new(UnsafeCell::new([0x5a; 2 * BYTES])))));
    let outcome = write_and_read_back(&mut queue, &region);
    if queue.in_flight() > 0 {
        // The kernel kept a block: dropping the queue would wait for it, perhaps for ever.
        mem::forget((queue, region));
    }
    outcome.map_err(|error| {
        Unavailable::new(NAME, format!("io_uring was set up, but its first transfer failed: {error}"), Some(&error))
    })
}

fn write_and_read_back(queue: &mut UringQueue, region: &Region) -> io::Result<Capabilities> {
    let file = memory_file()?;
    let id = FileId { slot: 0, generation: 0 };
    let mut capabilities = Capabilities::default();
    capabilities.features = queue.ring.features();
    capabilities.registered_memory = queue.add_region(region).is_ok();
    capabilities.registered_files = queue.add_file(id, file.as_fd()).is_ok();
    let registered =
        [("REGISTER_BUFFERS", capabilities.registered_memory), ("REGISTER_FILES", capabilities.registered_files)];
    capabilities.features.extend(registered.into_iter().filter(|(_, used)| *used).map(|(name, _)| name.to_string()));

    // SAFETY: the memory of the region is this function's alone until a transfer is submitted.
    unsafe { region.ptr().write_bytes(0xa5, BYTES) };
    for (direction, at) in [(Direction::Write, 0), (Direction::Read, BYTES)] {
        let block = IoBlock {
            token: 0,
            direction,
            fd: file.as_raw_fd(),
            file: Some(id),
            region: Some(region.id()),
            ptr: region.ptr().wrapping_add(at),
            len: BYTES,
            offset: 0,
        };
        // SAFETY: the block lies in the region, which `probe` drops after the queue, or leaks with a block in flight.
        // The kernel holds a reference of its own to the file of a request that it took.
        unsafe { queue.submit(&[block]) }?;
        let mut done = Vec::new();
        queue.reap(1, Some(PATIENCE), &mut done)?;
        match done.pop().map(|completion| completion.result) {
            Some(Ok(BYTES)) => {}
            Some(Ok(bytes)) => return Err(io::Error::other(format!("{bytes} of {BYTES} bytes moved"))),
            Some(Err(error)) => return Err(error),
            None => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
    // SAFETY: both transfers are over, so nobody writes to the region.
    let [written, read] = unsafe { [0, BYTES].map(|at| std::slice::from_raw_parts(region.ptr().add(at), BYTES)) };
    if written != read {
        return Err(io::Error::other("what was read back is not what was written"));
    }
    Ok(capabilities)
}

fn memory_file() -> io::Result<File> {
    // SAFETY: the name is a C string that outlives the call.
    let fd = unsafe { libc::memfd_create(c"aio-uring-probe".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that was just made, and that nobody else owns.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// What the probe transfers from and to.
#[derive(Debug)]
struct Pages(Box<UnsafeCell<[u8; 2 * BYTES]>>);

// SAFETY: only `write_and_read_back` touches the bytes, between transfers, on one thread.
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

/// Why a queue could not be opened, and the remedy, in one sentence.
pub(crate) fn refused_setup(error: &io::Error) -> Unavailable {
    let sysctl = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    Unavailable::new(NAME, explain(error, sysctl.trim()), Some(error))
}

/// `disabled`: what the sysctl `kernel.io_uring_disabled` says; empty if there is none.
fn explain(error: &io::Error, disabled: &str) -> String {
    match (error.raw_os_error(), disabled) {
        (Some(libc::EPERM), "2") => {
            "the sysctl kernel.io_uring_disabled=2 turns io_uring off for every process (EPERM); \
             set it to 0 to allow it"
                .to_string()
        }
        (Some(libc::EPERM), "1") => {
            "the sysctl kernel.io_uring_disabled=1 keeps io_uring from this process (EPERM); \
             set it to 0, or join the group of kernel.io_uring_group, or grant CAP_SYS_ADMIN"
                .to_string()
        }
        (Some(libc::EPERM | libc::EACCES), _) => format!(
            "a seccomp filter or security module, such as a container runtime's default profile, forbids \
             io_uring_setup ({error}); run with a profile that allows io_uring_setup, io_uring_enter and \
             io_uring_register"
        ),
        (Some(libc::ENOSYS), _) => "the kernel, or a filter that hides it, has no io_uring (ENOSYS); it needs \
             Linux 5.6 or later with CONFIG_IO_URING"
            .to_string(),
        (Some(libc::EINVAL), _) => "the kernel refused every way to set a ring up that this backend knows (EINVAL); \
             it needs Linux 5.6 or later"
            .to_string(),
        (Some(libc::ENOMEM), _) => "there is not enough memory that may be locked for a ring (ENOMEM); raise \
             RLIMIT_MEMLOCK (ulimit -l) or the memory limit of the control group, or lower the queue depth"
            .to_string(),
        (Some(libc::EMFILE | libc::ENFILE), _) => {
            format!("no file descriptor is left for a ring ({error}); close files or raise RLIMIT_NOFILE (ulimit -n)")
        }
        _ => format!("io_uring could not be set up: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_names_its_remedy() {
        let text = |errno, disabled| explain(&io::Error::from_raw_os_error(errno), disabled);
        assert!(text(libc::EPERM, "2").contains("io_uring_disabled=2"));
        assert!(text(libc::EPERM, "1").contains("io_uring_group"));
        for no_sysctl in ["0", ""] {
            assert!(text(libc::EPERM, no_sysctl).contains("seccomp"));
        }
        assert!(text(libc::ENOSYS, "0").contains("Linux 5.6"));
        assert!(text(libc::ENOMEM, "0").contains("RLIMIT_MEMLOCK"));
        assert!(text(libc::EMFILE, "0").contains("RLIMIT_NOFILE"));
        for errno in [libc::EPERM, libc::ENOSYS, libc::EINVAL, libc::ENOMEM, libc::EIO] {
            let text = text(errno, "0");
            assert!(!text.ends_with('.') && !text.contains("  ") && !text.contains('\n'), "one sentence: {text}");
        }
    }
}
