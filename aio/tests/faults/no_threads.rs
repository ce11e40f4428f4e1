//! No more threads may be made: none for the engine, and none by the kernel for a ring. What is there works on.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use aio::{AioHandle, Backend, DirectMode};
use aio_testkit::leftovers::settles;
use nix::sys::resource::{Resource, setrlimit};

use crate::disk::SmallDisk;
use crate::support::child::{again, assert_passes, is_child};
use crate::support::{Folder, backends};
use crate::workload::Workload;

/// The group that a child is to join.
const GROUP: &str = "AIO_TEST_PIDS_GROUP";
/// Where a child writes. It could not unmount anything at its end.
const PLACES: &str = "AIO_TEST_PLACES";

/// Limits the processes of a user other than root, which no limit binds.
#[test]
#[ignore = "needs root, to be without it: .ci/faults"]
fn of_a_user() {
    const NAME: &str = "no_threads::of_a_user";
    if is_child(NAME) {
        return works_without(|| {
            setrlimit(Resource::RLIMIT_NPROC, 0, 0).unwrap();
            // SAFETY: no memory is involved. All threads of the process become that user.
            assert_eq!(unsafe { libc::setresuid(65534, 65534, 65534) }, 0);
        });
    }
    with_places(|places| assert_passes(again(NAME).env(PLACES, places)));
}

/// The `pids.max` of a control group, as containers have it.
#[test]
#[ignore = "needs root: .ci/faults"]
fn of_a_control_group() {
    const NAME: &str = "no_threads::of_a_control_group";
    if is_child(NAME) {
        let group = PathBuf::from(std::env::var_os(GROUP).unwrap());
        fs::write(group.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        return works_without(|| fs::write(group.join("pids.max"), "1").unwrap());
    }
    let Some(group) = PidsGroup::new() else { return };
    with_places(|places| assert_passes(again(NAME).env(PLACES, places).env(GROUP, &group.0)));
}

/// Folders on a disk and in memory, for a child of this process.
fn with_places(run: impl FnOnce(OsString)) {
    let Some(memory) = SmallDisk::in_memory("tmpfs") else { return };
    let folder = Folder::new();
    let places = [folder.path("on-disk"), memory.path().join("in-memory")];
    for place in &places {
        fs::create_dir(place).unwrap();
        // Another user may have to write there.
        fs::set_permissions(place, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    }
    run(std::env::join_paths(places).unwrap());
}

fn works_without(forbid: impl FnOnce()) {
    let places: Vec<_> = std::env::split_paths(&std::env::var_os(PLACES).unwrap()).collect();
    let handles: Vec<_> = backends()
        .into_iter()
        .flat_map(|backend| {
            [DirectMode::Auto, DirectMode::Off].map(|direct| (backend, crate::handle(backend, direct)))
        })
        .collect();
    forbid();
    assert!(std::thread::Builder::new().spawn(|| {}).is_err(), "a thread could be made");
    for (number, (backend, aio)) in handles.iter().enumerate() {
        for place in &places {
            eprintln!("{backend}, in {}", place.display());
            works(*backend, aio, &place.join(number.to_string()));
        }
    }
    let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = threads.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
    let made: Vec<_> = names.filter(|name| name.starts_with("iou-wrk")).collect();
    assert!(made.is_empty(), "the kernel made {made:?}");
}

fn works(backend: Backend, aio: &AioHandle, path: &Path) {
    if let Err(unavailable) = backend.probe() {
        // A pool of threads is none without them, but one that is there does what it is asked for.
        assert!(backend == Backend::Pthread && unavailable.reason.contains("ulimit -u"), "{unavailable}");
    }
    let refused = crate::builder(backend, DirectMode::Auto).build().unwrap_err().to_string();
    assert!(refused.contains("ulimit -u") && refused.contains("pids.max"), "{refused}");
    // It grows, and what it has is overwritten, by tickets and on this thread.
    Workload::new(aio, path, 1).run(4);
}

/// A control group of this test's own; gone when it is dropped, after the processes in it.
struct PidsGroup(PathBuf);

impl PidsGroup {
    /// `None`, with a line on standard error, where this process may not have one.
    fn new() -> Option<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let own_hierarchy = root.join("pids");
        let parent = if own_hierarchy.is_dir() { own_hierarchy } else { root.to_owned() };
        let group = Self(parent.join(format!("aio-test-{}", std::process::id())));
        match fs::create_dir(&group.0).and_then(|()| fs::read(group.0.join("pids.max"))) {
            Ok(_) => Some(group),
            Err(error) => {
                eprintln!("SKIPPED: no control group with a limit of threads: {error}");
                None
            }
        }
    }
}

impl Drop for PidsGroup {
    fn drop(&mut self) {
        settles(
            "a test in a control group",
            "the group",
            || fs::remove_dir(&self.0).is_ok() || !self.0.exists(),
            |gone| *gone,
        );
    }
}
