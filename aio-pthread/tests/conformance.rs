//! The conformance suite of `aio-core`.

use aio_core::{IoBackend, QueueConfig};
use aio_pthread::PthreadBackend;

#[test]
fn queue() {
    aio_core::conformance::queue(&PthreadBackend::new());
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
