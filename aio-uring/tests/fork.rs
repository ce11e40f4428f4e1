//! A queue in a forked child, which shares its ring. Alone in its binary: no other test's transfers are forked.

use aio_uring::UringBackend;

#[test]
fn uring_stays_with_the_parent() {
    aio_testkit::conformance::fork(&UringBackend::default());
}
