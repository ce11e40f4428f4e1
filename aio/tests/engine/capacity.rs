//! Invariant 5: blocks in flight never exceed what a queue holds, nor pending ops their limit.

use std::sync::Arc;

use aio::Error;
use aio_testkit::fault::Plain;

use crate::BLOCK;
use crate::support::{Folder, each_backend, gated, pattern, small, until_in_flight};

#[test]
fn in_flight_never_exceeds_the_capacity() {
    each_backend("capacity", |backend, direct| {
        for (threads, depth) in [(1, 1), (1, 2), (2, 3), (3, 8)] {
            let (aio, gate) = gated(backend, &Arc::new(Plain), small(threads, depth, direct));
            let folder = Folder::new();
            let file = aio.open(folder.file("t", &pattern(1, 64 * BLOCK))).unwrap();
            gate.close();
            let tickets: Vec<_> = (0..4)
                .map(|i| {
                    let file = if i % 2 == 0 { file.clone() } else { file.background() };
                    file.read(vec![0; 64 * BLOCK], 0)
                })
                .collect();
            // As full as can be, and no fuller.
            gate.wait_for(threads * depth);
            assert_eq!(gate.kept(), threads * depth);
            gate.open();
            for ticket in tickets {
                assert!(ticket.wait().unwrap() == pattern(1, 64 * BLOCK));
            }
            assert_eq!(gate.offences(), Vec::<String>::new());
        }
    });
}

#[test]
fn each_priority_has_a_limit_that_pushes_back() {
    each_backend("limits", |backend, direct| {
        let mut config = small(1, 2, direct);
        config.max_pending_ops = 3;
        let (aio, gate) = gated(backend, &Arc::new(Plain), config);
        let folder = Folder::new();
        let content = pattern(1, 8 * BLOCK);
        let file = aio.open(folder.file("t", &content)).unwrap();
        gate.close();
        let held: Vec<_> = (0..3).map(|_| file.try_read(vec![0; BLOCK], 0).unwrap()).collect();
        gate.wait_for(2);
        until_in_flight(&aio);
        let (error, buffer) = file.try_read(vec![7; BLOCK], 0).unwrap_err().into_parts();
        assert!(matches!(error, Error::QueueFull { limit: 3 }), "{error}");
        assert_eq!(buffer.unwrap(), vec![7; BLOCK]);
        // A checkpoint that fills its own limit takes nothing from this one, nor the other way round.
        let behind: Vec<_> = (0..3).map(|_| file.background().try_read(vec![0; BLOCK], 0).unwrap()).collect();
        assert!(file.background().try_read(vec![0; BLOCK], 0).is_err());
        std::thread::scope(|threads| {
            let waits = threads.spawn(|| file.read(vec![0; BLOCK], BLOCK as u64).wait().unwrap());
            gate.open();
            assert_eq!(waits.join().unwrap(), content[BLOCK..2 * BLOCK]);
        });
        for ticket in held.into_iter().chain(behind) {
            assert_eq!(ticket.wait().unwrap(), content[..BLOCK]);
        }
        assert_eq!(aio.wait().unwrap(), 7);
        assert_eq!(gate.offences(), Vec::<String>::new());
    });
}

#[test]
fn a_sync_and_a_write_that_wait_for_room_do_not_wait_for_each_other() {
    each_backend("one op at a time", |backend, direct| {
        let mut config = small(1, 4, direct);
        config.max_pending_ops = 1;
        let (aio, gate) = gated(backend, &Arc::new(Plain), config);
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, 8 * BLOCK))).unwrap();
        for _ in 0..50 {
            gate.close();
            let first = file.write(vec![1; BLOCK], 0);
            gate.wait_for(1);
            std::thread::scope(|scope| {
                for i in 1..4 {
                    let file = &file;
                    scope.spawn(move || file.write(vec![2; BLOCK], i * BLOCK as u64).wait().unwrap());
                    scope.spawn(move || file.sync_data().wait().unwrap());
                }
                gate.open();
                first.wait().unwrap();
            });
        }
    });
}
