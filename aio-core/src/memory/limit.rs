//! How much memory this process can have.

use std::fs;
use std::path::{Component, Path};

/// Where the cgroup hierarchies are mounted: v2 alone, v2 beside v1, v1's memory controller.
const MOUNTS: [(&str, Version); 3] = [
    ("/sys/fs/cgroup", Version::V2),
    ("/sys/fs/cgroup/unified", Version::V2),
    ("/sys/fs/cgroup/memory", Version::V1),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// Bytes: the machine's memory, or the limit of this process's cgroups if that is less.
pub(super) fn available() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|meminfo| mem_total(&meminfo));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = MOUNTS.iter().filter_map(|&(mount, version)| group_limit(&groups, Path::new(mount), version));
    // A Linux without /proc does not say; the kernel will, when memory is mapped.
    machine.into_iter().chain(limits).min().unwrap_or(u64::MAX)
}

/// `MemTotal` of proc_meminfo(5), in bytes.
fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1024)
}

/// The smallest limit on the way from the process's group up to the mount's root; see cgroups(7).
///
/// Inside a container the path may be the host's, with only its end (or nothing) of it mounted: what does not exist
/// sets no limit, and the root is always looked at.
fn group_limit(groups: &str, mount: &Path, version: Version) -> Option<u64> {
    let path = groups.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let ours = match version {
            Version::V1 => controllers.split(',').any(|name| name == "memory"),
            Version::V2 => controllers.is_empty(),
        };
        ours.then_some(path)
    })?;
    let file = match version {
        Version::V1 => "memory.limit_in_bytes",
        Version::V2 => "memory.max",
    };
    // A group outside the namespace's root is shown with leading "/..", where nothing can be read.
    let inside = !Path::new(path).components().any(|part| part == Component::ParentDir);
    let group = mount.join(if inside { path.trim_start_matches('/') } else { "" });
    // "max", v2's word for no limit, is not a number.
    let limit = |group: &Path| fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
    group.ancestors().take_while(|group| group.starts_with(mount)).filter_map(limit).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_the_machine() {
        assert_eq!(mem_total("MemFree: 1 kB\nMemTotal:       24684084 kB\n"), Some(24_684_084 * 1024));
        for bad in ["", "MemTotal: many kB", "MemTotal: 1 pages", "MemTotal: 18446744073709551615 kB"] {
            assert_eq!(mem_total(bad), None, "{bad}");
        }
        let available = available();
        assert!(available > 1 << 20 && available < u64::MAX, "{available}");
    }

    #[test]
    fn the_smallest_limit_up_to_the_root_counts() {
        let mount = tempfile::tempdir().unwrap();
        let (root, inner) = (mount.path(), mount.path().join("a/b"));
        fs::create_dir_all(&inner).unwrap();
        let v2 = |path: &str| group_limit(&format!("3:cpu:/x\n0::{path}\n"), root, Version::V2);
        assert_eq!(v2("/a/b"), None);
        fs::write(inner.join("memory.max"), "max\n").unwrap();
        assert_eq!(v2("/a/b"), None);
        fs::write(root.join("a/memory.max"), "4096000\n").unwrap();
        assert_eq!(v2("/a/b"), Some(4_096_000));
        fs::write(inner.join("memory.max"), "8192000\n").unwrap();
        assert_eq!(v2("/a/b"), Some(4_096_000));
        assert_eq!(v2("/elsewhere/c"), None);
        fs::write(root.join("memory.max"), "1000000\n").unwrap();
        for path in ["/a/b", "/", "/elsewhere/c", "/../../outside"] {
            assert_eq!(v2(path), Some(1_000_000), "{path}");
        }
        assert_eq!(group_limit("3:cpu:/a\n", root, Version::V2), None);
    }

    #[test]
    fn version_1_goes_by_its_controller() {
        let mount = tempfile::tempdir().unwrap();
        fs::create_dir(mount.path().join("job")).unwrap();
        fs::write(mount.path().join("memory.limit_in_bytes"), "9223372036854771712\n").unwrap();
        fs::write(mount.path().join("job/memory.limit_in_bytes"), "65536\n").unwrap();
        let v1 = |groups| group_limit(groups, mount.path(), Version::V1);
        assert_eq!(v1("4:cpu,memory:/job\n0::/\n"), Some(65536));
        assert_eq!(v1("4:memory:/\n"), Some(9_223_372_036_854_771_712));
        assert_eq!(v1("4:cpu:/job\n0::/job\n"), None);
    }
}
