//! A queue in a forked child. Alone in its binary: no other test's transfers are forked.

use aio_libaio::LibaioBackend;

#[test]
fn libaio_stays_with_the_parent() {
    aio_testkit::conformance::fork(&LibaioBackend::default());
}
