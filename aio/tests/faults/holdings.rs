//! What a fault could leave behind, in this process and on this machine.

use std::fs;

use aio_testkit::leftovers::{Leftovers, aio_slots, entries, settles};

use crate::disk::image_prefix;

/// Descriptors, threads, mappings of kernel queues, kernel AIO slots and loop devices at one time.
#[derive(Debug)]
pub(crate) struct Holdings {
    fds: Vec<String>,
    threads: Vec<String>,
    queues: usize,
    aio_slots: u64,
    loops: Vec<String>,
}

impl Holdings {
    /// What this process and this machine have now.
    pub(crate) fn now() -> Self {
        Self {
            fds: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
            queues: Leftovers::now().queues,
            aio_slots: aio_slots(),
            loops: loops(),
        }
    }

    /// Fails unless there is no more now than there was then. What the kernel takes back a little later (threads that
    /// were joined, slots, loop devices) may take a while.
    pub(crate) fn assert_nothing_new(&self, what: &str) {
        assert_eq!(entries("/proc/self/fd"), self.fds, "descriptors, {what}");
        assert_eq!(Leftovers::now().queues, self.queues, "mappings of kernel queues, {what}");
        // Then, one that had ended may still have been there.
        let known = |now: &Vec<String>| now.iter().all(|thread| self.threads.contains(thread));
        settles(what, "threads", || entries("/proc/self/task"), known);
        // Of the whole system: others may use some, too.
        settles(what, "fs.aio-nr", aio_slots, |now| *now <= self.aio_slots);
        settles(what, "loop devices", loops, |now| *now == self.loops);
    }
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
