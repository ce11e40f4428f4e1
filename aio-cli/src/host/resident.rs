//! How much memory the process holds, and its peak, as the kernel counts pages (`VmRSS` and `VmHWM` of
//! proc_pid_status(5)).

use std::fs;

use serde::Serialize;

use crate::host::proc;

/// The memory of a stretch of work, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Allocated by the command for the data that moves.
    pub buffer_bytes: u64,
    /// The peak of resident memory during the stretch.
    pub peak_rss_bytes: u64,
    /// The peak without the buffers and without what was resident before. The kernel's counts are approximate, so a
    /// value near zero can be negative.
    pub beyond_bytes: i64,
}

/// Watches the peak. The kernel keeps one per process, so only one of these at a time.
#[derive(Debug)]
pub struct PeakWatch {
    before: Option<Resident>,
}

/// In bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Resident {
    now: u64,
    peak: u64,
}

impl PeakWatch {
    /// Starts to watch.
    pub fn start() -> Self {
        // Resets the peak to what is resident now (proc_pid_clear_refs(5)). Some kernels and sandboxes lack it;
        // `Memory::between` then sees whether the peak falls into this stretch.
        let _ = fs::write("/proc/self/clear_refs", "5");
        Self { before: Resident::of_process() }
    }

    /// The memory since the start, of which `buffer_bytes` are buffers. `None` where the kernel does not report it.
    pub fn stop(&self, buffer_bytes: u64) -> Option<Memory> {
        Memory::between(self.before?, Resident::of_process()?, buffer_bytes)
    }
}

impl Memory {
    /// `None` if the peak may be from before the stretch.
    fn between(before: Resident, after: Resident, buffer_bytes: u64) -> Option<Self> {
        if after.peak <= before.peak && before.peak > before.now {
            return None;
        }
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let beyond_bytes = signed(after.peak) - signed(before.now) - signed(buffer_bytes);
        Some(Self { buffer_bytes, peak_rss_bytes: after.peak, beyond_bytes })
    }
}

impl Resident {
    fn of_process() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/self/status").ok()?)
    }

    fn parse(status: &str) -> Option<Self> {
        Some(Self { now: proc::bytes(status, "VmRSS")?, peak: proc::bytes(status, "VmHWM")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn resident(now: u64, peak: u64) -> Resident {
        Resident { now: now * MIB, peak: peak * MIB }
    }

    #[test]
    fn it_is_what_the_kernel_says() {
        let status = "Name:\tx\nVmHWM:\t    9000 kB\nVmRSS:\t    1000 kB\n";
        assert_eq!(Resident::parse(status), Some(Resident { now: 1_024_000, peak: 9_216_000 }));
        assert_eq!(Resident::parse("VmRSS:\t    1000 kB\n"), None);
        assert!(Resident::of_process().is_some_and(|resident| resident.now > 0 && resident.peak >= resident.now));
    }

    #[test]
    fn what_was_there_before_and_the_buffers_do_not_count() {
        let memory = Memory::between(resident(10, 10), resident(12, 145), 128 * MIB).unwrap();
        assert_eq!((memory.peak_rss_bytes, memory.beyond_bytes), (145 * MIB, 7 << 20));
        let below = Memory::between(resident(10, 10), resident(12, 137), 128 * MIB).unwrap();
        assert_eq!(below.beyond_bytes, -(1 << 20));
    }

    #[test]
    fn a_peak_of_earlier_times_is_no_answer() {
        assert_eq!(Memory::between(resident(10, 500), resident(12, 500), MIB), None);
        let higher = Memory::between(resident(10, 500), resident(12, 501), MIB).unwrap();
        assert_eq!(higher.peak_rss_bytes, 501 * MIB);
    }
}
