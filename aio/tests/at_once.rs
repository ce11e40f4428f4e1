//! Small reads of cached files end while they are submitted, and count as any other.

mod support;

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread::{self, ThreadId};

use aio::backend::IoBlock;
use aio::buf::{IoBuf, IoBufMut};
use aio::op::Direction;
use aio::{AioFile, AioHandle, DirectMode, Error};
use aio_testkit::fault::{Fate, Gate, Rules};
use support::fini::OnFini;
use support::{Folder, backends, block_on, finishes, gated, pattern, small};

const PAGE: usize = 4096;
const LEN: usize = 256 << 10;

/// Lets reads be tried, in one of several ways, and counts them and the blocks of queues.
#[derive(Debug, Default)]
struct Counts {
    tried: AtomicUsize,
    queued: AtomicUsize,
    how: Mutex<How>,
}

#[derive(Debug, Default, Clone, Copy)]
enum How {
    #[default]
    Transfer,
    Cut(usize),
    Fail(i32),
    TooMany,
}

impl Rules for Counts {
    fn block(&self, _queue: usize, _block: &IoBlock) -> Fate {
        self.queued.fetch_add(1, Ordering::SeqCst);
        Fate::Transfer
    }

    fn at_once(&self, block: &IoBlock) -> Fate {
        self.tried.fetch_add(1, Ordering::SeqCst);
        match *self.how.lock().unwrap() {
            How::Transfer => Fate::Transfer,
            How::Cut(len) => Fate::Cut(len),
            How::Fail(errno) => Fate::End(Err(std::io::Error::from_raw_os_error(errno))),
            How::TooMany => Fate::End(Ok(block.len + 1)),
        }
    }
}

impl Counts {
    fn let_them(&self, how: How) {
        *self.how.lock().unwrap() = how;
    }

    /// What `run` had tried, and queued.
    fn during(&self, run: impl FnOnce()) -> (usize, usize) {
        let before = (self.tried.load(Ordering::SeqCst), self.queued.load(Ordering::SeqCst));
        run();
        (self.tried.load(Ordering::SeqCst) - before.0, self.queued.load(Ordering::SeqCst) - before.1)
    }
}

/// A handle on each backend, with a cached file that reads go through the page cache of.
fn each_cached(test: impl Fn(&AioHandle, &AioFile, &[u8], &Counts, &Gate) + Send + Sync + 'static) {
    let test = Arc::new(test);
    for backend in backends() {
        let test = test.clone();
        finishes(&format!("reads at once on {backend}"), move || {
            let rules = Arc::new(Counts::default());
            let mut config = small(1, 8, DirectMode::Auto);
            (config.block_size, config.max_pending_ops) = (64 << 10, 4);
            let (aio, gate) = gated(backend, &rules, config);
            let (folder, content) = (Folder::new(), pattern(1, LEN));
            let path = folder.file("t", &content);
            let file = aio.open(&path).unwrap();
            assert!(std::fs::read(&path).unwrap() == content);
            // The kernel may lack `cachestat(2)`, or keep the file elsewhere.
            let before = aio.stats().bytes_buffered;
            file.read_at(&mut [0; PAGE], 0).unwrap();
            if !file.is_direct() || aio.stats().bytes_buffered == before {
                eprintln!("SKIPPED {backend}: the file is not known to be cached");
                return;
            }
            test(&aio, &file, &content, &rules, &gate);
        });
    }
}

