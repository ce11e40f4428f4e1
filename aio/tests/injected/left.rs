//! What a process holds of the system.

use std::fs;

/// Counts of what a handle must not leave behind.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Left {
    descriptors: usize,
    threads: usize,
    /// Mappings of rings and AIO contexts, and so their slots.
    queues: usize,
    /// Mappings of arenas, which are large and shared with nobody.
    arenas: usize,
}

impl Left {
    pub(crate) fn now() -> Self {
        let entries = |path| fs::read_dir(path).map_or(0, Iterator::count);
        let maps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
        let is_queue = |line: &&str| line.contains("[aio]") || line.contains("io_uring");
        Self {
            descriptors: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
            queues: maps.lines().filter(is_queue).count(),
            // What fork does not copy: nobody else in this process asks for that.
            arenas: maps.lines().filter(|line| line.starts_with("VmFlags:") && line.contains(" dc")).count(),
        }
    }

    /// Whether the process holds the same again. A thread that was joined may be listed for a moment yet.
    pub(crate) fn matches(&self) -> Result<(), String> {
        let mut now = Self::now();
        for _ in 0..10_000 {
            if now.threads <= self.threads {
                break;
            }
            std::thread::yield_now();
            now = Self::now();
        }
        if now == *self { Ok(()) } else { Err(format!("left behind: {self:?} became {now:?}")) }
    }
}
