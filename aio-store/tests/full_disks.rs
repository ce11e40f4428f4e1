//! Saves for which there is no room, or no folder: a sentence, the old set, and nothing left behind.

#[path = "../../aio/tests/support/disk.rs"]
mod disk;
mod support;

use std::path::Path;
use std::process::Command;

use aio::tensor::{Dtype, SaveOptions, TensorSpec, TensorView};
use aio::{AioHandle, DirectMode};
use aio_testkit::leftovers::settles;
use disk::SmallDisk;
use support::{Generation, PATHS, assert_not_saved, handle, names};

const NO_SPACE: &str = "No space left on device";

/// Saves that cannot succeed, over an old set to a disk of 64 MiB: by index and as one file, direct and
/// through the page cache.
fn each(kind: &str, fail: impl Fn(&AioHandle, &SmallDisk, &Path)) {
    for direct in [DirectMode::Auto, DirectMode::Off] {
        let aio = aio::builder().direct(direct).block_size(64 << 10).build().unwrap();
        for name in PATHS {
            let Some(disk) = SmallDisk::formatted(kind, 64) else { return };
            let path = disk.path().join(name);
            Generation(1).save(&aio, &path).unwrap();
            disk.sync();
            let (before, free) = (names(&disk.path()), disk.free());
            fail(&aio, &disk, &path);
            let _ = std::fs::remove_file(disk.path().join("more"));
            assert_eq!(names(&disk.path()), before, "{kind}, {name}, direct {direct:?}");
            // What was in flight ends in the background.
            let what = format!("{kind}, {name}, direct {direct:?}");
            settles(&what, "free bytes", || (disk.sync(), disk.free()).1, |now| *now == free);
            assert_eq!(Generation::open(&aio, &disk.path()).unwrap(), Generation(1));
            // And with room there is nothing in the way.
            Generation(2).save(&aio, &path).unwrap();
            assert_eq!(Generation::open(&aio, &disk.path()).unwrap(), Generation(2));
            assert_eq!(names(&disk.path()).len(), before.len());
        }
    }
}

/// Takes the room that is left.
fn fill(disk: &Path) {
    // Without fallocate, too. Ends with an error when the disk is full.
    let mut more = std::fs::File::options().create(true).append(true).open(disk.join("more")).unwrap();
    let zeros = vec![0; 64 << 10];
    while std::io::Write::write_all(&mut more, &zeros).is_ok() {}
    for _ in 0..16 {
        let _ = std::io::Write::write_all(&mut more, &zeros[..4096]);
        let _ = std::io::Write::write_all(&mut more, &zeros[..1024]);
    }
    let _ = more.sync_all();
}

fn too_much() -> Vec<(String, Vec<u8>)> {
    (0..10).map(|at| (format!("t{at}"), vec![at; 8 << 20])).collect()
}

#[test]
fn a_full_disk_is_found_before_anything_is_written() {
    each("ext4", |aio, _, path| {
        let specs = too_much().into_iter().map(|(name, bytes)| TensorSpec::new(name, Dtype::U8, [bytes.len()]));
        assert_not_saved(SaveOptions::new().max_shard_size(16 << 20).begin(aio, path, specs), NO_SPACE);
    });
}

#[test]
fn without_fallocate_a_full_disk_is_found_by_a_write() {
    each("ext2", |aio, _, path| {
        let tensors = too_much();
        let views = tensors.iter().map(|(name, bytes)| (name, TensorView::of([bytes.len()], &bytes[..]).unwrap()));
        assert_not_saved(SaveOptions::new().max_shard_size(16 << 20).save(aio, path, views), NO_SPACE);
    });
}

#[test]
fn without_fallocate_a_disk_may_be_full_in_the_end() {
    each("ext2", |aio, disk, path| {
        let writer = Generation(2).write(aio, path).unwrap();
        fill(&disk.path());
        assert_not_saved(writer.finish(), NO_SPACE);
    });
}

#[test]
fn there_may_be_room_for_all_but_the_index() {
    each("ext4", |aio, disk, path| {
        if path.extension().is_some_and(|extension| extension == "json") {
            let writer = Generation(2).write(aio, path).unwrap();
            let disk = disk.path();
            let saved = writer.finish_in_steps(move |step| {
                if step.starts_with("FolderSynced") {
                    fill(&disk)
                }
            });
            assert_not_saved(saved, NO_SPACE);
        }
    });
}

#[test]
fn what_was_allocated_is_there_on_a_full_disk() {
    let Some(disk) = SmallDisk::new(64) else { return };
    let path = disk.path().join(PATHS[1]);
    Generation(1).save(&handle(), &path).unwrap();
    let writer = Generation(2).options().begin(&handle(), &path, Generation(2).specs()).unwrap();
    fill(&disk.path());
    for (name, bytes) in Generation(2).tensors() {
        writer.write(&name, &bytes).unwrap();
    }
    writer.finish().unwrap();
    assert_eq!(Generation::open(&handle(), &disk.path()).unwrap(), Generation(2));
}

#[test]
fn a_folder_that_vanishes_is_a_sentence() {
    for name in PATHS {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("folder");
        std::fs::create_dir(&folder).unwrap();
        let writer = Generation(1).write(&handle(), &folder.join(name)).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_not_saved(writer.finish(), "No such file or directory");
        assert_eq!(names(parent.path()), [""; 0]);
        // And one that never was.
        assert_not_saved(Generation(1).save(&handle(), &folder.join(name)), "No such file or directory");
        assert_eq!(names(parent.path()), [""; 0]);
    }
}

#[test]
fn a_file_system_that_is_read_only_is_a_sentence() {
    for name in PATHS {
        let Some(disk) = SmallDisk::new(64) else { return };
        let path = disk.path().join(name);
        Generation(1).save(&handle(), &path).unwrap();
        let before = names(&disk.path());
        disk.remount("ro");
        assert_not_saved(Generation(2).save(&handle(), &path), "Read-only file system");
        assert_eq!(names(&disk.path()), before);
        assert_eq!(Generation::open(&handle(), &disk.path()).unwrap(), Generation(1));
    }
}

/// Nothing can be renamed or removed in it, so the temporaries stay; the next save of an index removes its own.
#[test]
fn a_folder_that_takes_no_names_any_more_is_a_sentence() {
    for name in PATHS {
        let Some(disk) = SmallDisk::new(64) else { return };
        let folder = disk.path().join("folder");
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join(name);
        Generation(1).save(&handle(), &path).unwrap();
        let before = names(&folder);
        let change = |attribute: &str| {
            let changed = Command::new("chattr").arg(attribute).arg(&folder).status().expect("chattr runs");
            assert!(changed.success());
        };
        let writer = Generation(2).write(&handle(), &path).unwrap();
        change("+i");
        assert_not_saved(writer.finish(), "Operation not permitted");
        assert_not_saved(Generation(2).save(&handle(), &path), "Operation not permitted");
        assert_eq!(Generation::open(&handle(), &folder).unwrap(), Generation(1));
        change("-i");
        assert!(names(&folder).len() > before.len());
        Generation(3).save(&handle(), &path).unwrap();
        assert_eq!(Generation::open(&handle(), &folder).unwrap(), Generation(3));
        if name == PATHS[0] {
            assert_eq!(names(&folder).len(), before.len(), "{:?}", names(&folder));
        }
    }
}
