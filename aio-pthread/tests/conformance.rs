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
fn the_deepest_queue_opens() {
    let queue = PthreadBackend::new().open_queue(&QueueConfig::new(32768)).expect("a queue");
    assert_eq!(queue.capacity(), 32768);
}
