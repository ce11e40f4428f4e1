//! Handles beside each other, and handles that go while something is left to do: what belongs to one is not taken for
//! another's, and closing one is the end of it.

#[path = "support/scripted.rs"]
mod scripted;
mod support;

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, OnceLock, mpsc};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use aio::op::{Direction, Extent, ExtentMemory, IoOpDesc, Outcome, RawOp, Target};
use aio::{AioConfig, AioFile, AioHandle, Backend, DirectMode, Error, Ticket};
use aio_core::backend::{Capabilities, Completion, IoBackend, IoBlock, IoQueue, QueueConfig, Unavailable};
use aio_testkit::conformance::refusing;
use aio_testkit::fault::{Fate, Gate, Plain, Rules};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use scripted::{Script, Scripted};
use support::child::alone;
use support::{Folder, Memory, each_backend, finishes, gated, pattern, small};

const BLOCK: usize = 16 << 10;

fn plain(backend: Backend, direct: DirectMode) -> AioHandle {
    aio::builder().backend(backend).config(small(1, 8, direct)).build().expect("the probe succeeded")
}

/// A descriptor of a test's own: one extent, and something to do at the end.
struct Custom {
    direction: Direction,
    target: Target,
    extents: [Extent; 1],
    memory: Mutex<Vec<u8>>,
    at_the_end: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Custom {
    fn new(direction: Direction, file: &AioFile, mut memory: Vec<u8>) -> Self {
        let ptr = NonNull::new(memory.as_mut_ptr()).expect("an address");
        let extent = Extent { offset: 0, len: memory.len(), memory: Some(ExtentMemory { ptr, region: None }) };
        let (memory, at_the_end) = (Mutex::new(memory), Mutex::default());
        Self { direction, target: file.target(), extents: [extent], memory, at_the_end }
    }

    fn then(self, at_the_end: impl FnOnce() + Send + 'static) -> Self {
        *self.at_the_end.lock().unwrap() = Some(Box::new(at_the_end));
        self
    }

    /// The bytes are there, and the extent does not say where.
    fn without_memory(mut self) -> Self {
        self.extents[0].memory = None;
        self
    }
}

// SAFETY: the memory belongs to the descriptor, which does nothing with it before it is dropped, after `fini`.
unsafe impl IoOpDesc for Custom {
    fn direction(&self) -> Direction {
        self.direction
    }

    fn target(&self) -> &Target {
        &self.target
    }

    fn extents(&self) -> &[Extent] {
        &self.extents
    }

