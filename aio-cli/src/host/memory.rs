//! How much memory a job may take.

use std::fs;

use aio::buf::Arena;

use crate::host::proc;

/// What a job leaves to other processes, and to the engine besides buffers.
const SPARE: u64 = 256 << 20;

/// Bytes that a job can take without swapping or being killed: nearly all available memory, and at most what the engine
/// would take of the machine or of the cgroup (the container).
pub(crate) fn budget() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| mem_available(&text));
    machine.map_or(u64::MAX, |bytes| bytes.saturating_sub(SPARE)).min(Arena::default_limit())
}

/// `MemAvailable`: free memory and page cache that can be dropped.
fn mem_available(meminfo: &str) -> Option<u64> {
    proc::bytes(meminfo, "MemAvailable")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_the_kernel_says() {
        assert_eq!(mem_available("MemTotal: 9000 kB\nMemAvailable:    1000 kB\n"), Some(1_024_000));
        assert_eq!(mem_available("MemTotal: 9000 kB\n"), None);
        assert!(budget() <= Arena::default_limit());
    }
}
