//! What the process has: for tests of what is left when a handle is gone. Only for a process with one test in it.
#![allow(unreachable_pub, reason = "each test file is a crate")]

/// What lies in a folder of /proc/self, and where its links point.
pub fn entries(folder: &str) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .flatten()
        .map(|entry| {
            let target = std::fs::read_link(entry.path()).unwrap_or_default();
            format!("{} {}", entry.file_name().display(), target.display())
        })
        .collect();
    // The one that lists the folder.
    names.retain(|name| !name.contains("/proc/"));
    names.sort();
    names
}

/// Mappings of kernel queues, of which each has at least one, and bytes of writable memory.
pub fn mapped() -> (usize, usize) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let queues = maps.lines().filter(|line| line.contains("[aio]") || line.contains("io_uring")).count();
    let size = |line: &str| {
        let (from, to) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        usize::from_str_radix(to, 16).unwrap() - usize::from_str_radix(from, 16).unwrap()
    };
    // Address space that the allocator only reserves has no access.
    (queues, maps.lines().filter(|line| line.contains(" rw")).map(size).sum())
}
