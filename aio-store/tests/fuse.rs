//! Saves to file systems that lack something: each says so, and nothing is lost.
#![allow(unreachable_pub, dead_code, reason = "it uses a part of what it shares with other crates")]

mod support;
#[path = "../../aio/tests/faults/troubled_fs.rs"]
mod troubled_fs;

use std::path::Path;

use aio::AioHandle;
use aio::tensor::{Error, Result};
use support::{Generation, PATHS, assert_not_saved, names};
use troubled_fs::{How, TroubledFs};

/// A file system with an old set, by index and as one file.
fn each(test: impl Fn(&AioHandle, &TroubledFs, &Path, bool)) {
    for bypass_cache in [false, true] {
        for name in PATHS {
            let Some(fs) = TroubledFs::mount(How { bypass_cache, at_once: true }) else { return };
            let path = fs.path(name);
            // Of its own: when it is closed, none of its queues has a file open here.
            let aio = aio::builder().block_size(64 << 10).build().unwrap();
            Generation(1).save(&aio, &path).unwrap();
            test(&aio, &fs, &path, name == PATHS[0]);
            // And when it has all again.
            fs.refuse_replacing(0);
            fs.refuse_chmod(0);
            fs.refuse_folder_syncs(0, 0);
            Generation(9).save(&aio, &path).unwrap();
            is_there(&aio, &fs, 9);
            assert_eq!(names(&fs.path("")).len(), if name == PATHS[0] { 4 } else { 1 });
            aio.close().unwrap();
        }
    }
}

#[track_caller]
fn is_there(aio: &AioHandle, fs: &TroubledFs, generation: u64) {
    assert_eq!(Generation::open(aio, &fs.path("")).unwrap(), Generation(generation));
}

#[test]
#[ignore = "needs root: .ci/faults"]
fn a_file_system_that_replaces_nothing() {
    each(|aio, fs, path, _| {
        let before = names(&fs.path(""));
        fs.refuse_replacing(libc::EEXIST);
        for durable in [true, false] {
            let saved = Generation(2).save_durable(aio, path, durable);
            assert_not_saved(saved, "File exists");
            assert_eq!(names(&fs.path("")), before);
            is_there(aio, fs, 1);
        }
    });
}

#[test]
#[ignore = "needs root: .ci/faults"]
fn a_file_system_without_permissions() {
    each(|aio, fs, path, _| {
        let before = names(&fs.path(""));
        fs.refuse_chmod(libc::EPERM);
        assert_not_saved(Generation(2).save(aio, path), "Operation not permitted");
        assert_eq!(names(&fs.path("")), before);
        is_there(aio, fs, 1);
    });
}

#[test]
#[ignore = "needs root: .ci/faults"]
fn a_file_system_that_syncs_no_folders() {
    each(|aio, fs, path, is_index| {
        let before = names(&fs.path(""));
        fs.refuse_folder_syncs(libc::EINVAL, 0);
        let saved = Generation(2).save(aio, path);
        if is_index {
            // The index must not be on the device before the files are.
            assert_not_saved(saved, "Invalid argument");
            assert_eq!(names(&fs.path("")), before);
            is_there(aio, fs, 1);
            // The files are three.
            fs.refuse_folder_syncs(libc::EINVAL, 3);
            not_durable(Generation(2).save(aio, path));
            // Those of the old one may be needed after a power failure.
            assert!(before.iter().all(|name| names(&fs.path("")).contains(name)));
        } else {
            not_durable(saved);
        }
        is_there(aio, fs, 2);
        // What asks for nothing durable is none the worse.
        fs.refuse_folder_syncs(libc::EINVAL, 0);
        Generation(3).save_durable(aio, path, false).unwrap();
        is_there(aio, fs, 3);
    });
}

#[track_caller]
fn not_durable(saved: Result<()>) {
    let error = saved.unwrap_err();
    assert!(matches!(error, Error::NotDurable { .. }), "{error}");
    let sentence = error.to_string();
    assert!(
        sentence.contains("is saved, but after a power failure") && sentence.contains("Invalid argument"),
        "{sentence}"
    );
}

#[test]
#[ignore = "needs root: .ci/faults"]
fn a_sync_of_a_file_that_fails() {
    each(|aio, fs, path, _| {
        let before = names(&fs.path(""));
        fs.fail_sync(libc::EIO);
        assert_not_saved(Generation(2).save(aio, path), "Input/output error");
        assert_eq!(names(&fs.path("")), before);
        is_there(aio, fs, 1);
    });
}
