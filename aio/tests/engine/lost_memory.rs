//! Invariant 1, its exception: memory that a broken queue leaves with the kernel is never given back.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aio::op::{Direction, RawOp};
use aio::{AioHandle, DirectMode, Error};
use aio_core::backend::{Completion, IoBlock};

use crate::BLOCK;
use crate::scripted::{Script, Scripted};
use crate::support::child::alone;
use crate::support::log::log_to;
use crate::support::{Folder, finishes, pattern, small};

/// The first block fails, and then the queue breaks with the others in flight for ever.
#[derive(Debug, Default)]
struct Loses(AtomicUsize);

impl Script for Loses {
    fn reap(&self, in_flight: &mut VecDeque<IoBlock>) -> io::Result<Completion> {
        match self.0.fetch_add(1, Ordering::SeqCst) {
            0 => {
                let block = in_flight.pop_front().expect("asked only with blocks in flight");
                Ok(Completion { token: block.token, result: Err(io::Error::from_raw_os_error(libc::EIO)) })
            }
            _ => Err(io::Error::from_raw_os_error(libc::EBADF)),
        }
    }

    fn loses(&self) -> bool {
        true
    }
}

#[test]
fn whoever_lent_memory_that_is_lost_is_told_so_whatever_failed_before() {
    finishes("lost memory", || {
        let folder = Folder::new();
        let path = folder.file("t", &pattern(1, 4 * BLOCK));
        // Never unmapped, as the contract wants it for memory that is lost.
        let memory = Box::leak(vec![0; 4 * BLOCK].into_boxed_slice());
        let script = Arc::new(Loses::default());
        let aio = AioHandle::with_backend(Arc::new(Scripted(script.clone())), small(1, 8, DirectMode::Off)).unwrap();
        let file = aio.open(&path).unwrap();
        let op = RawOp::new(Direction::Write, file.target(), 0, memory.as_mut_ptr(), memory.len());
        // SAFETY: the memory is there for ever, and nothing else uses it.
        let failed = unsafe { aio.submit_raw(op) }.wait().unwrap_err();
        assert!(matches!(failed.error(), Error::WorkerDied { .. }), "{failed}");
        assert!(failed.to_string().contains("Input/output error"), "the first failure is reported too: {failed}");
        assert_eq!(script.0.load(Ordering::SeqCst), 2);

        // An owned buffer stays with the kernel.
        let script = Arc::new(Loses::default());
        let aio = AioHandle::with_backend(Arc::new(Scripted(script)), small(1, 8, DirectMode::Off)).unwrap();
        let failed = aio.open(&path).unwrap().read(vec![0; 4 * BLOCK], 0).wait().unwrap_err();
        assert!(matches!(failed.error(), Error::WorkerDied { .. }), "{failed}");
        assert!(failed.into_buffer().is_none(), "a buffer that the kernel may use was given back");
    });
}

#[test]
fn lost_memory_stays_with_the_kernel_whatever_the_log_does() {
    alone("lost_memory::lost_memory_stays_with_the_kernel_whatever_the_log_does", || {
        log_to(|_| panic!("on purpose"));
        finishes("lost memory", || {
            let folder = Folder::new();
            let path = folder.file("t", &pattern(1, 4 * BLOCK));
            let aio =
                AioHandle::with_backend(Arc::new(Scripted(Arc::<Loses>::default())), small(1, 8, DirectMode::Off));
            let memory: Arc<[u8]> = vec![1; 4 * BLOCK].into();
            let failed = aio.unwrap().open(&path).unwrap().write(memory.clone(), 0).wait().unwrap_err();
            assert!(matches!(failed.error(), Error::WorkerDied { .. }), "{failed}");
            assert!(failed.into_buffer().is_none(), "a buffer that the kernel may use was given back");
            assert!(Arc::strong_count(&memory) > 1, "memory that the kernel may use was given back");
        });
    });
}
