//! The backend that misbehaves on purpose: what it does not break keeps the contract, and a plan does what it says.

mod support;

use std::sync::{Arc, Mutex};

use aio::op::Direction;
use aio::{DirectMode, Error};
use aio_core::backend::{Completion, IoBlock};
use aio_testkit::fault::{Fate, FaultBackend, Faults, Plain, Plan, Rules};
use support::child::alone;
use support::{Folder, backends, finishes, pattern, small};

/// Late, out of order and slow is all within the contract.
#[test]
fn delays_keep_the_contract_of_a_queue() {
    for backend in backends() {
        let faults = Faults { delays: 400, slow_reaps: 20, ..Faults::default() };
        let plan = Arc::new(Plan::new(1, faults));
        let real = backend.implementation().expect("compiled in");
        aio_testkit::conformance::queue(&FaultBackend::new(real, plan.clone()));
        let injected = plan.injected();
        assert!(injected.delayed > 100 && injected.slow_reaps > 10, "{injected:?}");
        assert_eq!(injected.total(), injected.delayed + injected.slow_reaps);
    }
}

#[test]
fn every_survivable_fault_is_injected_and_survived() {
    for backend in backends() {
        let plan = Arc::new(Plan::new(7, Faults::survivable()));
        let (aio, gate) = support::gated(backend, &plan, small(2, 8, DirectMode::Auto));
        let folder = Folder::new();
        let content = pattern(3, 4 << 20);
        aio.write_new(folder.path("t"), content.clone()).wait().unwrap();
        support::evict(&folder.path("t"));
        assert!(aio.read_path(folder.path("t"), vec![0; content.len()]).wait().unwrap() == content);
        let file = aio.open(folder.path("t")).unwrap();
        let mut block = vec![0; 10_000];
        for at in (0..content.len() - block.len()).step_by(100_001) {
            file.read_at(&mut block, at as u64).unwrap();
            assert!(block == content[at..at + block.len()]);
        }
        let injected = plan.injected();
        let kinds = [
            injected.short,
            injected.again,
            injected.delayed,
            injected.refused_submits,
            injected.partial_submits,
            injected.slow_reaps,
        ];
        assert!(kinds.iter().all(|count| *count > 0), "{injected:?}");
        assert_eq!((injected.bad_pages, injected.deaths), (0, 0));
        assert_eq!(gate.offences(), Vec::<String>::new());
    }
}

/// A page is bad for all ops, or for none: the plan foretells how each op ends.
#[test]
fn bad_pages_are_where_the_plan_says() {
    const PAGE: usize = 4096;
    for backend in backends() {
        let plan = Arc::new(Plan::new(5, Faults { bad_pages: 200, ..Faults::default() }));
        let (aio, _) = support::gated(backend, &plan, small(1, 8, DirectMode::Auto));
        let folder = Folder::new();
        let content = pattern(3, 100 * PAGE);
        let file = aio.open(folder.file("t", &content)).unwrap();
        let mut failed = [0; 2];
        for page in 0..100 {
            let offset = (page * PAGE) as u64;
            for direction in [Direction::Read, Direction::Write] {
                let ended = by_ticket(&file, direction, &content[page * PAGE..][..PAGE], offset);
                let blocking = blocking(&file, direction, &content[page * PAGE..][..PAGE], offset);
                let foretold = plan.errors(direction, offset, PAGE as u64).first().copied();
                assert_eq!((ended, blocking), (foretold, foretold), "page {page}");
                failed[usize::from(direction == Direction::Write)] += usize::from(foretold.is_some());
            }
        }
        assert!(failed.iter().all(|count| (5..60).contains(count)), "{failed:?}");
        assert!(std::fs::read(file.path()).unwrap() == content);
    }
}

fn by_ticket(file: &aio::AioFile, direction: Direction, bytes: &[u8], offset: u64) -> Option<i32> {
    let ended = match direction {
        Direction::Read => file.read(vec![0; bytes.len()], offset).wait(),
        Direction::Write => file.write(bytes.to_vec(), offset).wait(),
    };
    ended.err().map(|failed| failed.error().raw_os_error().expect("an error of the system"))
}

fn blocking(file: &aio::AioFile, direction: Direction, bytes: &[u8], offset: u64) -> Option<i32> {
    let ended = match direction {
        Direction::Read => file.read_at(&mut vec![0; bytes.len()], offset),
        Direction::Write => file.write_at(bytes, offset),
    };
    ended.err().map(|error| error.raw_os_error().expect("an error of the system"))
}

#[test]
fn a_queue_dies_when_the_plan_says() {
    for backend in backends() {
        let plan = Arc::new(Plan::new(5, Faults { deaths: vec![(0, 10)], ..Faults::default() }));
        let (aio, _) = support::gated(backend, &plan, small(1, 4, DirectMode::Auto));
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(3, 1 << 20))).unwrap();
        let error = file.read(vec![0; 1 << 20], 0).wait().unwrap_err();
        assert!(matches!(error.error(), Error::WorkerDied { .. }), "{error}");
        assert!(error.to_string().contains("a queue that the plan broke"), "{error}");
        assert_eq!(plan.injected().deaths, 1);
        // A later op gets the same error, and nothing hangs.
        assert!(matches!(file.read(vec![0; 100_000], 0).wait().unwrap_err().error(), Error::WorkerDied { .. }));
    }
}

/// Says of a block that the real queue does not have yet that it is done.
#[derive(Debug, Default)]
struct MadeUp(Mutex<Vec<u64>>);

impl Rules for MadeUp {
    fn block(&self, _: usize, block: &IoBlock) -> Fate {
        self.0.lock().unwrap().push(block.token);
        Fate::Transfer
    }

    fn reaped(&self, _: usize, done: &mut Vec<Completion>) {
        let known = std::mem::take(&mut *self.0.lock().unwrap());
        done.extend(known.into_iter().map(|token| Completion { token, result: Ok(4096) }));
    }
}

/// A worker that believed them would give memory back that the real queue is still to use.
#[test]
fn rules_cannot_make_completions_up() {
    for backend in backends() {
        finishes("completions that are made up", move || {
            let folder = Folder::new();
            let (aio, gate) = support::gated(backend, &Arc::new(MadeUp::default()), small(1, 8, DirectMode::Off));
            let path = folder.file("t", &pattern(1, 4096));
            let (file, other) = (aio.open(&path).unwrap(), aio.open(&path).unwrap());
            gate.close();
            let read = file.read(vec![0; 4096], 0);
            gate.wait_for(1);
            // The worker has to give the other file's slot back, so it reaps, and meets the made-up completion.
            drop(other);
            while gate.offences().is_empty() {
                std::thread::yield_now();
            }
            assert!(!read.is_done() && gate.offences()[0].contains("was made up"), "{:?}", gate.offences());
            gate.open();
            assert!(read.wait().unwrap() == pattern(1, 4096));
        });
    }
}

/// In a process of its own: what other tests have in flight would be forked, too.
#[test]
fn a_forked_child_has_no_part_in_it() {
    alone("a_forked_child_has_no_part_in_it", || {
        for backend in backends() {
            let real = backend.implementation().expect("compiled in");
            aio_testkit::conformance::fork(&FaultBackend::new(real, Arc::new(Plain)));
        }
    });
}
