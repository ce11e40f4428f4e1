//! Folders on file systems that are small, full, read-only, or no disk at all. Needs root to mount them.

use crate::support::disk::SmallDisk;
use crate::support::refused::{assert_full_disk_is_told, assert_refused_on, names};

#[test]
fn what_does_not_fit_is_refused_before_the_first_byte() {
    let Some(disk) = SmallDisk::new(8) else { return };
    let needed = ["MiB free", "are needed"];
    for line in ["compare --size 8M --only read --dir DISK", "run --op write --file DISK/new --size 16M"] {
        assert_refused_on(&disk, line, &needed);
    }
    assert_eq!(names(&disk), Vec::<String>::new());
}

#[test]
fn a_full_disk_is_told() {
    assert_full_disk_is_told("run --op write --file DISK/new --size 1M");
}

#[test]
fn a_disk_that_is_mounted_read_only_is_told() {
    let Some(disk) = SmallDisk::new(8) else { return };
    disk.remount("ro");
    let words = ["mount", "Read-only file system"];
    for line in ["compare --size 1M --only read --dir DISK", "run --op write --file DISK/new --size 1M"] {
        assert_refused_on(&disk, line, &words);
    }
}
