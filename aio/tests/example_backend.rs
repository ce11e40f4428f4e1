//! The backend of `examples/backend.rs` keeps the contract.

#[path = "../examples/backend.rs"]
#[expect(dead_code, reason = "the example's `main`")]
mod backend;

use aio_testkit::conformance;
use backend::PlainBackend;

/// One test, so that nothing is in flight when the process forks.
#[test]
fn conforms() {
    conformance::queue(&PlainBackend);
    conformance::fork(&PlainBackend);
}
