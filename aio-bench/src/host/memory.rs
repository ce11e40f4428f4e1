//! How much memory can still be taken.

use std::fs;

use aio::Arena;

/// Bytes that can be taken without swapping or being killed: what the machine has available, and no more than the
/// engine would take of the machine or of the cgroup (the container).
pub(crate) fn available() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| mem_available(&text));
    machine.unwrap_or(u64::MAX).min(Arena::default_limit())
}

/// `MemAvailable`: free memory and page cache that can be dropped.
fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_the_kernel_says() {
        assert_eq!(mem_available("MemTotal: 9000 kB\nMemAvailable:    1000 kB\n"), Some(1_024_000));
        assert_eq!(mem_available("MemTotal: 9000 kB\n"), None);
        assert!(available() > 0);
    }
}
