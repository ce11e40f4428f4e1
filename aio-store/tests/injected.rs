//! Transfers that fail: a save that was hit is not saved and says why, and a read that was hit is an error.

mod support;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use aio::op::Direction;
use aio::tensor::{Result, SafeTensors, SaveOptions, TensorSpec, TensorView};
use aio::{AioConfig, AioHandle, Backend, DirectMode};
use aio_core::backend::IoBlock;
use aio_testkit::fault::{Fate, FaultBackend, Rules};
use support::{Generation, PATHS, assert_not_saved, handle, names, pattern};

/// Fails one of the transfers in a direction.
#[derive(Debug, Default)]
struct FailOne {
    writes: bool,
    /// Transfers until then; none if it is far away.
    left: AtomicU64,
    seen: AtomicU64,
}

impl FailOne {
    fn fate(&self, block: &IoBlock) -> Fate {
        if (block.direction == Direction::Write) != self.writes {
            return Fate::Transfer;
        }
        self.seen.fetch_add(1, Ordering::SeqCst);
        match self.left.fetch_sub(1, Ordering::SeqCst) {
            0 => Fate::End(Err(io::Error::from_raw_os_error(libc::EIO))),
            _ => Fate::Transfer,
        }
    }

    fn fail_after(&self, transfers: u64) {
        self.left.store(transfers, Ordering::SeqCst);
        self.seen.store(0, Ordering::SeqCst);
    }
}

const NEVER: u64 = u64::MAX / 2;

impl Rules for FailOne {
    fn block(&self, _queue: usize, block: &IoBlock) -> Fate {
        self.fate(block)
    }

    /// A small write that fails on the thread of the caller goes to a queue, which may do it.
    fn transfer(&self, block: &IoBlock) -> Fate {
        if self.writes { Fate::Transfer } else { self.fate(block) }
    }
}

