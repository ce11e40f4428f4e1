//! Proved: however workers, failures and a cancel interleave, each block of an op is claimed by at most one worker, the
//! blocks that no worker claimed are accounted for, and exactly one thread ends the op, which then sees every byte.
//!
//! Two workers that claim from the shared queue, ops of two and three blocks, with and without a third thread that
//! cancels; at most three preemptions.

use std::sync::{Arc, Mutex};

use loom::thread;

use super::{BLOCK, Bench, config, explore, fail};
use crate::error::Error;

/// Each worker works until nothing is left, and notes the blocks that it claimed.
fn two_workers(bench: &Bench, rooms: [usize; 2]) -> Vec<usize> {
    let claimed = Arc::new(Mutex::new(Vec::new()));
    let work = |worker: usize, bench: Bench, claimed: Arc<Mutex<Vec<usize>>>| {
        move || {
            let note = |run: &super::Run| claimed.lock().unwrap().extend(run.progress.next..run.progress.end);
            while bench.work_once(worker, rooms[worker], false, note) {}
        }
    };
    let other = thread::spawn(work(1, bench.clone(), claimed.clone()));
    work(0, bench.clone(), claimed.clone())();
    other.join().unwrap();
    let mut claimed = std::mem::take(&mut *claimed.lock().unwrap());
    claimed.sort_unstable();
    claimed
}

#[test]
fn each_block_is_claimed_once_and_the_op_ends_once() {
    for rooms in [[1, 1], [1, 2]] {
        explore(&format!("claims: three blocks, rooms {rooms:?}"), 5, move || {
            let bench = Bench::new(config(2, 2));
            let ticket = bench.submit(3);
            assert_eq!(two_workers(&bench, rooms), [0, 1, 2]);
            assert_eq!(bench.ends(), 1);
            // Not Ok if a byte is missing.
            ticket.wait().unwrap();
            assert_eq!(bench.shared.op_queue.wait().unwrap(), 1);
        });
    }
}

#[test]
fn unclaimed_blocks_of_a_failed_op_are_accounted_for() {
    explore("claims: a failure", 5, || {
        let bench = Bench::new(config(2, 1));
        let ticket = bench.submit(3);
        let other = {
            let bench = bench.clone();
            thread::spawn(move || while bench.work_once(1, 1, false, |run| fail(&run.op)) {})
        };
        bench.work(0, 1);
        other.join().unwrap();
        assert_eq!(bench.ends(), 1);
        assert!(ticket.is_done());
        bench.shared.op_queue.drain();
        drop(ticket);
    });
}

#[test]
fn a_cancel_ends_an_op_that_no_worker_began_and_no_other() {
    explore("claims: a cancel and two workers", 3, || {
        let bench = Bench::new(config(2, 1));
        let ticket = Arc::new(bench.submit(2));
        let cancelling = {
            let ticket = ticket.clone();
            thread::spawn(move || ticket.cancel())
        };
        let claimed = two_workers(&bench, [1, 1]);
        cancelling.join().unwrap();
        assert_eq!(bench.ends(), 1);
        match Arc::into_inner(ticket).unwrap().wait().map_err(|error| error.into_parts().0) {
            Ok(()) => assert_eq!(claimed, [0, 1]),
            Err(Error::Cancelled { bytes, .. }) => assert_eq!(bytes, (claimed.len() * BLOCK) as u64),
            Err(error) => panic!("{error}"),
        }
        bench.shared.op_queue.drain();
    });
}
