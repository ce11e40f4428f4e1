//! What happens when the machine fails: real faults of real disks, limits, signals and processes, on every backend.
//!
//! Needs root, changes settings of the whole machine for moments, and wants no other test beside it, so it runs by one
//! command: `.ci/faults`. What came out is in `docs/reliability.md`.
//!
//! A test asserts that the op fails that should, with an error that names the file, the place and the reason; that the
//! others do not; that the bytes on disk are right; that handle and files work on; and that nothing is left behind.

#[path = "../support/disk.rs"]
mod disk;
#[path = "../support/pages.rs"]
mod pages;
#[path = "../support/mod.rs"]
mod support;

mod changing_files;
mod file_size_limit;
mod file_systems;
mod forks;
mod full_disk;
mod fuse;
mod holdings;
mod huge_pages;
mod kills;
mod limits;
mod lost_sectors;
mod no_threads;
mod refused;
mod signals;
mod sysctl;
mod troubled_fs;
mod workload;

use aio::error::OpKind;
use aio::{AioHandle, Backend, Builder, DirectMode, Error};
use holdings::Holdings;

/// A handle with small blocks, so that little data makes many.
fn handle(backend: Backend, direct: DirectMode) -> AioHandle {
    builder(backend, direct).build().expect("the probe succeeded")
}

fn builder(backend: Backend, direct: DirectMode) -> Builder {
    aio::builder().backend(backend).direct(direct).block_size(16 << 10).queue_depth(8).threads(2)
}

/// Runs a test on every backend and in every file mode, each for a bounded time; fails if it leaves anything behind.
fn each(what: &'static str, test: impl Fn(Backend, DirectMode) + Send + Sync + 'static) {
    support::each_backend(what, move |backend, direct| {
        let before = Holdings::now();
        test(backend, direct);
        before.assert_nothing_new(&format!("{what} on {backend}, direct {direct:?}"));
    });
}

/// Fails unless this is an error of the system with this number, in this place of this file, as a sentence that says
/// so.
#[track_caller]
fn assert_io(error: &Error, op: OpKind, errno: i32, path: &std::path::Path, place: std::ops::Range<u64>) {
    let Error::Io(io) = error else { panic!("not an error of the system: {error}") };
    let sentence = error.to_string();
    assert_eq!((io.op, io.source.raw_os_error()), (op, Some(errno)), "{sentence}");
    assert_eq!(io.path, path, "{sentence}");
    match io.range() {
        Some(failed) => {
            assert!(place.contains(&failed.start) && failed.end <= place.end, "{sentence}: outside of {place:?}");
        }
        None => assert!(!matches!(op, OpKind::Read | OpKind::Write), "{sentence}: of unknown bytes"),
    }
    let reason = std::io::Error::from_raw_os_error(errno).to_string();
    assert!(sentence.contains(&*path.to_string_lossy()) && sentence.contains(&reason), "{sentence}");
}