#[test]
fn a_small_read_of_a_cached_file_ends_at_once_and_is_counted() {
    each_cached(|aio, file, content, rules, gate| {
        let _ = aio.wait();
        // Nothing gets through a queue.
        gate.close();
        let ways: [(u64, usize); 4] = [(0, PAGE), (777, 100), (5000, 20_000), (LEN as u64 - 1, 1)];
        for (offset, len) in ways {
            let expected = &content[offset as usize..][..len];
            let before = aio.stats();
            let (tried, queued) = rules.during(|| {
                let ticket = file.read(vec![0; len], offset);
                assert!(ticket.is_done());
                ticket.cancel();
                assert!(ticket.wait().unwrap() == expected);
                assert!(block_on(file.read(vec![0; len], offset)).unwrap() == expected);
                assert!(file.try_read(vec![0; len], offset).unwrap().wait().unwrap() == expected);
                assert!(file.background().read(vec![0; len], offset).wait().unwrap() == expected);
                let mut memory = vec![0; len];
                aio.scope(|scope| scope.read(file, &mut memory[..], offset)).unwrap();
                assert!(memory == expected);
                drop(file.read(vec![0; len], offset));
            });
            assert_eq!((tried, queued), (6, 0), "{len} at {offset}");
            let after = aio.stats();
            assert_eq!((after.ops - before.ops, after.blocks - before.blocks), (6, 6));
            assert_eq!(after.bytes_buffered - before.bytes_buffered, 6 * len as u64);
            assert_eq!((after.bytes_direct, after.bytes_staged), (before.bytes_direct, before.bytes_staged));
            assert_eq!(aio.wait().unwrap(), 6);
        }
        gate.open();
    });
}

#[test]
fn what_is_not_read_at_once_goes_to_the_workers() {
    each_cached(|_aio, file, content, rules, _gate| {
        for how in [How::Cut(1), How::Cut(PAGE - 1), How::Fail(libc::EAGAIN), How::Fail(libc::EIO), How::TooMany] {
            rules.let_them(how);
            let (tried, queued) =
                rules.during(|| assert!(file.read(vec![0; PAGE], 100).wait().unwrap() == content[100..100 + PAGE]));
            assert_eq!((tried, queued), (1, 1), "{how:?}");
        }
        rules.let_them(How::Transfer);
        // The end of the file comes in the middle: the workers say where.
        let error = file.read(vec![0; PAGE], LEN as u64 - 100).wait().unwrap_err();
        assert!(matches!(error.error(), Error::UnexpectedEof { read: 100, .. }), "{error}");
        // Large ones, lists, and those that are compared with the device.
        let (tried, queued) = rules.during(|| {
            assert!(file.read(vec![0; LEN], 0).wait().unwrap() == content);
            let parts = file.read_vectored(vec![(0, vec![0; 100]), (5000, vec![0; 100])]).wait().unwrap();
            assert!(parts.iter().all(|(at, part)| *part == content[*at as usize..][..100]));
            file.validated(true).read(vec![0; PAGE], 0).wait().unwrap();
            file.read(Vec::<u8>::new(), 0).wait().unwrap();
        });
        assert!(tried == 0 && queued >= 6, "{tried} {queued}");
        // A write makes what is known of the cache void.
        file.write(vec![7; PAGE], 0).wait().unwrap();
        let (tried, queued) = rules.during(|| assert!(file.read(vec![0; PAGE], 0).wait().unwrap() == [7; PAGE]));
        assert_eq!((tried, queued), (0, 1));
    });
}

#[test]
fn a_full_queue_and_a_closed_handle() {
    each_cached(|aio, file, content, rules, gate| {
        gate.close();
        let waiting: Vec<_> = (0..4).map(|at| file.read(vec![0; 128 << 10], at * (32 << 10))).collect();
        assert!(matches!(file.try_read(vec![0; 128 << 10], 0).unwrap_err().error(), Error::QueueFull { .. }));
        // It waits for nothing, so it needs no room.
        assert!(file.read(vec![0; PAGE], 0).wait().unwrap() == content[..PAGE]);
        assert!(file.try_read(vec![0; PAGE], 0).unwrap().wait().unwrap() == content[..PAGE]);
        gate.open();
        waiting.into_iter().for_each(|ticket| drop(ticket.wait().unwrap()));
        aio.clone().close().unwrap();
        let (tried, _) = rules.during(|| {
            let refused = file.read(vec![5; PAGE], 0).wait().unwrap_err();
            assert!(matches!(refused.error(), Error::Closed), "{refused}");
            assert!(refused.into_buffer().unwrap() == [5; PAGE]);
        });
        assert_eq!(tried, 0);
    });
}

