//! Proved: copies that are added while copiers go to sleep are not slept over; copiers that share an op copy each of
//! its blocks once and one of them ends it; a read is made once, by a copier or by the thread that waits for it; the
//! engine's end waits for them; a barrier waits for what they hold; and where none can be started, the workers make the
//! copies.
//!
//! The whole engine on a queue that moves nothing, with one worker and one or two copiers, which read and write a file
//! for real; two or three preemptions. The barrier is between one copier and one thread, in every order.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use loom::thread;
use tempfile::NamedTempFile;

use super::engine::{handle, two_blocks};
use super::parking::{close, worker};
use super::{BLOCK, Bench, config, explore};
use crate::api::file::AioFile;
use crate::api::handle::AioHandle;
use crate::api::ticket::Ticket;
use crate::config::AioConfig;
use crate::engine::op_queue::{Claimed, WhenFull};
use crate::engine::transfer::Transfer;
use crate::file::OpenOptions;
use crate::sync::{AtomicBool, Ordering};

fn copiers(copy_threads: usize) -> AioConfig {
    AioConfig { copy_threads, ..config(1, 1) }
}

/// A file without direct I/O: a write is a copy, and so is a read of what lies in the page cache. One copier at a time
/// writes to it; several read.
fn open(config: AioConfig, file: &NamedTempFile) -> (AioHandle, AioFile) {
    let handle = handle(config);
    let open = handle.open_with(file.path(), &OpenOptions::new().read(true).write(true)).unwrap();
    (handle, open)
}

fn two_cached_blocks() -> NamedTempFile {
    let file = two_blocks();
    file.as_file().write_all_at(&[1; 2 * BLOCK], 0).unwrap();
    file
}

#[test]
fn a_copier_is_started_and_ends() {
    let file = two_blocks();
    explore("copies: one copier, one write, close()", 3, move || {
        let (handle, open) = open(copiers(1), &file);
        open.write(vec![1; BLOCK], 0).wait().unwrap();
        assert_eq!(handle.stats().copy_threads, 1);
        drop(open);
        handle.close().unwrap();
    });
}

#[test]
fn a_copy_is_made_by_a_copier_or_by_its_waiter() {
    let file = two_cached_blocks();
    explore("copies: one copier, a read of one block, by path, and a thread that waits for it", 3, move || {
        let handle = handle(copiers(1));
        let read = handle.read_path(file.path(), vec![0; BLOCK]).wait().unwrap();
        assert_eq!(read, [1; BLOCK]);
        // A copier may watch by now, and no other is woken.
        drop(handle.read_path(file.path(), vec![0; BLOCK]));
        handle.close().unwrap();
    });
}

#[test]
fn a_copy_is_not_slept_over() {
    let file = two_blocks();
    explore("copies: one copier, two writes, the second while it may sleep", 3, move || {
        let (handle, open) = open(copiers(1), &file);
        let first = open.write(vec![1; BLOCK], 0);
        open.write(vec![1; BLOCK], BLOCK as u64).wait().unwrap();
        first.wait().unwrap();
        drop(open);
        handle.close().unwrap();
    });
}

#[test]
fn a_handle_that_is_dropped_waits_for_copies() {
    let file = two_cached_blocks();
    explore("copies: two copiers, two reads, dropped in flight", 2, move || {
        let (handle, open) = open(copiers(2), &file);
        let tickets = [0, BLOCK].map(|offset| open.read(vec![0; BLOCK], offset as u64));
        assert!(handle.stats().copy_threads > 0, "not a copy: the file is not cached");
        drop((open, handle));
        for ticket in tickets {
            assert!(ticket.is_done(), "the engine's last owner did not wait");
            assert_eq!(ticket.wait().unwrap(), vec![1; BLOCK]);
        }
    });
}

#[test]
fn a_barrier_waits_for_what_copiers_hold() {
    explore("copies: one copier that holds an op, one thread at the barrier", None, || {
        let bench = Bench::new(copiers(1));
        let queue = &bench.shared.op_queue;
        let op: Arc<Transfer> = bench.copy(1);
        assert!(queue.push(&op, WhenFull::Wait, || {}).unwrap().new_copier);
        let (mut held, mut claimed) = (None, Claimed::default());
        let mut claim = |claimed: &mut Claimed| queue.claim_copies(&mut held, claimed, |_, _| unreachable!());
        assert!(claim(&mut claimed).is_some());
        let let_go = Arc::new(AtomicBool::new(false));
        let other = {
            let (bench, let_go) = (bench.clone(), let_go.clone());
            thread::spawn(move || {
                bench.shared.op_queue.wait_for_copiers();
                assert!(let_go.load(Ordering::Relaxed), "the copier has the op yet");
            })
        };
        let_go.store(true, Ordering::Relaxed);
        let run = claimed.runs.pop().unwrap();
        assert!(run.op.state.account(1, 0));
        bench.shared.close();
        bench.shared.end([run.into_broken_account().0]);
        assert!(claim(&mut claimed).is_none());
        other.join().unwrap();
    });
}

#[test]
fn workers_make_the_copies_where_no_copier_can_be_started() {
    explore("copies: no copier can be started, two threads that submit", 3, || {
        let bench = Bench::new(copiers(1));
        let worker = worker(&bench, 0);
        let submit = |bench: &Bench| {
            let op = bench.copy(1);
            let helpers = bench.shared.op_queue.push(&(op.clone() as Arc<Transfer>), WhenFull::Wait, || {}).unwrap();
            bench.shared.wake(helpers.worker);
            if helpers.new_copier {
                bench.shared.copier_refused();
            }
            Ticket::new(op, bench.shared.clone()).wait().unwrap();
        };
        let other = {
            let bench = bench.clone();
            thread::spawn(move || submit(&bench))
        };
        submit(&bench);
        other.join().unwrap();
        close(&bench, worker, 2);
    });
}
