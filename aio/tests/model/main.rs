//! Random sequences of ops against a model of the file in memory, on each backend and in each file mode.
//!
//! Ops that are in flight together never overlap in bytes when one of them writes, but they share pages on purpose:
//! their ranges are cut next to each other out of the same few pages.

#[path = "../support/mod.rs"]
mod support;

mod borrowed;
mod case;
mod check;
mod contents;
mod op;
mod sequence;

use aio::DirectMode;
use proptest::test_runner::{Config, TestRunner};
use support::backends;

use crate::case::cases;
use crate::sequence::run;

macro_rules! on_each {
    ($($name:ident: $backend:literal, $direct:ident;)*) => {$(
        #[test]
        fn $name() {
            model($backend, DirectMode::$direct);
        }
    )*};
}
on_each! {
    uring_direct: "uring", Auto;
    uring_buffered: "uring", Off;
    libaio_direct: "libaio", Auto;
    libaio_buffered: "libaio", Off;
    pthread_direct: "pthread", Auto;
    pthread_buffered: "pthread", Off;
}

/// Proptest's own default is far more than what finds faults here; `PROPTEST_CASES` asks for more.
fn model(backend: &str, direct: DirectMode) {
    let Some(backend) = backends().into_iter().find(|found| found.name() == backend) else { return };
    let cases_wanted = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(24);
    let config =
        Config { cases: cases_wanted, failure_persistence: None, max_shrink_iters: 400, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let result = runner.run(&cases(), |case| {
        run(backend, direct, &case);
        Ok(())
    });
    if let Err(failed) = result {
        panic!("on {backend}, direct {direct:?}: {failed}");
    }
}