#[test]
fn callbacks_of_users_run_on_workers() {
    each_cached(|aio, file, _content, rules, _gate| {
        let on: Arc<Mutex<Option<ThreadId>>> = Arc::default();
        let noted = on.clone();
        let note = move || *noted.lock().unwrap() = Some(thread::current().id());
        let desc = OnFini::new(Direction::Read, file, vec![0; PAGE], note);
        let (tried, queued) = rules.during(|| aio.submit(desc).wait().unwrap());
        assert_eq!((tried, queued), (0, 1));
        assert_ne!(on.lock().unwrap().unwrap(), thread::current().id());
    });
}

/// Waits for the handle when it is dropped, and keeps what that said.
struct Waits<'a>(Vec<u8>, &'a AioHandle, &'a Mutex<Option<Error>>);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        *self.2.lock().unwrap() = self.1.wait().err();
    }
}

// SAFETY: the bytes of a vector stay where they are while nothing changes it.
unsafe impl IoBuf for Waits<'_> {
    fn byte_ptr(&self) -> *const u8 {
        self.0.as_ptr()
    }

    fn byte_len(&self) -> usize {
        self.0.len()
    }
}

// SAFETY: the same address, and u8 has no invalid values.
unsafe impl IoBufMut for Waits<'_> {
    fn byte_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }
}

#[test]
fn a_buffer_that_waits_as_it_is_dropped_is_refused_that() {
    each_cached(|aio, file, _content, rules, _gate| {
        let said = Mutex::new(None);
        let (tried, queued) = rules.during(|| {
            aio.scope(|scope| scope.read(file, Waits(vec![0; PAGE], aio, &said), 0)).unwrap();
        });
        assert_eq!((tried, queued), (1, 0));
        assert!(matches!(said.into_inner().unwrap(), Some(Error::WaitOnWorker)));
        assert!(aio.wait().is_ok());
    });
}

#[test]
fn what_has_ended_is_ready_when_it_is_first_polled() {
    each_cached(|_aio, file, content, rules, _gate| {
        let (tried, queued) = rules.during(|| {
            for _ in 0..500 {
                let mut ticket = file.read(vec![0; 100], 5);
                let polled = Pin::new(&mut ticket).poll(&mut Context::from_waker(Waker::noop()));
                let Poll::Ready(read) = polled else { panic!("it had ended") };
                assert!(read.unwrap() == content[5..105]);
            }
        });
        assert_eq!((tried, queued), (500, 0));
    });
}

/// Reads when it is dropped.
struct Last(RefCell<Option<AioFile>>);

impl Drop for Last {
    fn drop(&mut self) {
        if let Some(file) = self.0.take() {
            assert!(file.read(vec![0; PAGE], 0).wait().is_ok());
        }
    }
}

/// The engine's own are among those that may be gone.
#[test]
fn locals_of_a_thread_may_read_as_they_are_destroyed() {
    thread_local! {
        static FIRST: Last = const { Last(RefCell::new(None)) };
        static SECOND: Last = const { Last(RefCell::new(None)) };
    }
    each_cached(|_aio, file, _content, rules, _gate| {
        let (tried, queued) = rules.during(|| {
            let file = file.clone();
            // Before and after the engine's, since they are destroyed in the one order or the other.
            let ends = thread::spawn(move || {
                FIRST.with(|last| last.0.replace(Some(file.clone())));
                file.read(vec![0; PAGE], 0).wait().unwrap();
                SECOND.with(|last| last.0.replace(Some(file.clone())));
            });
            ends.join().unwrap();
        });
        assert_eq!((tried, queued), (3, 0));
    });
}

#[test]
fn many_threads_read_at_once_and_all_is_accounted_for() {
    each_cached(|aio, file, content, _rules, _gate| {
        let (before, _) = (aio.stats().ops, aio.wait());
        thread::scope(|scope| {
            for number in 0..4 {
                scope.spawn(move || {
                    for read in 0..500 {
                        let at = (number * 500 + read) * 97 % (LEN - PAGE);
                        assert!(file.read(vec![0; PAGE], at as u64).wait().unwrap() == content[at..at + PAGE]);
                    }
                });
            }
        });
        assert_eq!((aio.stats().ops - before, aio.wait().unwrap()), (2000, 2000));
    });
}
