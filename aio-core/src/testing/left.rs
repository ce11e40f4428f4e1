//! What a process holds of the system.

use std::fs;

/// Counts of what a handle must not leave behind in this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Open file descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Mappings of rings and AIO contexts, and so their kernel slots.
    pub queues: usize,
    /// Mappings that a fork does not copy, which are arenas.
    pub arenas: usize,
}

impl Left {
    /// What is there now, by `/proc/self`.
    pub fn now() -> Self {
        let entries = |path| fs::read_dir(path).map_or(0, Iterator::count);
        let maps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
        let is_queue = |line: &&str| line.contains("[aio]") || line.contains("io_uring");
        let is_arena = |line: &&str| line.starts_with("VmFlags:") && line.split_whitespace().any(|flag| flag == "dc");
        Self {
            descriptors: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
            queues: maps.lines().filter(is_queue).count(),
            arenas: maps.lines().filter(is_arena).count(),
        }
    }

    /// Whether the process holds no more than that now. A thread that was joined may be listed for a moment yet, so
    /// this looks again for a while.
    ///
    /// # Errors
    ///
    /// What has become more, as a sentence.
    pub fn check(&self) -> Result<(), String> {
        for _ in 0..10_000 {
            if fs::read_dir("/proc/self/task").map_or(0, Iterator::count) <= self.threads {
                break;
            }
            std::thread::yield_now();
        }
        let now = Self::now();
        let counts = [
            ("file descriptors", self.descriptors, now.descriptors),
            ("threads", self.threads, now.threads),
            ("mappings of queues", self.queues, now.queues),
            ("arenas", self.arenas, now.arenas),
        ];
        let more = counts.iter().filter(|(_, before, after)| after > before);
        let more: Vec<_> = more.map(|(what, before, after)| format!("{before} {what} became {after}")).collect();
        if more.is_empty() { Ok(()) } else { Err(more.join(", ")) }
    }
}
