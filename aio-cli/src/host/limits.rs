//! Kernel limits and settings that decide what a backend can do.

use std::fs;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

/// How much memory the process may lock; it bounds what io_uring can register.
#[derive(Debug, Serialize)]
pub(crate) struct Memlock {
    /// Bytes, soft limit; `null`: no limit.
    pub(crate) soft: Option<u64>,
    /// Bytes, hard limit; `null`: no limit.
    pub(crate) hard: Option<u64>,
    /// The process has CAP_IPC_LOCK, so the limit does not apply.
    pub(crate) exempt: bool,
}

/// `RLIMIT_MEMLOCK`.
pub(crate) fn memlock() -> Option<Memlock> {
    let Limit { soft, hard } = limit(Resource::RLIMIT_MEMLOCK)?;
    Some(Memlock { soft, hard, exempt: has_ipc_lock() && in_first_user_namespace() })
}

/// A resource limit of the process, `getrlimit(2)`.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Limit {
    /// The limit in force; `null`: no limit.
    pub(crate) soft: Option<u64>,
    /// The most that the process may raise it to; `null`: no limit.
    pub(crate) hard: Option<u64>,
}

/// `RLIMIT_NOFILE`, in descriptors.
pub(crate) fn open_files() -> Option<Limit> {
    limit(Resource::RLIMIT_NOFILE)
}

/// `RLIMIT_FSIZE`, in bytes.
pub(crate) fn file_size() -> Option<Limit> {
    limit(Resource::RLIMIT_FSIZE)
}

fn limit(resource: Resource) -> Option<Limit> {
    let bounded = |value| (value != RLIM_INFINITY).then_some(value);
    let (soft, hard) = getrlimit(resource).ok()?;
    Some(Limit { soft: bounded(soft), hard: bounded(hard) })
}

/// The kernel asks for CAP_IPC_LOCK in the first user namespace; a rootless container has it in its own only, so the
/// limit binds it. The first namespace maps every id to itself, user_namespaces(7).
fn in_first_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map");
    // A kernel without user namespaces has no such file.
    map.map_or(true, |map| map.split_whitespace().eq(["0", "0", "4294967295"]))
}

/// Whether CAP_IPC_LOCK is among the effective capabilities.
fn has_ipc_lock() -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> CAP_IPC_LOCK & 1 == 1)
}

/// Slots for Linux AIO, shared by the whole machine.
#[derive(Debug, Serialize)]
pub(crate) struct AioSlots {
    /// In use.
    pub(crate) nr: u64,
    /// The limit.
    pub(crate) max_nr: u64,
}

/// `fs.aio-nr` and `fs.aio-max-nr`.
pub(crate) fn aio_slots() -> Option<AioSlots> {
    Some(AioSlots { nr: setting("/proc/sys/fs/aio-nr")?, max_nr: setting("/proc/sys/fs/aio-max-nr")? })
}

/// `kernel.io_uring_disabled`: 0 allows all, 1 privileged processes only, 2 none. `None` before Linux 6.6.
pub(crate) fn io_uring_disabled() -> Option<u64> {
    setting("/proc/sys/kernel/io_uring_disabled")
}

/// When the kernel uses transparent huge pages: `always`, `madvise` (on request, which this library makes) or `never`.
pub(crate) fn transparent_huge_pages() -> Option<String> {
    let text = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok()?;
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(chosen, _)| chosen.to_owned())
}

/// Bytes of a huge page.
pub(crate) fn huge_page_size() -> Option<u64> {
    setting("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
}

/// Bytes of a page.
pub fn page_size() -> u64 {
    let size = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(4096)
}

/// `uname -r`.
pub fn kernel_release() -> Option<String> {
    Some(fs::read_to_string("/proc/sys/kernel/osrelease").ok()?.trim().to_owned())
}

fn setting(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_linux_has_is_found() {
        assert!(page_size() >= 4096 && page_size().is_power_of_two());
        assert!(kernel_release().is_some_and(|release| !release.is_empty() && !release.contains('\n')));
        assert!(memlock().is_some() && open_files().is_some() && file_size().is_some());
    }

    #[test]
    fn what_is_missing_is_none() {
        assert_eq!(setting("/proc/sys/no such setting"), None);
    }
}
