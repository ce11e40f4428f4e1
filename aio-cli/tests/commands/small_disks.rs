//! Folders on file systems that are small, full, read-only, or no disk at all. Needs root to mount them.

use std::fs;

use serde_json::Value;

use crate::support::bench::Bench;
use crate::support::disk::SmallDisk;
use crate::support::refused::{assert_full_disk_is_told, assert_refused_on, names};
use crate::support::schema::assert_valid;

#[test]
fn files_in_memory_are_tuned_for_and_said_to_be_no_device() {
    for kind in ["tmpfs", "ramfs"] {
        let Some(disk) = SmallDisk::in_memory(kind) else { return };
        let path = disk.path();
        let line = format!("tune {} --size 8M --runtime 3", path.display());
        let result: Value = Bench::new().json(&format!("{line} --json"));
        assert_valid("tune", &result);
        let folder = &result["folders"][0];
        assert_eq!((&folder["file_system"], folder["file_bytes"].as_u64()), (&kind.into(), Some(8 << 20)));
        assert!(folder["best"].is_object() && folder["refused"].as_array().unwrap().is_empty(), "{folder:#}");
        if kind == "ramfs" {
            assert_eq!(folder["direct_io"], false);
            let buffered = |trial: &Value| trial["config"]["direct"] == "off";
            assert!(!folder["trials"].as_array().unwrap().iter().any(buffered), "all are: {folder:#}");
        }
        let note = format!("{} is on {kind}: its files lie in memory", path.display());
        assert!(result["notes"][0].as_str().unwrap().starts_with(&note), "{result:#}");
        assert_eq!(names(&disk), Vec::<String>::new());
    }
}

#[test]
fn what_does_not_fit_is_refused_before_the_first_byte() {
    let Some(disk) = SmallDisk::new(8) else { return };
    let needed = ["MiB free", "are needed"];
    for line in ["tune DISK --size 16M --runtime 2", "swap --tensors 2 --tensor-size 4M --dir DISK"] {
        assert_refused_on(&disk, line, &needed);
    }
    // Both folders are on the same disk.
    for name in ["a", "b"] {
        fs::create_dir(disk.path().join(name)).unwrap();
    }
    let line = "tune DISK/a DISK/b --size 3M --runtime 2".replace("DISK", disk.path().to_str().unwrap());
    assert!(Bench::new().refused(&line, 1).contains("are needed"));
    for name in ["a", "b"] {
        fs::remove_dir(disk.path().join(name)).unwrap();
    }
    let fits = format!("tune {} --size 2M --runtime 1 --json", disk.path().display());
    assert_eq!(Bench::new().json(&fits)["folders"][0]["file_bytes"], 2 << 20);
    assert_eq!(names(&disk), Vec::<String>::new());
}

#[test]
fn a_full_disk_is_told() {
    assert_full_disk_is_told("tune DISK --size 1M --runtime 1");
}

#[test]
fn a_disk_that_is_mounted_read_only_is_told() {
    let Some(disk) = SmallDisk::new(8) else { return };
    disk.remount("ro");
    let words = ["mount", "Read-only file system"];
    for line in [
        "tune DISK --size 1M --runtime 1",
        "tune . --size 1M --runtime 1 --write DISK/aio.json",
        "swap --tensors 2 --tensor-size 4K --dir DISK",
    ] {
        assert_refused_on(&disk, line, &words);
    }
}
