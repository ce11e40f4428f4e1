//! The suite that every backend passes.

use aio_libaio::LibaioBackend;

#[test]
fn libaio_conforms() {
    aio_testkit::conformance::queue(&LibaioBackend::default());
}