    fn fini(&self, _outcome: &Outcome) {
        if let Some(run) = self.at_the_end.lock().unwrap().take() {
            run();
        }
        assert!(!self.memory.lock().unwrap().is_empty());
    }
}

// ---- what belongs to another handle ----

#[test]
fn files_of_one_handle_in_ops_of_another() {
    each_backend("files of another handle", |backend, direct| {
        let folder = Folder::new();
        let (first, second) = (plain(backend, direct), plain(backend, direct));
        let paths = [folder.file("a", &[b'a'; BLOCK]), folder.file("b", &[b'b'; BLOCK])];
        // Both were the first file of their handle.
        let (a, b) = (first.open(&paths[0]).unwrap(), second.open(&paths[1]).unwrap());
        for (file, byte) in [(&a, b'a'), (&b, b'b')] {
            assert_eq!(file.read(vec![0; BLOCK], 0).wait().unwrap(), vec![byte; BLOCK]);
        }
        let mut found = second.alloc(BLOCK).unwrap();
        second.scope(|scope| scope.read(&a, &mut found[..], 0)).unwrap();
        assert!(found.iter().all(|byte| *byte == b'a'), "the other file was read");
        found.fill(b'X');
        second.scope(|scope| scope.write(&a, &found[..], 0)).unwrap();
        let contents = || paths.each_ref().map(|path| std::fs::read(path).unwrap());
        assert!(contents() == [vec![b'X'; BLOCK], vec![b'b'; BLOCK]], "the bytes went into the other file");
        second.submit(Custom::new(Direction::Write, &a, vec![b'Y'; BLOCK])).wait().unwrap();
        assert!(contents() == [vec![b'Y'; BLOCK], vec![b'b'; BLOCK]], "the bytes went into the other file");
        first.submit(Custom::new(Direction::Write, &b, vec![b'Z'; BLOCK])).wait().unwrap();
        assert!(contents() == [vec![b'Y'; BLOCK], vec![b'Z'; BLOCK]], "the bytes went into the other file");
        // Also when the handle that opened it is closed: the file is open still.
        first.close().unwrap();
        second.submit(Custom::new(Direction::Write, &a, vec![b'W'; BLOCK])).wait().unwrap();
        assert!(contents() == [vec![b'W'; BLOCK], vec![b'Z'; BLOCK]]);
    });
}

/// A handle with an arena of its own.
fn limited(backend: Backend, direct: DirectMode) -> AioHandle {
    let mut config = small(1, 4, direct);
    config.arena_limit = Some(64 << 20);
    gated(backend, &Arc::new(Plain), config).0
}

#[test]
fn buffers_of_one_handle_in_ops_of_another() {
    each_backend("buffers of another handle", |backend, direct| {
        let folder = Folder::new();
        let content = pattern(1, BLOCK);
        let path = folder.file("t", &content);
        let read = |aio: &AioHandle, of: &AioHandle| {
            let before = aio.stats().bytes_fixed;
            let buffer = aio.open(&path).unwrap().read(of.alloc(BLOCK).unwrap(), 0).wait().unwrap();
            assert!(buffer[..] == content, "the bytes are not where they belong");
            aio.stats().bytes_fixed - before
        };
        let control = limited(backend, direct);
        let own = read(&control, &control);
        for own_first in [true, false] {
            let (aio, other) = (limited(backend, direct), limited(backend, direct));
            // Each has memory in the slot in which the other's is.
            let (mine, theirs) = (aio.alloc(BLOCK).unwrap(), other.alloc(BLOCK).unwrap());
            if own_first {
                assert_eq!(read(&aio, &aio), own);
            }
            assert_eq!(read(&aio, &other), 0, "registered with another handle's queues");
            assert_eq!(read(&other, &aio), 0, "registered with another handle's queues");
            // And what it was given before does not keep it from using its own.
            assert_eq!(read(&aio, &aio), own);
            assert_eq!(read(&other, &other), own);
            drop((mine, theirs));
            // Nor does memory of a region that it does not have yet.
            let (aio, other) = (limited(backend, direct), limited(backend, direct));
            assert_eq!(read(&aio, &other), 0);
            assert_eq!(read(&aio, &aio), own);
        }
        let (buffer, other) = (control.alloc(BLOCK).unwrap(), limited(backend, direct));
        drop(control);
        // The memory outlives its handle.
        let buffer = other.open(&path).unwrap().read(buffer, 0).wait().unwrap();
        assert!(buffer[..] == content);
    });
}

// ---- bad memory ----

#[test]
fn memory_that_is_not_there_is_never_written() {
    each_backend("no memory", |backend, direct| {
        let folder = Folder::new();
        let content = pattern(1, BLOCK);
        let path = folder.file("t", &content);
        let aio = plain(backend, direct);
        let file = aio.open(&path).unwrap();
        for direction in [Direction::Write, Direction::Read] {
            for len in [1, 4096, 2 * BLOCK] {
                let op = RawOp::new(direction, file.target(), 0, std::ptr::null_mut(), len);
                // SAFETY: there is no memory, which is refused.
                let failed = unsafe { aio.submit_raw(op) }.wait().unwrap_err();
                assert!(matches!(failed.error(), Error::InvalidInput(_)), "{failed}");
                assert!(failed.to_string().contains(&format!("no memory for {len} bytes at offset 0")), "{failed}");
            }
            let op = RawOp::new(direction, file.target(), 0, std::ptr::null_mut(), 0);
            // SAFETY: no bytes need no memory.
            unsafe { aio.submit_raw(op) }.wait().unwrap();
            let failed =
                aio.submit(Custom::new(direction, &file, vec![1; BLOCK]).without_memory()).wait().unwrap_err();
            let expected = if direction == Direction::Write { "gather" } else { "scatter" };
            let Error::Panicked { callback, .. } = failed.error() else { panic!("{failed}") };
            assert_eq!(*callback, expected);
            assert!(std::fs::read(&path).unwrap() == content, "something was written");
        }
    });
}

// ---- cancelling ----

#[test]
fn cancelling_may_drop_the_last_handle() {
    each_backend("the last handle in a cancelled op", |backend, direct| {
        let (aio, gate) = gated(backend, &Arc::new(Plain), small(1, 1, direct));
        let folder = Folder::new();
        let file = aio.open(folder.file("t", &pattern(1, BLOCK))).unwrap();
        gate.close();
        let first = file.read(vec![0; BLOCK], 0);
        gate.wait_for(1);
        // The queue is full, so nobody begins this one.
        let last = aio.clone();
        let second = aio.submit(Custom::new(Direction::Read, &file, vec![0; BLOCK]).then(move || drop(last)));
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
        while self.read.load(Ordering::SeqCst) < blocks {
            std::thread::yield_now();
        }
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

// ---- closing ----

/// Holds up the thread that ended an op, until the test lets it go.
struct HoldsUp {
    held: mpsc::Sender<()>,
    go: Mutex<mpsc::Receiver<()>>,
}

impl Wake for HoldsUp {
    fn wake(self: Arc<Self>) {
        self.held.send(()).unwrap();
        // An error means that the test has failed and is gone.
        let _ = self.go.lock().unwrap().recv();
    }
}

#[test]
fn closing_waits_for_every_thread_whoever_else_closes() {
    each_backend("two that close", |backend, direct| {
        for syncs in [false, true] {
            let (aio, gate) = gated(backend, &Arc::new(Plain), small(2, 4, direct));
            let folder = Folder::new();
            let file = aio.open(folder.file("t", &pattern(1, BLOCK))).unwrap();
            gate.close();
            let mut write = file.write(vec![1; BLOCK], 0);
            gate.wait_for(1);
            // Its thread starts when the write has ended, after the handle was closed.
            let mut sync = file.sync_data();
            let (held, is_held) = mpsc::channel();
            let (go, may_go) = mpsc::channel();
            let waker = Waker::from(Arc::new(HoldsUp { held, go: Mutex::new(may_go) }));
            let mut context = Context::from_waker(&waker);
            let pending = if syncs {
                Pin::new(&mut sync).poll(&mut context).is_pending()
            } else {
                Pin::new(&mut write).poll(&mut context).is_pending()
            };
            assert!(pending);
            let (closed, is_closed) = mpsc::channel();
            let closers: Vec<_> = (0..3)
                .map(|_| {
                    let (aio, closed) = (aio.clone(), closed.clone());
                    std::thread::spawn(move || {
                        aio.close().unwrap();
                        closed.send(()).unwrap();
                    })
                })
                .collect();
            while !matches!(aio.open("/dev/null"), Err(Error::Closed)) {
                std::thread::yield_now();
            }
            assert_eq!(gate.kept(), 1);
            gate.open();
            is_held.recv().unwrap();
            // A thread of the handle is in the waker. Long enough to find a close that does not wait for it; one that
            // does cannot return, however slow the machine.
            let early = is_closed.recv_timeout(Duration::from_millis(300));
            go.send(()).unwrap();
            assert!(early.is_err(), "closed, with a thread still at work");
            for closer in closers {
                closer.join().unwrap();
            }
            write.wait().unwrap();
            sync.wait().unwrap();
        }
    });
}

/// Runs something when it is woken.
struct Then(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Wake for Then {
    fn wake(self: Arc<Self>) {
        let then = self.0.lock().unwrap().take();
        then.into_iter().for_each(|then| then());
    }
}

#[test]
fn the_last_handles_of_two_may_go_on_each_others_threads() {
    each_backend("two last handles", |backend, direct| {
        let folder = Folder::new();
        let path = folder.file("t", &pattern(1, 4 * BLOCK));
        let rules = Arc::new(Plain);
        // On workers, and on threads for file operations.
        for syncs in [false, true] {
            let both = Arc::new(Barrier::new(2));
            let (tell, told) = mpsc::channel();
            let open = || {
                let (aio, gate) = gated(backend, &rules, small(1, 4, direct));
                gate.close();
                (aio.open(&path).unwrap(), aio, gate)
            };
            let handles = [open(), open()];
            let tickets = [0, 1].map(|index| {
                let ((file, _, gate), other) = (&handles[index], &handles[1 - index]);
                let (other, both, tell) = ((other.0.clone(), other.1.clone()), both.clone(), tell.clone());
                let then = move || {
                    // From here on each handle has a thread at work on the other.
                    both.wait();
                    let refused = |closed: aio::Result<()>| matches!(closed, Err(Error::WaitOnWorker));
                    let refuses = refused(other.1.clone().close()) && refused(other.0.clone().close());
                    drop(other);
                    tell.send(refuses).unwrap();
                };
                let mut write = file.write(vec![1; BLOCK], 0);
                gate.wait_for(1);
                // A sync begins when the write before it has ended.
                let mut sync = file.sync_data();
                let waker = Waker::from(Arc::new(Then(Mutex::new(Some(Box::new(then))))));
                let mut context = Context::from_waker(&waker);
                let pending = if syncs {
                    Pin::new(&mut sync).poll(&mut context).is_pending()
                } else {
                    Pin::new(&mut write).poll(&mut context).is_pending()
                };
                assert!(pending);
                (write, sync)
            });
            let gates = handles.map(|(_file, _aio, gate)| gate);
            gates.iter().for_each(|gate| gate.open());
            assert!(told.recv().unwrap() && told.recv().unwrap(), "a worker closed what it could wait for");
            for (write, sync) in tickets {
                write.wait().unwrap();
                sync.wait().unwrap();
            }
        }
        // The last thread of an engine lets go of its backend.
        while Arc::strong_count(&rules) > 1 {
            std::thread::yield_now();
        }
    });
}

#[test]
fn a_worker_that_cancels_for_another_handle_is_still_a_worker() {
    each_backend("nested workers", |backend, direct| {
        let folder = Folder::new();
        let path = folder.file("t", &pattern(1, 4 * BLOCK));
        let (one, _) = gated(backend, &Arc::new(Plain), small(1, 4, direct));
        let (other, gate) = gated(backend, &Arc::new(Plain), small(1, 1, direct));
        let (file, others) = (one.open(&path).unwrap(), other.open(&path).unwrap());
        gate.close();
        let first = others.read(vec![0; BLOCK], 0);
        gate.wait_for(1);
        // The queue is full, so this one ends on the thread that cancels it: the worker of the first handle.
        let (tell, told) = mpsc::channel();
        let waits = one.clone();
        let inner = Custom::new(Direction::Read, &others, vec![0; BLOCK]).then(move || {
            tell.send(matches!(waits.wait(), Err(Error::WaitOnWorker))).unwrap();
        });
        let inner = other.submit(inner);
        let outer = Custom::new(Direction::Read, &file, vec![0; BLOCK]).then(move || inner.cancel());
        one.submit(outer).wait().unwrap();
        assert!(told.recv().unwrap(), "a worker may wait for its own handle");
        gate.open();
        first.wait().unwrap();
    });
}

// ---- a queue that loses blocks ----

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
        // SAFETY: the memory is there for ever, and nobody else uses it.
        let failed = unsafe { aio.submit_raw(op) }.wait().unwrap_err();
        assert!(matches!(failed.error(), Error::WorkerDied { .. }), "{failed}");
        assert!(failed.to_string().contains("Input/output error"), "what came first is told too: {failed}");
        assert_eq!(script.0.load(Ordering::SeqCst), 2);

        // An owned buffer stays with the kernel.
        let script = Arc::new(Loses::default());
        let aio = AioHandle::with_backend(Arc::new(Scripted(script)), small(1, 8, DirectMode::Off)).unwrap();
        let failed = aio.open(&path).unwrap().read(vec![0; 4 * BLOCK], 0).wait().unwrap_err();
        assert!(matches!(failed.error(), Error::WorkerDied { .. }), "{failed}");
        assert!(failed.into_buffer().is_none(), "a buffer that the kernel may use was given back");
    });
}

/// Panics with everything that is said.
struct Panics;

impl tracing::Subscriber for Panics {
    fn enabled(&self, _what: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        panic!("on purpose");
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn lost_memory_stays_with_the_kernel_whatever_the_log_does() {
    alone("lost_memory_stays_with_the_kernel_whatever_the_log_does", || {
        tracing::subscriber::set_global_default(Panics).unwrap();
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

#[test]
fn ops_end_whatever_the_log_does() {
    alone("ops_end_whatever_the_log_does", || {
        tracing::subscriber::set_global_default(Panics).unwrap();
        each_backend("a log that panics", |backend, direct| {
            let aio = plain(backend, direct);
            let folder = Folder::new();
            let file = aio.open(folder.file("t", &pattern(1, 4 * BLOCK))).unwrap();
            let past_the_end = 8 * BLOCK as u64;
            // Failures that nobody looks at go to the log: from the worker, and from the thread that drops the ticket.
            drop(file.read(vec![0; BLOCK], past_the_end));
            let ended = file.read(vec![0; BLOCK], past_the_end);
            while !ended.is_done() {
                std::thread::yield_now();
            }
            drop(ended);
            let Error::Failures(failures) = aio.wait().unwrap_err() else { panic!() };
            assert_eq!(failures.errors.len(), 2, "{failures}");
            // So do those of a scope that unwinds, which goes on with the panic of its body.
            let unwound = catch_unwind(AssertUnwindSafe(|| {
                aio.scope(|scope| {
                    scope.read(&file, vec![0; BLOCK], past_the_end);
                    panic!("the body");
                })
            }));
            assert_eq!(unwound.unwrap_err().downcast_ref(), Some(&"the body"));
            assert!(file.read(vec![0; BLOCK], 0).wait().unwrap() == pattern(1, BLOCK));
            aio.close().unwrap();
        });
    });
}

/// Has no queues, and says so with a payload whose drop panics.
#[derive(Debug)]
struct Explodes;

impl IoBackend for Explodes {
    fn name(&self) -> &'static str {
        "explodes"
    }

    fn probe(&self) -> Result<Capabilities, Unavailable> {
        Err(Unavailable::new("explodes", "it always does", None))
    }

    fn open_queue(&self, _config: &QueueConfig) -> Result<Box<dyn IoQueue>, Unavailable> {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("the payload's drop, too");
            }
        }
        std::panic::panic_any(Bomb)
    }
}

#[test]
fn a_backend_that_panics_is_not_available() {
    alone("a_backend_that_panics_is_not_available", || {
        let Err(Error::Unavailable(unavailable)) = AioHandle::with_backend(Arc::new(Explodes), AioConfig::default())
        else {
            panic!("there is a handle without a queue");
        };
        assert!(unavailable.reason.contains("panicked"), "{unavailable}");
    });
}

// ---- blocking calls ----

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
    alone("a_limit_of_file_sizes_that_comes_later_is_an_error_and_no_signal", || {
        let limit = |bytes| setrlimit(Resource::RLIMIT_FSIZE, bytes, RLIM_INFINITY).unwrap();
        // SAFETY: the default takes no memory. Anything else than the default would not end this process.
        unsafe { sigaction(Signal::SIGXFSZ, &SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty())) }
            .unwrap();
        for backend in support::backends() {
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
