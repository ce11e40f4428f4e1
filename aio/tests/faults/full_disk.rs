//! A disk with no room: ENOSPC, and what is left of the attempt.

use aio::error::OpKind;
use aio::{AioConfig, AioHandle, Backend, DirectMode};
use aio_testkit::leftovers::settles;

use crate::assert_io;
use crate::disk::SmallDisk;
use crate::support::pattern;

/// More than there is room for.
const TOO_MUCH: usize = 100 << 20;

/// Gets a handle, its disk, and a check that all room is there again.
type Test = fn(&AioHandle, &SmallDisk, &dyn Fn(&str));

/// A handle on a disk with 40 MiB of room. XFS keeps what it allocated for inodes, so its free space need not be the
/// same to the byte.
fn each(what: &'static str, preallocate: bool, test: Test) {
    // What differs between file systems is what preallocation leaves.
    let kinds: &[_] = if preallocate { &[("ext4", 0), ("xfs", 1 << 20)] } else { &[("ext4", 0)] };
    for &(kind, may_miss) in kinds {
        crate::each(what, move |backend, direct| {
            let Some(disk) = SmallDisk::of(kind) else { return };
            disk.leave(40);
            let aio = full_handle(backend, direct, preallocate);
            // What the first file of a disk takes for good.
            aio.write_new(disk.path().join("first"), vec![1; 10_000]).wait().unwrap();
            std::fs::remove_file(disk.path().join("first")).unwrap();
            disk.sync();
            let free = disk.free();
            test(&aio, &disk, &|what| {
                // Space is given back in the background.
                settles(what, "free bytes", || (disk.sync(), disk.free()).1, |now| now + may_miss >= free);
            });
        });
    }
}

fn full_handle(backend: Backend, direct: DirectMode, preallocate: bool) -> AioHandle {
    let mut config = AioConfig::default();
    (config.preallocate, config.direct) = (preallocate, direct);
    aio::builder().config(config).backend(backend).build().unwrap()
}

fn a_new_file(aio: &AioHandle, disk: &SmallDisk, op: OpKind, is_as_free: &dyn Fn(&str)) {
    let path = disk.path().join("big");
    let failed = aio.write_new(&path, vec![1; TOO_MUCH]).wait().unwrap_err();
    assert_io(failed.error(), op, libc::ENOSPC, &path, 0..TOO_MUCH as u64);
    assert_eq!(failed.into_buffer().unwrap().len(), TOO_MUCH);
    assert!(!path.exists(), "a new file that could not be written is not left behind");
    is_as_free("a new file");
}

/// Others are in flight when a write does not fit; none of them notices.
fn an_old_file(aio: &AioHandle, disk: &SmallDisk, op: OpKind, is_as_free: &dyn Fn(&str)) {
    let path = disk.path().join("old");
    let file = aio.create(&path).unwrap();
    let content = pattern(1, 2 << 20);
    file.write(content.clone(), 0).wait().unwrap();
    let other = aio.create(disk.path().join("other")).unwrap();
    let at = 2 << 20;
    let failing = file.write(vec![2; TOO_MUCH], at);
    let overwrites: Vec<_> = (0..16).map(|i| file.write(vec![i as u8; 65_000], i * 65_536)).collect();
    let reads: Vec<_> = (16..32).map(|i| (i * 65_536, file.read(vec![0; 65_000], i * 65_536))).collect();
    for (at, read) in reads {
        assert!(read.wait().unwrap() == content[at as usize..][..65_000]);
    }
    for overwrite in overwrites {
        overwrite.wait().unwrap();
    }
    let failed = failing.wait().unwrap_err();
    assert_io(failed.error(), op, libc::ENOSPC, &path, at..at + TOO_MUCH as u64);
    assert_eq!(file.len().unwrap(), at, "the length is given back");
    let mut expected = content;
    for (i, part) in expected.chunks_mut(65_536).take(16).enumerate() {
        part[..65_000].fill(i as u8);
    }
    assert!(file.read(vec![0; at as usize], 0).wait().unwrap() == expected);
    let failed = file.allocate(0, TOO_MUCH as u64).wait().unwrap_err();
    assert_io(failed.error(), OpKind::Allocate, libc::ENOSPC, &path, 0..TOO_MUCH as u64);
    assert_eq!(file.len().unwrap(), at);
    // There is room for what fits, through the same handle.
    other.write(vec![7; 20 << 20], 1).wait().unwrap();
    other.sync_all().wait().unwrap();
    drop((file, other));
    assert!(std::fs::read(&path).unwrap() == expected);
    assert!(std::fs::read(disk.path().join("other")).unwrap()[1..] == vec![7; 20 << 20]);
    std::fs::remove_file(path).unwrap();
    std::fs::remove_file(disk.path().join("other")).unwrap();
    is_as_free("files that are gone");
}

#[test]
#[ignore = "needs root: .ci/faults"]
fn gives_everything_back() {
    each("a full disk", true, |aio, disk, is_as_free| {
        a_new_file(aio, disk, OpKind::Allocate, is_as_free);
        an_old_file(aio, disk, OpKind::Allocate, is_as_free);
    });
}

#[test]
#[ignore = "needs root: .ci/faults"]
fn without_preallocation_too() {
    each("a full disk, not preallocated", false, |aio, disk, is_as_free| {
        a_new_file(aio, disk, OpKind::Write, is_as_free);
        an_old_file(aio, disk, OpKind::Write, is_as_free);
    });
}
