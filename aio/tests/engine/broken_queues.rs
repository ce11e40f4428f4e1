//! Invariant 4: the ops of a worker whose queue breaks fail, and the other workers go on.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use aio::Error;
use aio_core::backend::{Completion, IoBlock};
use aio_testkit::fault::{Fate, Rules};

use crate::support::{Folder, each_backend, gated, pattern, small, until_in_flight};
use crate::{BLOCK, assert_alive, died};

/// Breaks the queue that a test picks.
#[derive(Debug, Default)]
struct Breaks {
    /// The queue that is broken, plus one.
    broken: AtomicUsize,
    /// The next queue that is woken breaks.
    armed: AtomicBool,
    /// Whose blocks are kept back, plus one.
    holder: AtomicUsize,
}

impl Rules for Breaks {
    fn block(&self, queue: usize, _block: &IoBlock) -> Fate {
        self.holder.store(queue + 1, Ordering::SeqCst);
        Fate::Transfer
    }

    fn reap(&self, queue: usize) -> io::Result<()> {
        if self.broken.load(Ordering::SeqCst) == queue + 1 {
            return Err(io::Error::from_raw_os_error(libc::EBADFD));
        }
        Ok(())
    }

    fn woken(&self, queue: usize) {
        if self.armed.swap(false, Ordering::SeqCst) {
            self.broken.store(queue + 1, Ordering::SeqCst);
        }
    }
}

#[test]
fn the_ops_of_a_dead_worker_fail_and_so_does_what_comes_later() {
    each_backend("the last worker dies", |backend, direct| {
        let rules = Arc::new(Breaks::default());
        let (aio, gate) = gated(backend, &rules, small(1, 4, direct));
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, 40 * BLOCK))).unwrap();
        gate.close();
        // In flight, partly claimed, and waiting.
        let tickets: Vec<_> = (0..3).map(|i| file.read(vec![0; 10 * BLOCK], i * 10 * BLOCK as u64)).collect();
        drop(file.read(vec![0; BLOCK], 0));
        gate.wait_for(4);
        until_in_flight(&aio);
        rules.broken.store(1, Ordering::SeqCst);
        gate.wake(0);
        for ticket in tickets {
            let failed = ticket.wait().unwrap_err();
            assert!(died(failed.error()), "{failed:?}");
            // All that the queue had never reached the kernel, so the memory is free.
            assert!(failed.into_buffer().is_some());
        }
        let Error::Failures(failures) = aio.wait().unwrap_err() else { panic!() };
        assert!(matches!(&failures.errors[..], [error] if died(error)), "{failures}");
        for _ in 0..3 {
            assert!(died(file.read(vec![0; BLOCK], 0).wait().unwrap_err().error()));
            assert!(died(file.try_read(vec![0; BLOCK], 0).unwrap_err().error()));
            let Error::Failures(failures) = aio.scope(|s| s.read(&file, vec![0; BLOCK], 0)).unwrap_err() else {
                panic!()
            };
            assert!(died(&failures.errors[0]));
            assert_eq!(aio.wait().unwrap(), 0);
        }
        assert_eq!(aio.stats().in_flight, 0);
        file.close().unwrap();
        aio.close().unwrap();
        // The queue was drained before it was dropped.
        assert_eq!(gate.offences(), Vec::<String>::new());
    });
}

#[test]
fn work_goes_on_when_the_worker_that_was_woken_for_it_dies() {
    each_backend("one of two dies on waking", |backend, direct| {
        let rules = Arc::new(Breaks::default());
        let mut config = small(2, 4, direct);
        config.spin = Duration::ZERO;
        let (aio, _) = gated(backend, &rules, config);
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, BLOCK))).unwrap();
        rules.armed.store(true, Ordering::SeqCst);
        // Until one of them was asleep and had to be woken.
        while rules.armed.load(Ordering::SeqCst) {
            assert!(file.read(vec![0; BLOCK], 0).wait().unwrap() == pattern(1, BLOCK));
        }
        assert_alive(&aio, &folder);
    });
}

#[test]
fn work_goes_on_when_the_only_worker_awake_dies() {
    each_backend("the busy one of two dies", |backend, direct| {
        let rules = Arc::new(Breaks::default());
        let mut config = small(2, 1, direct);
        config.spin = Duration::ZERO;
        let (aio, gate) = gated(backend, &rules, config);
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, BLOCK))).unwrap();
        gate.close();
        let first = file.read(vec![0; BLOCK], 0);
        gate.wait_for(1);
        let holder = rules.holder.load(Ordering::SeqCst);
        let second = file.read(vec![0; BLOCK], 0);
        rules.broken.store(holder, Ordering::SeqCst);
        gate.wake(holder - 1);
        assert!(died(first.wait().unwrap_err().error()));
        gate.wait_for(1);
        gate.open();
        assert!(second.wait().unwrap() == pattern(1, BLOCK));
        assert_alive(&aio, &folder);
    });
}

/// Reports a block twice, or one that was not submitted.
#[derive(Debug, Default)]
struct Liar {
    lies: AtomicUsize,
}

impl Rules for Liar {
    fn reaped(&self, _queue: usize, done: &mut Vec<Completion>) {
        if let Some(first) = done.first()
            && self.lies.fetch_add(1, Ordering::SeqCst) == 0
        {
            let token = first.token;
            done.push(Completion { token, result: Ok(1) });
        }
    }
}

#[test]
fn a_completion_that_nobody_waits_for_ends_the_worker_and_nothing_else() {
    each_backend("a lie", |backend, direct| {
        let rules = Arc::new(Liar::default());
        let (aio, _) = gated(backend, &rules, small(2, 4, direct));
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, 64 * BLOCK))).unwrap();
        let results: Vec<_> = (0..20).map(|_| file.read(vec![0; 8 * BLOCK], 0)).collect();
        for result in results.into_iter().map(|ticket| ticket.wait()) {
            match result {
                Ok(buffer) => assert!(buffer == pattern(1, 64 * BLOCK)[..8 * BLOCK]),
                Err(failed) => assert!(died(failed.error()), "{failed}"),
            }
        }
        assert_alive(&aio, &folder);
    });
}