/// A handle on each backend, with small blocks so that there are many.
fn each(writes: bool, test: impl Fn(&AioHandle, &FailOne) + Send + Sync + 'static) {
    let test = Arc::new(test);
    for backend in Backend::COMPILED.iter().copied() {
        let implementation = backend.implementation().expect("compiled in");
        if !aio_testkit::conformance::require(&*implementation) {
            continue;
        }
        for direct in [DirectMode::Auto, DirectMode::Off] {
            let rules = Arc::new(FailOne { writes, left: NEVER.into(), ..FailOne::default() });
            let mut config = AioConfig::default();
            (config.block_size, config.copy_threads, config.direct) = (256 << 10, 0, direct);
            if writes {
                // Some writes fail while others wait for their memory.
                config.arena_limit = Some(8 << 20);
            }
            let aio =
                AioHandle::with_backend(Arc::new(FaultBackend::new(implementation.clone(), rules.clone())), config);
            let (aio, test) = (aio.expect("the probe succeeded"), test.clone());
            let (ended, watch) = mpsc::channel::<()>();
            let thread = std::thread::spawn(move || {
                let _ended = ended;
                test(&aio, &rules);
            });
            let hangs = watch.recv_timeout(Duration::from_secs(120)) == Err(mpsc::RecvTimeoutError::Timeout);
            assert!(!hangs, "it hangs on {backend}, direct {direct:?}");
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    }
}

const EIO: &str = "Input/output error";

#[test]
fn a_save_of_which_a_write_fails_is_not_saved() {
    each(true, |aio, rules| {
        let tensors: Vec<_> = (0..6).map(|at| (format!("t{at}"), pattern(at, 3 << 20))).collect();
        let views = || tensors.iter().map(|(name, bytes)| (name, TensorView::of([bytes.len()], &bytes[..]).unwrap()));
        for name in PATHS {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(name);
            Generation(1).save(aio, &path).unwrap();
            let before = names(folder.path());
            let options = SaveOptions::new().max_shard_size(6 << 20).durable(false);
            let in_parts = || -> Result<()> {
                let specs = views().map(|(name, _)| TensorSpec::new(name, aio::tensor::Dtype::U8, [3 << 20]));
                let writer = options.begin(aio, &path, specs)?;
                // The last halves first: checksums take reading back.
                for half in [1, 0].map(|half| half * (3 << 19)) {
                    for (name, bytes) in &tensors {
                        // What failed before is to be said in the end, too.
                        let _ = writer.write_at(name, half as u64, &bytes[half..half + (3 << 19)]);
                    }
                }
                writer.finish()
            };
            rules.fail_after(NEVER);
            // As many as there are, on a copy.
            let other = tempfile::tempdir().unwrap();
            options.save(aio, other.path().join(name), views()).unwrap();
            let writes = rules.seen.load(Ordering::SeqCst);
            assert!(writes > 10);
            for at in (0..writes).step_by(writes as usize / 3) {
                for way in [&(|| options.save(aio, &path, views())) as &dyn Fn() -> Result<()>, &in_parts] {
                    // What the save before had in flight.
                    let _ = aio.wait();
                    rules.fail_after(at);
                    assert_not_saved(way(), EIO);
                }
                rules.fail_after(NEVER);
                assert_eq!(names(folder.path()), before, "write {at} of {writes}");
                assert_eq!(Generation::open(aio, folder.path()).unwrap(), Generation(1));
            }
            in_parts().unwrap();
            let set = SafeTensors::open(&handle(), folder.path()).unwrap().verified(true).load().unwrap();
            assert!(tensors.iter().all(|(name, bytes)| set[name].bytes() == bytes));
        }
    });
}

#[test]
fn a_read_that_fails_is_an_error() {
    each(false, |aio, rules| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(PATHS[1]);
        let tensors: Vec<_> = (0..6).map(|at| (format!("t{at}"), pattern(at, 3 << 20))).collect();
        let views =
            || tensors.iter().map(|(name, bytes)| (name, TensorView::of([3 << 10, 1 << 10], &bytes[..]).unwrap()));
        SaveOptions::new().durable(false).save(aio, &path, views()).unwrap();
        let set = SafeTensors::open(aio, &path).unwrap();
        let read_into = || {
            let mut memory: Vec<_> = tensors.iter().map(|(name, bytes)| (name, vec![0u8; bytes.len()])).collect();
            set.read_into(memory.iter_mut().map(|(name, memory)| (name, memory)))
        };
        let save_in_parts = || {
            let specs = [TensorSpec::new("x", aio::tensor::Dtype::U8, [3 << 20])];
            let writer = SaveOptions::new().durable(false).begin(aio, folder.path().join("x.safetensors"), specs)?;
            writer.write_at("x", 3 << 19, &tensors[0].1[3 << 19..])?;
            writer.write_at("x", 0, &tensors[0].1[..3 << 19])?;
            writer.finish()
        };
        let ways: [(&str, &dyn Fn() -> Result<()>); 7] = [
            ("load", &|| set.load().map(drop)),
            ("tensor", &|| set.tensor("t3").map(drop)),
            ("stream", &|| set.stream(0).try_for_each(|read| read.map(drop))),
            ("verify", &|| set.verify().try_for_each(|read| read.map(drop))),
            ("slice", &|| set.slice("t3", &[0..3 << 10, 3..5]).map(drop)),
            ("read_into", &read_into),
            ("a checksum that takes reading back", &save_in_parts),
        ];
        for (what, read) in ways {
            rules.fail_after(NEVER);
            read().unwrap_or_else(|error| panic!("{what}: {error}"));
            let reads = rules.seen.load(Ordering::SeqCst);
            assert!(reads > 0, "{what} reads nothing");
            for at in [0, reads / 2] {
                rules.fail_after(at);
                let error = read().unwrap_err().to_string();
                assert!(error.contains(EIO), "{what}: {error}");
                rules.fail_after(NEVER);
                read().unwrap_or_else(|error| panic!("{what}, again: {error}"));
            }
        }
        let whole = set.verified(true).load().unwrap();
        assert!(tensors.iter().all(|(name, bytes)| whole[name].bytes() == bytes));
        // And of a header.
        rules.fail_after(0);
        let error = SafeTensors::open_files(aio, [&path]).unwrap_err().to_string();
        assert!(error.contains(EIO), "{error}");
    });
}
