//! What the end-to-end tests share: the backends that work here, handles on them, and files to work on.
#![allow(unreachable_pub, dead_code, reason = "each test file uses its part")]

pub mod child;
pub mod fini;
pub mod log;
pub mod random;
pub mod staged;
pub mod users;
pub mod wakers;
pub mod watched;

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use aio::backend::RegionId;
use aio::buf::{AlignedBuf, IoBuf, IoBufMut};
use aio::{AioConfig, AioHandle, Backend, Builder, DirectMode};
use aio_testkit::fault::{FaultBackend, Gate, Rules};
use tempfile::TempDir;

use self::random::Random;

/// The backends that work here. One that `AIO_EXPECT` names and that does not work fails the test.
pub fn backends() -> Vec<Backend> {
    let works = |backend: &Backend| {
        let implementation = backend.implementation().expect("compiled in");
        aio_testkit::conformance::require(&*implementation)
    };
    Backend::COMPILED.iter().copied().filter(works).collect()
}

/// Every backend in every file mode. Blocks are small, so that little data makes many of them.
pub fn each(test: impl Fn(&dyn Fn() -> Builder, &AioHandle, &Folder)) {
    for backend in backends() {
        for direct in [DirectMode::Auto, DirectMode::Off] {
            eprintln!("on {backend}, direct {direct:?}");
            let builder = || aio::builder().backend(backend).direct(direct).block_size(16 << 10).queue_depth(8);
            let handle = builder().build().expect("the probe succeeded");
            test(&builder, &handle, &Folder::new());
        }
    }
}

/// A configuration with small blocks and without copiers: what is in flight is in the workers' queues.
pub fn small(threads: usize, depth: usize, direct: DirectMode) -> AioConfig {
    let mut config = AioConfig::default();
    config.block_size = 16 << 10;
    config.queue_depth = depth;
    config.intra_op_parallelism = threads;
    config.copy_threads = 0;
    config.direct = direct;
    config
}

/// A handle on `backend` behind a gate.
pub fn gated<R: Rules + 'static>(backend: Backend, rules: &Arc<R>, config: AioConfig) -> (AioHandle, Arc<Gate>) {
    let implementation = backend.implementation().expect("compiled in");
    let wrapped = FaultBackend::new(implementation, rules.clone());
    let gate = wrapped.gate();
    (AioHandle::with_backend(Arc::new(wrapped), config).expect("the probe succeeded"), gate)
}

/// Runs a test of a gated or otherwise special handle on every backend and in every file mode, each for a bounded time.
pub fn each_backend(what: &'static str, test: impl Fn(Backend, DirectMode) + Send + Sync + 'static) {
    let test = Arc::new(test);
    for backend in backends() {
        for direct in [DirectMode::Auto, DirectMode::Off] {
            let test = test.clone();
            finishes(&format!("{what} on {backend}, direct {direct:?}"), move || test(backend, direct));
        }
    }
}

/// Runs a test that a fault would hang, and fails instead of hanging. The time is no limit for what works: that takes
/// seconds at most.
pub fn finishes(what: &str, test: impl FnOnce() + Send + 'static) {
    let (finished, watch) = mpsc::channel::<()>();
    let thread = std::thread::Builder::new()
        .name(what.to_owned())
        .spawn(move || {
            let _finished = finished;
            test();
        })
        .expect("a thread for the test");
    if watch.recv_timeout(Duration::from_secs(120)) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("{what}: hangs");
    }
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Waits until `condition` holds; a test that may wait for ever runs in [`finishes`].
pub fn until(condition: impl Fn() -> bool) {
    while !condition() {
        std::thread::yield_now();
    }
}

/// Waits until the counter, which follows the queues with a little delay, shows what is in flight.
pub fn until_in_flight(aio: &AioHandle) {
    until(|| aio.stats().in_flight > 0);
}

/// Waits until the counter shows that nothing is in flight.
pub fn until_idle(aio: &AioHandle) {
    until(|| aio.stats().in_flight == 0);
}

/// Owned memory of several kinds.
#[derive(Debug)]
pub enum Memory {
    /// From the arena: page-aligned, and registered where the backend does that.
    Arena(AlignedBuf),
    /// Wherever the allocator put it.
    Heap(Vec<u8>),
    /// At an odd address: all of the bytes but the first few.
    Odd(Vec<u8>, usize),
}

/// Kinds of [`Memory`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Arena,
    Heap,
    Odd,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Arena, Self::Heap, Self::Odd];

    /// `len` bytes of it.
    pub fn memory(self, aio: &AioHandle, len: usize) -> Memory {
        match self {
            Self::Arena => Memory::Arena(aio.alloc(len).expect("less than the arena's limit")),
            Self::Heap => Memory::Heap(vec![0; len]),
            Self::Odd => Memory::odd(len),
        }
    }
}

impl Memory {
    /// `len` bytes at an address that nothing is aligned to.
    pub fn odd(len: usize) -> Self {
        let bytes = vec![0; len + 2];
        let shift = if bytes.as_ptr().addr().is_multiple_of(2) { 1 } else { 2 };
        Self::Odd(bytes, shift)
    }

    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Arena(buffer) => buffer,
            Self::Heap(bytes) => bytes,
            Self::Odd(bytes, shift) => &bytes[*shift..bytes.len() - 2 + shift],
        }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Arena(buffer) => buffer,
            Self::Heap(bytes) => bytes,
            Self::Odd(bytes, shift) => {
                let end = bytes.len() - 2 + *shift;
                &mut bytes[*shift..end]
            }
        }
    }
}

// SAFETY: each kind keeps its bytes at one address while the value lives, and only `&mut` changes them.
unsafe impl IoBuf for Memory {
    fn byte_ptr(&self) -> *const u8 {
        self.bytes().as_ptr()
    }

    fn byte_len(&self) -> usize {
        self.bytes().len()
    }

    fn region(&self) -> Option<RegionId> {
        match self {
            Self::Arena(buffer) => buffer.region(),
            _ => None,
        }
    }
}

// SAFETY: the same address, and u8 has no invalid values.
unsafe impl IoBufMut for Memory {
    fn byte_mut_ptr(&mut self) -> *mut u8 {
        self.bytes_mut().as_mut_ptr()
    }
}

/// A folder of a test, on the file system of the temporary folder.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file with these bytes, on the device and not in the page cache: reads of a direct file are direct.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).expect("room for a test file");
        evict(&path);
        path
    }

    /// How many files it holds.
    pub fn count(&self) -> usize {
        std::fs::read_dir(self.0.path()).expect("the folder is there").count()
    }
}

/// Writes a file out and drops it from the page cache.
pub fn evict(path: &Path) {
    let file = std::fs::File::open(path).expect("a test file");
    file.sync_all().expect("a sync");
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) }, 0);
}

/// Bytes that differ from place to place and from seed to seed.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
    bytes.truncate(len);
    bytes
}

/// The smallest of runtimes: a ticket has to work as a future on any.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}
