//! Why there is no queue: the error of a system call as a sentence for a user.

use std::fs;
use std::io;

use aio_core::backend::Unavailable;

use crate::NAME;

/// The sentence for a failed `io_setup(requests)`.
pub(crate) fn of_setup(requests: u32, error: &io::Error) -> Unavailable {
    let reason = match error.raw_os_error() {
        Some(libc::EAGAIN) => no_slots(requests, setting("aio-nr"), setting("aio-max-nr")),
        Some(libc::ENOSYS) => {
            "the kernel has no native AIO (built without CONFIG_AIO, or hidden by a seccomp filter): io_setup failed \
             with ENOSYS"
                .to_owned()
        }
        Some(libc::EPERM | libc::EACCES) => {
            format!("io_setup was refused, as by the seccomp filter of a container: {error}")
        }
        _ => format!("io_setup for {requests} requests failed: {error}"),
    };
    Unavailable::new(NAME, reason, Some(error))
}

/// The sentence for `call`, which a queue needs so that it can be woken.
pub(crate) fn of_waker(call: &str, error: &io::Error) -> Unavailable {
    Unavailable::new(NAME, format!("{call} for the waker of a queue failed: {error}"), Some(error))
}

/// EAGAIN: the system-wide limit. The figures are read after the fact, so they may have moved since.
pub(crate) fn no_slots(requests: u32, used: Option<u64>, most: Option<u64>) -> String {
    let (Some(used), Some(most)) = (used, most) else {
        return format!(
            "io_setup for {requests} requests failed with EAGAIN: the system's requests (fs.aio-max-nr) are used up; \
             raise the limit with `sysctl -w fs.aio-max-nr=1048576` or lower the queue depth"
        );
    };
    // Any number may have been written to the limit.
    let enough = used.saturating_add(requests.into()).max(most.saturating_mul(2));
    let enough = enough.checked_next_power_of_two().unwrap_or(u64::MAX);
    format!(
        "io_setup for {requests} requests failed with EAGAIN: fs.aio-nr is {used} of fs.aio-max-nr {most}; raise the \
         limit with `sysctl -w fs.aio-max-nr={enough}`, lower the queue depth or the number of workers, or stop other \
         users of AIO"
    )
}

/// A number in `/proc/sys/fs`.
pub(crate) fn setting(name: &str) -> Option<u64> {
    fs::read_to_string(format!("/proc/sys/fs/{name}")).ok()?.trim().parse().ok()
}
