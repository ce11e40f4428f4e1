//! Small blocking calls run on the caller's thread, with its memory and its signal mask.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aio::{DirectMode, Error};
use aio_core::backend::IoBlock;
use aio_testkit::conformance::refusing;
use aio_testkit::fault::{Fate, Rules};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::support::child::alone;
use crate::support::{Folder, Memory, backends, each_backend, gated, pattern, small};
use crate::{BLOCK, plain};

/// Counts the blocks that went to a queue.
#[derive(Debug, Default)]
struct Queued(AtomicUsize);

impl Rules for Queued {
    fn block(&self, _queue: usize, _block: &IoBlock) -> Fate {
        self.0.fetch_add(1, Ordering::SeqCst);
        Fate::Transfer
    }
}

#[test]
fn a_block_in_memory_of_any_address_is_moved_on_the_callers_thread() {
    each_backend("blocking calls", |backend, direct| {
        let rules = Arc::new(Queued::default());
        let (aio, _) = gated(backend, &rules, small(1, 4, direct));
        let folder = Folder::new();
        let content = pattern(1, 4 * BLOCK);
        let path = folder.file("t", &content);
        let file = aio.open(&path).unwrap();
        let staged = if file.is_direct() { 4096 } else { 0 };
        if direct == DirectMode::Auto && !file.is_direct() {
            eprintln!("SKIPPED: no direct I/O in {}, so nothing is staged", path.display());
        }
        let mut memory = Memory::odd(4096);
        // More often than there are bounce buffers.
        for i in 0..10 {
            let before = aio.stats();
            file.read_at(memory.bytes_mut(), 4096).unwrap();
            assert!(memory.bytes() == &content[4096..8192]);
            memory.bytes_mut().fill(i);
            file.write_at(memory.bytes(), 8192).unwrap();
            assert!(std::fs::read(&path).unwrap()[8192..12_288].iter().all(|byte| *byte == i));
            let after = aio.stats();
            assert_eq!(after.ops - before.ops, 2);
            assert_eq!(after.blocks - before.blocks, 2);
            assert_eq!(after.bytes_staged - before.bytes_staged, 2 * staged);
            assert_eq!(after.bytes_direct - before.bytes_direct, 2 * staged);
        }
        // From the end of the file, what is there is delivered.
        let error = file.read_at(memory.bytes_mut(), 4 * BLOCK as u64).unwrap_err();
        assert!(matches!(error, Error::UnexpectedEof { read: 0, .. }), "{error}");
        assert_eq!(rules.0.load(Ordering::SeqCst), 0, "blocks went to a worker");
        // Up to here it was the caller; more than a block is for the workers.
        file.read_at(Memory::odd(2 * BLOCK).bytes_mut(), 0).unwrap();
        assert!(rules.0.load(Ordering::SeqCst) > 0);
    });
}

#[test]
fn a_limit_of_file_sizes_that_comes_later_is_an_error_and_no_signal() {
    alone("on_caller::a_limit_of_file_sizes_that_comes_later_is_an_error_and_no_signal", || {
        let limit = |bytes| setrlimit(Resource::RLIMIT_FSIZE, bytes, RLIM_INFINITY).unwrap();
        // SAFETY: the default takes no memory. Anything else than the default would not end this process.
        unsafe { sigaction(Signal::SIGXFSZ, &SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty())) }
            .unwrap();
        for backend in backends() {
            for (direct, durable) in [
                (DirectMode::Auto, false),
                (DirectMode::Auto, true),
                (DirectMode::Off, false),
                (DirectMode::Off, true),
            ] {
                let aio = plain(backend, direct);
                let folder = Folder::new();
                let content = pattern(1, 8 * BLOCK);
                let path = folder.file("t", &content);
                let file = aio.open(&path).unwrap().durable(durable);
                let before = SigSet::thread_get_mask().unwrap();
                assert!(!before.contains(Signal::SIGXFSZ));
                limit(BLOCK as u64);
                // In whole units and not, past the limit and across it: none makes the file longer.
                for (at, len) in [(2 * BLOCK, 4096), (3 * BLOCK + 7, 100), (BLOCK - 4096, 8192), (BLOCK - 10, 77)] {
                    let error = file.write_at(&vec![2; len], at as u64).unwrap_err();
                    assert_eq!(error.raw_os_error(), Some(libc::EFBIG), "{error}");
                }
                file.write_at(&[3; 4096], 4096).unwrap();
                // Without a thread for it, a change of length is made on the caller's.
                let grow = || file.set_len(9 * BLOCK as u64).wait().unwrap_err().into_error().raw_os_error();
                let alone = refusing(&[libc::SYS_clone, libc::SYS_clone3], libc::EAGAIN, grow);
                assert!(alone.is_none_or(|errno| errno == Some(libc::EFBIG)), "{alone:?}");
                assert_eq!(grow(), Some(libc::EFBIG));
                // No signal waits for the mask to change, and the mask is as it was.
                assert_eq!(SigSet::thread_get_mask().unwrap(), before);
                // A thread that blocks the signal itself goes on blocking it.
                SigSet::from(Signal::SIGXFSZ).thread_block().unwrap();
                file.write_at(&[2; 100], 3 * BLOCK as u64).unwrap_err();
                assert!(SigSet::thread_get_mask().unwrap().contains(Signal::SIGXFSZ));
                assert_eq!(SigSet::from(Signal::SIGXFSZ).wait().unwrap(), Signal::SIGXFSZ);
                before.thread_set_mask().unwrap();
                limit(RLIM_INFINITY);
                file.write_at(&[4; 100], 3 * BLOCK as u64).unwrap();
                let found = std::fs::read(&path).unwrap();
                assert!(found[2 * BLOCK..3 * BLOCK] == content[2 * BLOCK..3 * BLOCK], "a refused write left bytes");
                assert_eq!((found.len(), &found[4096..8192]), (8 * BLOCK, &[3; 4096][..]));
                drop((file, aio));
                // Whether a backend works is seen by a write, too.
                limit(0);
                let probed = backend.probe().map(drop);
                limit(RLIM_INFINITY);
                probed.unwrap_err();
            }
        }
    });
}
