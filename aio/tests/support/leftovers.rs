//! What an engine could leave behind: descriptors, threads, mappings of kernel queues, kernel AIO slots, loop devices.
#![allow(unreachable_pub, dead_code, reason = "each test file uses its part")]

use std::fmt::Debug;
use std::fs;
use std::time::{Duration, Instant};

use aio_core::testing::Left;

/// What there is of it at one time.
#[derive(Debug)]
pub struct Leftovers {
    fds: Vec<String>,
    threads: Vec<String>,
    queues: usize,
    aio_slots: u64,
    loops: Vec<String>,
}

impl Leftovers {
    /// What this process has now.
    pub fn now() -> Self {
        Self {
            fds: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
            queues: mapped().0,
            aio_slots: aio_slots(),
            loops: loops(),
        }
    }

    /// Fails unless there is no more now than there was then. What the kernel takes back a little later (threads that
    /// were joined, slots, loop devices) may take a while.
    pub fn assert_nothing_new(&self, what: &str) {
        assert_eq!(entries("/proc/self/fd"), self.fds, "descriptors, {what}");
        assert_eq!(mapped().0, self.queues, "mappings of kernel queues, {what}");
        // Then, one that had ended may still have been there.
        let known = |now: &Vec<String>| now.iter().all(|thread| self.threads.contains(thread));
        settles(what, "threads", || entries("/proc/self/task"), known);
        // Of the whole system: others may use some, too.
        settles(what, "fs.aio-nr", aio_slots, |now| *now <= self.aio_slots);
        settles(what, "loop devices", loops, |now| *now == self.loops);
    }
}

/// Waits for `read` to become `good`, which takes milliseconds; fails after a minute.
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

/// Kernel AIO slots in use on this machine.
pub fn aio_slots() -> u64 {
    fs::read_to_string("/proc/sys/fs/aio-nr").ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// The names in a folder, with what the links among them point to.
pub fn entries(folder: &str) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .flatten()
        .map(|entry| {
            let target = fs::read_link(entry.path()).unwrap_or_default();
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
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let size = |line: &str| {
        let (from, to) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        usize::from_str_radix(to, 16).unwrap() - usize::from_str_radix(from, 16).unwrap()
    };
    // Address space that the allocator only reserves has no access.
    (Left::now().queues, maps.lines().filter(|line| line.contains(" rw")).map(size).sum())
}

/// What the folders of this process's images are called.
pub fn image_prefix() -> String {
    format!("aio-disk-{}-", std::process::id())
}

/// Loop devices on images of this process.
fn loops() -> Vec<String> {
    let prefix = image_prefix();
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let images = devices.filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok());
    let mut images: Vec<_> = images.filter(|image| image.contains(&prefix)).collect();
    images.sort();
    images
}
