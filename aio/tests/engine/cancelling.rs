//! Invariant 6: each op completes exactly once, whenever it is cancelled.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use aio::op::Direction;
use aio::{Error, Ticket};
use aio_core::backend::IoBlock;
use aio_testkit::fault::{Fate, Gate, Plain, Rules};

use crate::support::fini::OnFini;
use crate::support::staged::Panics;
use crate::support::{Folder, each_backend, gated, pattern, small, until};
use crate::{BLOCK, assert_alive, staged};

#[test]
fn each_op_ends_once_however_it_is_cancelled() {
    each_backend("cancel", |backend, direct| {
        let (aio, gate) = gated(backend, &Arc::new(Plain), small(2, 2, direct));
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, 64 * BLOCK))).unwrap();
        let (mut cancelled, mut completed, mut dropped) = (0, 0, 0);
        let mut accounts = 0;
        for round in 0..150_u64 {
            let len = [1, BLOCK, 6 * BLOCK][round as usize % 3];
            let direction = if round % 2 == 0 { Direction::Read } else { Direction::Write };
            let (descs, seen): (Vec<_>, Vec<_>) =
                (0..6).map(|i| staged(direction, &file, i * 6 * BLOCK as u64, vec![3; len], Panics::Never)).unzip();
            let tickets: Vec<_> = descs.into_iter().map(|desc| aio.submit(desc)).collect();
            let detached = (round % 5 == 0).then(|| file.read(vec![0; 3 * BLOCK], 0));
            // From here and from another thread, at whatever point they are.
            std::thread::scope(|scope| {
                scope.spawn(|| tickets.iter().for_each(|ticket| ticket.cancel()));
                tickets.iter().rev().for_each(|ticket| ticket.cancel());
            });
            if let Some(ticket) = detached {
                ticket.cancel();
                drop(ticket);
                dropped += 1;
            }
            for (ticket, seen) in tickets.into_iter().zip(seen) {
                let result = ticket.wait();
                let well = match &result {
                    Ok(()) => true,
                    Err(failed) => {
                        assert!(matches!(failed.error(), Error::Cancelled { .. }), "{failed}");
                        false
                    }
                };
                *(if well { &mut completed } else { &mut cancelled }) += 1;
                accounts += usize::from(well);
                drop(result);
                assert_eq!(seen.finished.load(Ordering::SeqCst), 1);
                assert_eq!(seen.finished_well.load(Ordering::SeqCst), usize::from(well));
                // The engine lets go of it before it wakes anyone, or right after.
                until(|| seen.dropped.load(Ordering::SeqCst) > 0);
                assert_eq!(seen.dropped.load(Ordering::SeqCst), 1);
            }
        }
        assert!(cancelled > 0, "nothing was cancelled in time, of {completed}");
        assert!(dropped > 0);
        match aio.wait() {
            // Those whose tickets were dropped ended well or were cancelled, which is no failure.
            Ok(ended) => assert!((accounts..=accounts + dropped).contains(&ended), "{ended}, not {accounts}"),
            Err(error) => panic!("{error}"),
        }
        assert_eq!(gate.offences(), Vec::<String>::new());
        assert_alive(&aio, &folder);
    });
}

#[test]
fn what_is_in_flight_is_not_cancelled_and_what_is_not_is() {
    each_backend("cancel in flight", |backend, direct| {
        let (aio, gate) = gated(backend, &Arc::new(Plain), small(1, 2, direct));
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, 64 * BLOCK))).unwrap();
        gate.close();
        // All of its blocks are in flight: it completes.
        let whole = file.read(vec![0; 2 * BLOCK], 0);
        gate.wait_for(2);
        // Nothing of it is: it ends at once.
        let waiting = file.read(vec![0; 2 * BLOCK], 0);
        whole.cancel();
        waiting.cancel();
        let failed = waiting.wait().unwrap_err();
        assert!(matches!(failed.error(), Error::Cancelled { bytes: 0, .. }), "{failed}");
        assert_eq!(failed.into_buffer().unwrap().len(), 2 * BLOCK);
        assert!(!whole.is_done());
        gate.open();
        assert!(whole.wait().unwrap() == pattern(1, 2 * BLOCK));
        // A part of it is: that part moves.
        gate.close();
        let partly = file.read(vec![0; 9 * BLOCK], 0);
        gate.wait_for(2);
        partly.cancel();
        assert!(!partly.is_done());
        gate.open();
        let failed = partly.wait().unwrap_err();
        let Error::Cancelled { bytes, .. } = failed.error() else { panic!("{failed}") };
        assert_eq!(*bytes, 2 * BLOCK as u64);
        assert_alive(&aio, &folder);
    });
}

