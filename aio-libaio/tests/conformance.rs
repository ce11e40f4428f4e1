//! The suite that every backend passes.

use aio_libaio::LibaioBackend;

#[test]
fn libaio_conforms() {
    aio_core::conformance::queue(&LibaioBackend::default());
}
