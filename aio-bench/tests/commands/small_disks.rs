//! Folders on file systems that are small, full, read-only, or no disk at all. Needs root to mount them.

use std::fs;

use crate::support::bench::Bench;
use crate::support::disk::SmallDisk;
use crate::support::refused::{assert_refused_on, names};

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
    let Some(disk) = SmallDisk::new(8) else { return };
    let filler = disk.path().join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    let full = std::io::copy(&mut std::io::repeat(1), &mut file).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let line = "run --op write --file DISK/new --size 1M".replace("DISK", disk.path().to_str().unwrap());
    let sentence = Bench::new().refused(&line, 1);
    assert!(sentence.contains("0 B free, and 2.0 MiB are needed"), "{sentence}");
    assert_eq!(names(&disk), ["filler"]);
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