#[test]
fn cancelling_may_drop_the_last_handle() {
    each_backend("the last handle in a cancelled op", |backend, direct| {
        let (aio, gate) = gated(backend, &Arc::new(Plain), small(1, 1, direct));
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, BLOCK))).unwrap();
        gate.close();
        let first = file.read(vec![0; BLOCK], 0);
        gate.wait_for(1);
        // The queue is full, so no worker begins this one.
        let last = aio.clone();
        let second = aio.submit(OnFini::new(Direction::Read, &file, vec![0; BLOCK], move || drop(last)));
        drop((file, aio));
        assert!(!second.is_done());
        // Its end drops the handle, on this thread, while the first op is in flight.
        second.cancel();
        assert!(second.is_done());
        assert_eq!(gate.kept(), 1);
        let failed = second.wait().unwrap_err();
        assert!(matches!(failed.error(), Error::Cancelled { bytes: 0, .. }), "{failed}");
        gate.open();
        // This thread is no worker, and may wait.
        assert!(first.wait().unwrap() == pattern(1, BLOCK));
    });
}

/// Closes the gate before the first block of the second pass of a write that is validated.
#[derive(Debug, Default)]
struct SecondPass {
    gate: OnceLock<Arc<Gate>>,
    read: AtomicUsize,
}

impl SecondPass {
    /// Waits until this many blocks of the second pass are in flight.
    fn wait_for(&self, blocks: usize) {
        // Blocks of the first pass are kept for a moment too.
        until(|| self.read.load(Ordering::SeqCst) >= blocks);
        self.gate.get().expect("set before the first op").wait_for(blocks);
    }
}

impl Rules for SecondPass {
    fn block(&self, _queue: usize, block: &IoBlock) -> Fate {
        if block.direction == Direction::Read && self.read.fetch_add(1, Ordering::SeqCst) == 0 {
            self.gate.get().expect("set before the first op").close();
        }
        Fate::Transfer
    }
}

#[test]
fn a_validated_op_that_is_cancelled_is_never_ok_unread() {
    each_backend("validate and cancel", |backend, direct| {
        let folder = Folder::new();
        let path = folder.file("t", &pattern(1, 4 * BLOCK));
        let start = || {
            let rules = Arc::new(SecondPass::default());
            let (aio, gate) = gated(backend, &rules, small(1, 2, direct));
            rules.gate.set(gate.clone()).unwrap();
            let file = aio.open(&path).unwrap().validated(true);
            (rules, gate, file)
        };
        let cancelled = |ticket: Ticket<Vec<u8>>| {
            let failed = ticket.wait().unwrap_err();
            assert!(matches!(failed.error(), Error::Cancelled { .. }), "{failed}");
        };

        // With the last block of the first pass in flight: all bytes move, and none is compared.
        for blocks in [1, 2] {
            let (rules, gate, file) = start();
            gate.close();
            let ticket = file.write(vec![2; blocks * BLOCK], 0);
            gate.wait_for(blocks);
            ticket.cancel();
            assert!(!ticket.is_done());
            gate.open();
            cancelled(ticket);
            assert_eq!(rules.read.load(Ordering::SeqCst), 0);
            assert!(std::fs::read(&path).unwrap()[..blocks * BLOCK] == vec![2; blocks * BLOCK]);
        }

        // With a part of the second pass in flight: the rest of it is not begun.
        let (rules, gate, file) = start();
        let ticket = file.write(vec![3; 4 * BLOCK], 0);
        rules.wait_for(2);
        ticket.cancel();
        gate.open();
        cancelled(ticket);
        assert_eq!(rules.read.load(Ordering::SeqCst), 2);

        // With all of the second pass in flight: it is Ok, because every byte was compared.
        let (rules, gate, file) = start();
        let ticket = file.write(vec![4; 2 * BLOCK], 0);
        rules.wait_for(2);
        ticket.cancel();
        assert!(!ticket.is_done());
        gate.open();
        ticket.wait().unwrap();
        assert_eq!(rules.read.load(Ordering::SeqCst), 2);
    });
}
