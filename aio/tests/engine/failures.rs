//! A failure goes to its live ticket or else to the handle, once, and a flood of failures is bounded.

use std::sync::Arc;

use aio::Error;
use aio_testkit::fault::Plain;

use crate::BLOCK;
use crate::support::{Folder, each_backend, gated, pattern, small, until};

#[test]
fn a_failure_goes_to_its_ticket_or_else_to_the_handle() {
    each_backend("failures", |backend, direct| {
        let (aio, gate) = gated(backend, &Arc::new(Plain), small(1, 8, direct));
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, BLOCK))).unwrap();
        let past = BLOCK as u64;
        let eofs = |result: aio::Result<usize>| match result {
            Ok(_) => 0,
            Err(Error::Failures(failures)) => {
                assert!(failures.errors.iter().all(|error| matches!(error, Error::UnexpectedEof { .. })));
                failures.errors.len()
            }
            Err(error) => panic!("{error}"),
        };
        // With a live ticket: to it alone.
        let ticket = file.read(vec![0; 10], past);
        assert_eq!(eofs(aio.wait()), 0);
        ticket.wait().unwrap_err();
        assert_eq!(eofs(aio.wait()), 0);
        // The ticket goes first.
        gate.close();
        let ticket = file.read(vec![0; 10], past);
        gate.wait_for(1);
        drop(ticket);
        gate.open();
        assert_eq!(eofs(aio.wait()), 1);
        // The failure goes first, and was not looked at.
        let ticket = file.read(vec![0; 10], past);
        until(|| ticket.is_done());
        assert!(ticket.wait_timeout(std::time::Duration::ZERO).unwrap());
        assert_eq!(eofs(aio.wait()), 0);
        drop(ticket);
        assert_eq!(eofs(aio.wait()), 1);
        assert_eq!(eofs(aio.wait()), 0);
        // Of a file operation, and of a scope, which tells itself.
        drop(file.punch_hole(u64::MAX, 1));
        let Error::Failures(failures) = aio.wait().unwrap_err() else { panic!() };
        assert_eq!(failures.errors.len(), 1);
        assert!(aio.scope(|scope| scope.read(&file, vec![0; 10], past)).is_err());
        assert_eq!(eofs(aio.wait()), 0);
        // Cancelled before or after its ticket goes, it ended as it was asked to.
        gate.close();
        // The queue is full, so that no worker begins what is cancelled.
        let first: Vec<_> = (0..8).map(|_| file.read(vec![0; BLOCK], 0)).collect();
        gate.wait_for(8);
        for dropped_early in [true, false] {
            let ticket = file.read(vec![0; 8 * BLOCK], 0);
            ticket.cancel();
            if !dropped_early {
                assert!(ticket.is_done());
            }
            drop(ticket);
        }
        gate.open();
        first.into_iter().for_each(|read| drop(read.wait().unwrap()));
        assert_eq!(eofs(aio.wait()), 0);
        // What close() finds.
        drop(file.read(vec![0; 10], past));
        let Error::Failures(failures) = aio.close().unwrap_err() else { panic!() };
        assert_eq!(failures.errors.len(), 1);
    });
}

#[test]
fn failures_do_not_use_up_the_memory() {
    const OPS: usize = 1100;
    each_backend("many failures", |backend, direct| {
        let (aio, _) = gated(backend, &Arc::new(Plain), small(2, 8, direct));
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, BLOCK))).unwrap();
        let past = BLOCK as u64;
        (0..OPS).for_each(|_| drop(file.read(vec![0; 10], past)));
        let unclaimed = aio.wait();
        let scoped = aio.scope(|scope| (0..OPS).for_each(|_| scope.read(&file, vec![0; 10], past)));
        for result in [unclaimed.map(drop), scoped] {
            let Error::Failures(failures) = result.unwrap_err() else { panic!() };
            assert_eq!((failures.completed, failures.errors.len(), failures.more), (0, 1024, OPS - 1024));
            let said = failures.to_string();
            assert!(said.starts_with("1100 ops failed (0 completed):") && said.ends_with("and 1092 more"), "{said}");
        }
        assert_eq!(aio.wait().unwrap(), 0);
    });
}
