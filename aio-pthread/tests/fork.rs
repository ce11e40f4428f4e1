//! A queue in a forked child, which has its memory but not its threads. Alone in its binary: no other test's transfers
//! are forked.

use aio_pthread::PthreadBackend;

#[test]
fn pthread_stays_with_the_parent() {
    aio_testkit::conformance::fork(&PthreadBackend::new());
}
