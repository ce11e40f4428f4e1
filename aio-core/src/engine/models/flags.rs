//! Proved: what two threads note of an op at the same time is all kept.
//!
//! One thread that cancels a durable write, and one that works on it; any number of preemptions.

use std::sync::Arc;

use loom::thread;
use tempfile::NamedTempFile;

use super::{BLOCK, explore, failure};
use crate::backend::Direction;
use crate::config::DirectMode;
use crate::engine::op_state::OpState;
use crate::engine::promise::Promise;
use crate::engine::transfer::OpOptions;
use crate::file::{OpenFile, OpenOptions};
use crate::op::desc::Extent;
use crate::op::plan::{Alignment, Plan};

/// A durable write of one block, which has moved.
fn written() -> Arc<OpState> {
    let extents = [Extent { offset: 0, len: BLOCK, memory: None }];
    let plan = Plan::new(Direction::Write, &extents, Alignment::NONE, BLOCK);
    let options = OpOptions { durable: true, ..OpOptions::default() };
    let state = OpState::new(Promise::new(None), options, Some(plan));
    assert!(state.account(1, BLOCK as u64));
    Arc::new(state)
}

/// One thread cancels a write while this one does `step`; then `is_noted` has to hold.
fn beside_a_cancel(what: &str, step: fn(&OpState, &OpenFile), is_noted: fn(&OpState) -> bool) {
    let path = NamedTempFile::new().unwrap().into_temp_path();
    explore(&format!("flags: a cancel beside {what}"), None, move || {
        let file = OpenFile::open(&path, &OpenOptions::new().write(true), DirectMode::Off).unwrap();
        let state = written();
        let cancelling = {
            let state = state.clone();
            thread::spawn(move || state.cancel())
        };
        step(&state, &file);
        cancelling.join().unwrap();
        assert!(state.is_cancelled(), "the cancel is lost");
        assert!(is_noted(&state), "what happened beside it is lost");
        state.release_syncs();
    });
}

#[test]
fn a_cancel_hides_nothing_and_is_not_hidden() {
    beside_a_cancel("a failure", |state, _| state.fail(0, failure()), |state| state.take_failure().is_some());
    beside_a_cancel("the second pass", |state, _| state.start_verifying(), OpState::is_verifying);
    beside_a_cancel(
        "its acceptance and its sync",
        |state, file| {
            state.set_write_in_flight(file.inode().unwrap().accept_write());
            assert!(state.take_sync());
        },
        |state| state.is_accepted_write() && !state.is_sync_due(),
    );
}
