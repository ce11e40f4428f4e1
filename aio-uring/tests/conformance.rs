//! The conformance suite on io_uring.

#[test]
fn queue() {
    aio_core::conformance::queue(&aio_uring::UringBackend::default());
}
