//! Limits of a process and of the machine: open files, locked memory, AIO slots.

use std::fs::File;

use aio::error::OpKind;
use aio::{Backend, DirectMode};
use aio_testkit::leftovers::aio_slots;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::assert_io;
use crate::support::child::{again_under, alone, assert_passes, is_child};
use crate::support::{Folder, backends, pattern};
use crate::sysctl::Sysctl;

/// `RLIMIT_NOFILE`: EMFILE where a file or a handle is opened, and nowhere else; what is open works on.
#[test]
#[ignore = "needs a process of its own: .ci/faults"]
fn no_more_files_may_be_open() {
    alone("limits::no_more_files_may_be_open", || {
        crate::each("a limit of open files", |backend, direct| {
            let folder = Folder::new();
            let content = pattern(1, 1 << 20);
            let path = folder.file("t", &content);
            let aio = crate::handle(backend, direct);
            let file = aio.open(&path).unwrap();
            let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
            let next = std::os::fd::AsRawFd::as_raw_fd(&File::open("/dev/null").unwrap());
            setrlimit(Resource::RLIMIT_NOFILE, next as u64, hard).unwrap();
            let opened = aio.open(&path);
            let by_path = aio.read_path(&path, vec![0; 100]).wait();
            let built = crate::builder(backend, direct).build();
            let read = file.read(vec![0; content.len() - 1], 1).wait();
            setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();

            let error = opened.unwrap_err();
            assert_io(&error, OpKind::Open, libc::EMFILE, &path, 0..1);
            assert!(error.to_string().contains("ulimit -n"), "{error}");
            assert_io(by_path.unwrap_err().error(), OpKind::Open, libc::EMFILE, &path, 0..1);
            // A pool of threads needs no descriptors.
            match built {
                Ok(_) => assert_eq!(backend, Backend::Pthread),
                Err(error) => assert!(error.to_string().contains("Too many open files"), "{error}"),
            }
            assert!(read.unwrap() == content[1..]);
            assert!(aio.read_path(&path, vec![0; content.len()]).wait().unwrap() == content);
        });
    });
}

/// 64 KiB of locked memory, without CAP_IPC_LOCK: memory cannot be registered, and everything works.
#[test]
#[ignore = "needs root, to be without it: .ci/faults"]
fn hardly_any_memory_may_be_locked() {
    const NAME: &str = "limits::hardly_any_memory_may_be_locked";
    if !is_child(NAME) {
        let wrapper = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "prlimit", "--memlock=65536:65536"];
        return assert_passes(&mut again_under(&wrapper, NAME));
    }
    assert_eq!(getrlimit(Resource::RLIMIT_MEMLOCK).unwrap(), (65536, 65536));
    for backend in backends() {
        let aio = crate::handle(backend, DirectMode::Auto);
        let folder = Folder::new();
        let mut buffer = aio.alloc(4 << 20).unwrap();
        buffer.copy_from_slice(&pattern(1, 4 << 20));
        let file = aio.create(folder.path("t")).unwrap();
        let mut buffer = file.write(buffer, 0).wait().unwrap();
        file.sync_all().wait().unwrap();
        buffer.fill(0);
        crate::support::evict(&folder.path("t"));
        assert!(file.read(buffer, 0).wait().unwrap()[..] == pattern(1, 4 << 20));
        assert_eq!(aio.stats().bytes_fixed, 0, "on {backend}: memory cannot have been registered");
    }
}

/// Every AIO slot of the machine is taken.
#[test]
#[ignore = "needs root: .ci/faults"]
fn no_slots_for_kernel_aio() {
    if !backends().contains(&Backend::Libaio) {
        return;
    }
    let before = crate::handle(Backend::Libaio, DirectMode::Auto);
    let Some(_limit) = Sysctl::set("fs.aio-max-nr", &aio_slots().to_string()) else { return };
    let refused = crate::builder(Backend::Libaio, DirectMode::Auto).build().unwrap_err().to_string();
    assert!(refused.contains("libaio") && refused.contains("fs.aio-max-nr"), "{refused}");
    // What has its slots works on, and a builder that does not insist gets another backend.
    let folder = Folder::new();
    before.write_new(folder.path("t"), pattern(1, 100_000)).wait().unwrap();
    let other = aio::builder().build().unwrap();
    assert_ne!(other.backend_name(), "libaio");
    assert!(other.read_path(folder.path("t"), vec![0; 100_000]).wait().unwrap() == pattern(1, 100_000));
}
