//! A kernel that forbids io_uring, as containers do.

use aio::{Backend, DirectMode, Error};

use crate::support::child::alone;
use crate::support::{Folder, backends, pattern};
use crate::sysctl::Sysctl;

/// io_uring says why it is not available, and a builder that does not insist on it gets libaio.
fn falls_through(why: &str) {
    let error = crate::builder(Backend::Uring, DirectMode::Auto).build().unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    let sentence = error.to_string();
    assert!(sentence.contains("uring") && sentence.contains(why), "{sentence}");
    let aio = aio::builder().build().unwrap();
    assert_eq!(aio.backend_name(), "libaio");
    let folder = Folder::new();
    aio.write_new(folder.path("t"), pattern(1, 100_000)).wait().unwrap();
    assert!(aio.read_path(folder.path("t"), vec![0; 100_000]).wait().unwrap() == pattern(1, 100_000));
}

fn has_both() -> bool {
    [Backend::Uring, Backend::Libaio].iter().all(|backend| backends().contains(backend))
}

#[test]
#[ignore = "needs root: .ci/faults"]
fn io_uring_is_disabled_by_the_administrator() {
    if !has_both() {
        return;
    }
    let before = crate::handle(Backend::Uring, DirectMode::Auto);
    let Some(_disabled) = Sysctl::set("kernel.io_uring_disabled", "2") else { return };
    falls_through("kernel.io_uring_disabled");
    // A ring that is open works on.
    let folder = Folder::new();
    before.write_new(folder.path("t"), pattern(1, 100_000)).wait().unwrap();
}

#[test]
#[ignore = "needs a process of its own: .ci/faults"]
fn io_uring_is_filtered_by_seccomp() {
    alone("refused::io_uring_is_filtered_by_seccomp", || {
        if !has_both() {
            return;
        }
        for (errno, why) in [(libc::EPERM, "seccomp"), (libc::ENOSYS, "ENOSYS")] {
            aio_testkit::conformance::refusing(&[libc::SYS_io_uring_setup], errno, || falls_through(why));
        }
    });
}
