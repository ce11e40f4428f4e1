//! The conformance suite of `aio-core`.

use aio_core::backend::{IoBackend, QueueConfig};
use aio_pthread::PthreadBackend;
use aio_testkit::conformance::refusing;

#[test]
fn queue() {
    aio_testkit::conformance::queue(&PthreadBackend::new());
}

#[test]
fn nothing_is_registered() {
    let capabilities = PthreadBackend::new().probe().expect("available everywhere");
    assert!(!capabilities.registered_memory && !capabilities.registered_files);
}

#[test]
fn depths_are_clamped() {
    for (depth, capacity) in [(0, 1), (32768, 32768), (usize::MAX, 32768)] {
        let queue = PthreadBackend::new().open_queue(&QueueConfig::new(depth)).expect("a queue");
        assert_eq!(queue.capacity(), capacity);
    }
}

#[test]
fn the_probe_notices_that_there_are_no_threads() {
    let threads = [libc::SYS_clone, libc::SYS_clone3];
    let Some(found) = refusing(&threads, libc::EAGAIN, || PthreadBackend::new().probe()) else { return };
    let refusal = found.expect_err("there are threads");
    assert!(refusal.reason.contains("no thread could be started"), "{refusal}");
}

#[test]
fn the_probe_does_without_files_in_memory() {
    let Some(found) = refusing(&[libc::SYS_memfd_create], libc::EPERM, || PthreadBackend::new().probe()) else {
        return;
    };
    found.expect("a file in the temporary folder");
}
