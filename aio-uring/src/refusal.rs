//! Why there is no queue, and what can be done about it: the error of a system call as a sentence for a user.

use std::fs;
use std::io;

use aio_core::backend::Unavailable;

use crate::NAME;

/// The sentence for a failed `io_uring_setup`.
pub(crate) fn of_setup(error: &io::Error) -> Unavailable {
    let sysctl = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    Unavailable::new(NAME, explain(error, sysctl.trim()), Some(error))
}

/// The sentence for `call`, which a queue needs so that it can be woken.
pub(crate) fn of_waker(call: &str, error: &io::Error) -> Unavailable {
    Unavailable::new(NAME, format!("{call} for the waker of a queue failed: {error}"), Some(error))
}

/// `disabled`: what the sysctl `kernel.io_uring_disabled` says; empty if there is none.
pub(crate) fn explain(error: &io::Error, disabled: &str) -> String {
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
