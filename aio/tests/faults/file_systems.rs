//! The same promises on every file system that the kernel has.

use std::process::Command;

use crate::disk::SmallDisk;
use crate::support::backends;
use crate::support::child::{again, assert_passes, is_child};
use crate::workload::Workload;

const KINDS: &[&str] = &["ext4", "xfs", "btrfs", "tmpfs", "overlay"];

/// The backend that a child of the conformance test is for.
const BACKEND: &str = "AIO_TEST_CONFORMANCE";

/// The suite makes its files in the temporary folder, which the environment names: a child for each disk and backend.
/// They mostly wait, so they run at the same time.
#[test]
#[ignore = "needs root: .ci/faults"]
fn backends_conform() {
    const NAME: &str = "file_systems::backends_conform";
    if is_child(NAME) {
        let backend: aio::Backend = std::env::var(BACKEND).unwrap().parse().unwrap();
        return aio_testkit::conformance::queue(&*backend.implementation().unwrap());
    }
    let disks: Vec<_> = KINDS.iter().filter_map(|kind| Some((kind, SmallDisk::of(kind)?))).collect();
    std::thread::scope(|scope| {
        for (kind, disk) in &disks {
            for backend in backends() {
                scope.spawn(move || {
                    let mut child: Command = again(NAME);
                    assert_passes(child.env("TMPDIR", disk.path()).env(BACKEND, backend.name()));
                    eprintln!("{backend} conforms on {kind}");
                });
            }
        }
    });
}

#[test]
#[ignore = "needs root: .ci/faults"]
fn random_ops() {
    for kind in KINDS {
        let Some(disk) = SmallDisk::of(kind) else { continue };
        let path = disk.path();
        crate::each("random ops", move |backend, direct| {
            let aio = crate::handle(backend, direct);
            for seed in 1..4 {
                let path = path.join(format!("random{seed}"));
                Workload::new(&aio, &path, seed).run(6);
                std::fs::remove_file(path).unwrap();
            }
        });
    }
}
