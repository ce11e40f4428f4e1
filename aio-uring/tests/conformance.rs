//! The conformance suite on io_uring.

#[test]
fn queue() {
    aio_testkit::conformance::queue(&aio_uring::UringBackend::default());
}
