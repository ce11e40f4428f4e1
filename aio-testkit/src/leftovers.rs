//! What a process holds of the system, so that a test can tell what a handle left behind.

use std::fmt::Debug;
use std::fs;
use std::time::{Duration, Instant};

/// Counts of what a handle must not leave behind in this process, at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftovers {
    /// Open file descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Mappings of rings and AIO contexts, and so their kernel slots.
    pub queues: usize,
    /// Mappings that a fork does not copy, which are arenas.
    pub arenas: usize,
}

impl Leftovers {
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

    /// Fails if the process holds more now than it did then.
    ///
    /// The kernel may list a thread for a moment after it was joined, so this looks again for a while.
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

/// Waits until what `read` returns is `good`, at most a minute.
///
/// # Panics
///
/// After that minute, with `what` was done, the `name` of what was read and its last value.
pub fn settles<T: Debug>(what: &str, name: &str, read: impl Fn() -> T, good: impl Fn(&T) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let now = read();
        if good(&now) {
            return;
        }
        assert!(Instant::now() < deadline, "{name}, {what}: {now:?}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Kernel AIO slots in use on this machine (`fs.aio-nr`); 0 where the kernel has none.
pub fn aio_slots() -> u64 {
    fs::read_to_string("/proc/sys/fs/aio-nr").ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// The names in a folder, each with what it points to if it is a link; the descriptor that lists the folder is left out.
///
/// # Panics
///
/// If the folder cannot be read.
pub fn entries(folder: &str) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{folder}: {error}"))
        .flatten()
        .map(|entry| {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            format!("{} {}", entry.file_name().display(), target.display())
        })
        .collect();
    names.retain(|name| !name.contains("/proc/"));
    names.sort();
    names
}

/// Bytes of writable memory that this process has mapped. Address space that an allocator only reserves has no access
/// and does not count.
///
/// # Panics
///
/// Where `/proc` is not mounted.
pub fn writable_memory() -> usize {
    let maps = fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
    let size = |line: &str| {
        let (from, to) = line.split_once(' ')?.0.split_once('-')?;
        Some(usize::from_str_radix(to, 16).ok()? - usize::from_str_radix(from, 16).ok()?)
    };
    maps.lines().filter(|line| line.contains(" rw")).filter_map(size).sum()
}
