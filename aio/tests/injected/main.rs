//! Random sequences of what users do, on a backend that injects faults, against a model.
//!
//! After every sequence: each op has completed exactly once and with a result that the plan of faults allows, every byte
//! is where the model says, memory that was given back was not touched again, and the process has what it had before.
//!
//! One test, since it looks at what the whole process holds. `PROPTEST_CASES` asks for more sequences.

#[path = "../support/mod.rs"]
mod support;

mod bytes;
mod machine;
mod memory;
mod op;
mod system;

use std::cell::OnceCell;

use aio::{Backend, DirectMode};
use aio_testkit::leftovers::Leftovers;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};

use crate::machine::Machine;
use crate::system::{Place, System};

/// Proptest's own default is far more than what finds faults here.
const CASES: u32 = 10;
const LONGEST: usize = 50;

#[test]
fn sequences_of_ops_survive_faults() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    for backend in support::backends() {
        for direct in [DirectMode::Auto, DirectMode::Off] {
            run(backend, direct, cases);
        }
    }
}

fn run(backend: Backend, direct: DirectMode, cases: u32) {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 300, ..Config::default() };
    let before = OnceCell::new();
    let result = TestRunner::new(config.clone()).run(
        &Machine::sequential_strategy(1..LONGEST),
        |(setup, transitions, seen)| {
            let config = config.clone();
            let place = Place { backend, direct };
            let case = move || {
                System::test_sequential(config, setup.on(place), transitions, seen);
            };
            finishes(case).map_err(TestCaseError::fail)?;
            // The first sequence makes what a process keeps: threads' memory, the log's descriptors.
            before.get_or_init(Leftovers::now).check().map_err(TestCaseError::fail)
        },
    );
    if let Err(failed) = result {
        panic!("on {backend}, direct {direct:?}: {failed}");
    }
}

/// Runs a sequence on a thread of its own, so that one that hangs is a failure with a sequence to show, and a panic can
/// be shrunk.
fn finishes(case: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| support::finishes("a sequence", case)));
    outcome.map_err(|panic| {
        let message = panic.downcast_ref::<String>().cloned();
        message.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    })
}
