//! Copies from and to the page cache: how many threads make them, and that they keep what ops promise.

mod support;

use std::io;
use std::sync::{Arc, Condvar, Mutex, mpsc};

use aio::backend::{Direction, IoBlock};
use aio::error::Error;
use aio::{AioConfig, AioFile, AioHandle, Backend, DirectMode, Ticket};
use aio_testkit::fault::{Fate, FaultBackend, Plain, Rules};
use support::fini::OnFini;
use support::{Folder, backends, finishes, pattern};

const BLOCK: usize = 64 << 10;
const LEN: usize = 32 * BLOCK;

fn handle(backend: Backend, rules: &Arc<impl Rules + 'static>, direct: DirectMode) -> AioHandle {
    let mut config = AioConfig::default();
    (config.block_size, config.copy_threads, config.direct) = (BLOCK, 4, direct);
    let implementation = backend.implementation().expect("compiled in");
    AioHandle::with_backend(Arc::new(FaultBackend::new(implementation, rules.clone())), config).unwrap()
}

/// A file in the page cache.
fn cached(folder: &Folder, content: &[u8]) -> std::path::PathBuf {
    cached_at(folder.path("t"), content)
}

fn cached_at(path: std::path::PathBuf, content: &[u8]) -> std::path::PathBuf {
    std::fs::write(&path, content).unwrap();
    assert!(std::fs::read(&path).unwrap() == content);
    path
}

fn open(aio: &AioHandle, path: &std::path::Path) -> AioFile {
    aio.open_with(path, &aio::OpenOptions::new().read(true).write(true)).unwrap()
}

/// The first copies wait for each other, so that they end only if two threads make copies at once.
#[derive(Debug, Default)]
struct Meet {
    inside: Mutex<usize>,
    met: Condvar,
}

impl Rules for Meet {
    fn transfer(&self, _: &IoBlock) -> Fate {
        let mut inside = self.inside.lock().unwrap();
        *inside += 1;
        self.met.notify_all();
        drop(self.met.wait_while(inside, |inside| *inside < 2).unwrap());
        Fate::Transfer
    }
}

#[test]
fn one_op_is_copied_by_several_threads() {
    for (backend, direct) in backends().into_iter().flat_map(|b| [(b, DirectMode::Auto), (b, DirectMode::Off)]) {
        finishes(&format!("one op on {backend}, direct {direct}"), move || {
            let (folder, content) = (Folder::new(), pattern(3, LEN));
            let path = cached(&folder, &content);
            let aio = handle(backend, &Arc::<Meet>::default(), direct);
            let read = open(&aio, &path).read(vec![0; LEN], 0).wait().unwrap();
            assert!(read == content);
            let stats = aio.stats();
            if stats.bytes_direct > 0 {
                eprintln!("SKIPPED {backend}: the kernel does not tell that the file is cached");
                return;
            }
            assert!((2..=4).contains(&stats.copy_threads), "{stats:?}");
            assert_eq!((stats.bytes_buffered, stats.blocks, stats.in_flight), (LEN as u64, 32, 0));
        });
    }
}

/// Counts the transfers of a file that are under way at once, and holds the first until another file's comes.
#[derive(Debug, Default)]
struct OnePerFile {
    inside: Mutex<Vec<i32>>,
    most_files: Mutex<usize>,
    changed: Condvar,
}

impl Rules for OnePerFile {
    fn transfer(&self, block: &IoBlock) -> Fate {
        let mut inside = self.inside.lock().unwrap();
        assert!(!inside.contains(&block.fd), "two threads write to one file");
        inside.push(block.fd);
        let mut most = self.most_files.lock().unwrap();
        *most = inside.len().max(*most);
        drop(most);
        self.changed.notify_all();
        let enough = |_: &mut Vec<i32>| *self.most_files.lock().unwrap() < 2;
        let mut inside = self.changed.wait_while(inside, enough).unwrap();
        // Left before the write itself, so that this is not about how long that takes.
        inside.retain(|fd| *fd != block.fd);
        Fate::Transfer
    }
}

#[test]
fn a_file_is_written_by_one_thread_at_a_time_and_two_files_by_two() {
    for backend in backends() {
        finishes(&format!("writes on {backend}"), move || {
            let (folder, contents) = (Folder::new(), [pattern(4, LEN), pattern(5, LEN)]);
            let rules = Arc::<OnePerFile>::default();
            let aio = handle(backend, &rules, DirectMode::Off);
            let files = ["a", "b"].map(|name| aio.create(folder.path(name)).unwrap());
            let mut tickets = Vec::new();
            for _ in 0..4 {
                for (file, content) in files.iter().zip(&contents) {
                    tickets.push(file.write(content.clone(), 0));
                }
            }
            tickets.into_iter().for_each(|ticket| drop(ticket.wait().unwrap()));
            for (name, content) in ["a", "b"].into_iter().zip(&contents) {
                assert!(std::fs::read(folder.path(name)).unwrap() == *content);
            }
            assert_eq!(*rules.most_files.lock().unwrap(), 2);
        });
    }
}

/// Fails the block at one offset, and makes every other transfer short or late.
#[derive(Debug)]
struct Trouble {
    lost: u64,
    calls: Mutex<u64>,
}

impl Rules for Trouble {
    fn transfer(&self, block: &IoBlock) -> Fate {
        let mut calls = self.calls.lock().unwrap();
        *calls += 1;
        match *calls % 4 {
            _ if (block.offset..block.offset + block.len as u64).contains(&self.lost) => {
                Fate::End(Err(io::Error::from_raw_os_error(libc::EIO)))
            }
            1 => Fate::End(Err(io::Error::from_raw_os_error(libc::EINTR))),
            2 => Fate::End(Err(io::Error::from_raw_os_error(libc::EAGAIN))),
            3 if block.len > 1 => Fate::Cut(block.len / 2),
            _ => Fate::Transfer,
        }
    }
}

#[test]
fn short_and_late_copies_are_resumed() {
    for backend in backends() {
        let (folder, content) = (Folder::new(), pattern(5, LEN + 777));
        let rules = Arc::new(Trouble { lost: u64::MAX, calls: Mutex::default() });
        let aio = handle(backend, &rules, DirectMode::Off);
        let path = folder.path("t");
        let file = aio.create(&path).unwrap();
        let written = file.write(content, 0).wait().unwrap();
        assert!(std::fs::read(&path).unwrap() == written);
        let read = open(&aio, &path).read(vec![0; written.len()], 0).wait().unwrap();
        assert!(read == written);
        let stats = aio.stats();
        assert!(stats.retries > 0 && stats.short_transfers > 0 && stats.copy_threads > 0, "{stats:?}");
    }
}

#[test]
fn a_copy_that_fails_says_where() {
    for (backend, direction) in backends().into_iter().flat_map(|b| [(b, Direction::Read), (b, Direction::Write)]) {
        let (folder, lost) = (Folder::new(), 9 * BLOCK as u64 + 5);
        let path = cached(&folder, &pattern(6, LEN));
        let rules = Arc::new(Trouble { lost, calls: Mutex::default() });
        let aio = handle(backend, &rules, DirectMode::Off);
        let file = open(&aio, &path);
        let failed = match direction {
            Direction::Read => file.read(vec![0; LEN], 0).wait(),
            Direction::Write => file.write(vec![0; LEN], 0).wait(),
        };
        let error = failed.unwrap_err();
        let Error::Io(told) = error.error() else { panic!("{error}") };
        assert_eq!(told.source.raw_os_error(), Some(libc::EIO));
        assert_eq!(told.offset, Some(9 * BLOCK as u64), "{told}");
        assert_eq!(error.into_buffer().map(|buffer| buffer.len()), Some(LEN));
    }
}

#[test]
fn the_end_of_a_cached_file_is_exact() {
    for backend in backends() {
        let (folder, content) = (Folder::new(), pattern(7, LEN - 1234));
        let path = cached(&folder, &content);
        let rules = Arc::new(Trouble { lost: u64::MAX, calls: Mutex::default() });
        let aio = handle(backend, &rules, DirectMode::Off);
        let error = open(&aio, &path).read(vec![0; LEN], 0).wait().unwrap_err();
        assert!(
            matches!(error.error(), Error::UnexpectedEof { read, .. } if *read == content.len() as u64),
            "{error}"
        );
        assert!(error.into_buffer().is_some_and(|buffer| buffer[..content.len()] == content));
    }
}

/// A write whose callback has begun, and goes on until the sender sends.
fn write_with_slow_callback(aio: &AioHandle, file: &AioFile) -> (Ticket<()>, mpsc::Sender<()>) {
    let (begun, has_begun) = mpsc::channel();
    let (end, ends) = mpsc::channel();
    let slow = aio.submit(OnFini::new(Direction::Write, file, vec![2; 4096], move || {
        begun.send(()).unwrap();
        ends.recv().unwrap();
    }));
    has_begun.recv().unwrap();
    (slow, end)
}

/// A callback that takes long holds its copier, and not the inode that this has written to.
#[test]
fn a_slow_callback_lets_others_write_to_the_file() {
    for backend in backends() {
        finishes(&format!("a slow callback on {backend}"), move || {
            let folder = Folder::new();
            let aio = handle(backend, &Arc::<Plain>::default(), DirectMode::Off);
            let file = aio.create(folder.path("t")).unwrap();
            file.write(vec![1; 4096], 0).wait().unwrap();
            let (slow, end) = write_with_slow_callback(&aio, &file);
            file.write(vec![3; 4096], 0).wait().unwrap();
            end.send(()).unwrap();
            slow.wait().unwrap();
            assert!(std::fs::read(folder.path("t")).unwrap() == [3; 4096]);
        });
    }
}

/// While a callback holds the only copier, workers open files, one after the other.
#[test]
fn a_slow_callback_lets_workers_open_files() {
    for backend in backends() {
        finishes(&format!("files beside a slow callback on {backend}"), move || {
            let folder = Folder::new();
            let aio = aio::builder().backend(backend).direct(DirectMode::Off).copy_threads(1).build().unwrap();
            let file = aio.create(folder.path("t")).unwrap();
            file.write(vec![1; 4096], 0).wait().unwrap();
            let (slow, end) = write_with_slow_callback(&aio, &file);
            let paths: Vec<_> = (0..50).map(|index| folder.file(&index.to_string(), &pattern(3, 5000))).collect();
            let mut buffers = vec![vec![0; 5000]; paths.len()];
            aio.scope(|scope| {
                paths.iter().zip(&mut buffers).for_each(|(path, buffer)| scope.read_path(path, &mut buffer[..]));
            })
            .unwrap();
            assert!(buffers.iter().all(|buffer| *buffer == pattern(3, 5000)));
            end.send(()).unwrap();
            slow.wait().unwrap();
        });
    }
}

/// Holds every copy back until it is opened.
#[derive(Debug, Default)]
struct Gate {
    /// Where in their files the copies are that have come, and whether it is open.
    state: Mutex<(Vec<u64>, bool)>,
    changed: Condvar,
}

impl Gate {
    /// The offsets of the first copies.
    fn wait_for(&self, copies: usize) -> Vec<u64> {
        let state = self.state.lock().unwrap();
        let state = self.changed.wait_while(state, |state| state.0.len() < copies).unwrap();
        state.0[..copies].to_vec()
    }

    fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

impl Rules for Gate {
    fn transfer(&self, block: &IoBlock) -> Fate {
        if std::thread::current().name() != Some("aio-copy") {
            return Fate::Transfer;
        }
        let mut state = self.state.lock().unwrap();
        state.0.push(block.offset);
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |state| !state.1).unwrap());
        Fate::Transfer
    }
}

#[test]
fn copies_that_wait_are_cancelled_and_those_in_flight_keep_their_memory() {
    for backend in backends() {
        finishes(&format!("cancelled copies on {backend}"), move || {
            let (folder, gate) = (Folder::new(), Arc::<Gate>::default());
            let content = pattern(8, LEN);
            let path = cached(&folder, &content);
            let aio = handle(backend, &gate, DirectMode::Off);
            let file = open(&aio, &path);
            let first = file.read(vec![0; LEN], 0);
            gate.wait_for(4);
            let second = file.read(vec![0; LEN], 0);
            second.cancel();
            let cancelled = second.wait().unwrap_err();
            assert!(matches!(cancelled.error(), Error::Cancelled { bytes: 0, .. }), "{cancelled}");
            // Its memory belongs to the copiers until they are done with it.
            first.cancel();
            assert!(!first.is_done());
            gate.open();
            let cancelled = first.wait().unwrap_err();
            let Error::Cancelled { bytes, .. } = *cancelled.error() else { panic!("{cancelled}") };
            // Four copiers had up to 256 KiB each.
            assert!(bytes >= 4 * BLOCK as u64 && bytes <= 16 * BLOCK as u64, "{bytes}");
            assert_eq!(cancelled.into_buffer().map(|buffer| buffer.len()), Some(LEN));
        });
    }
}

/// Three quarters of the copiers at most are for background ops.
#[test]
fn a_copier_is_left_for_what_is_not_in_the_background() {
    for backend in backends() {
        finishes(&format!("background copies on {backend}"), move || {
            let (folder, gate) = (Folder::new(), Arc::<Gate>::default());
            let path = cached(&folder, &pattern(1, 2 * LEN));
            let aio = handle(backend, &gate, DirectMode::Off);
            let background = open(&aio.background(), &path).read(vec![0; LEN], LEN as u64);
            gate.wait_for(3);
            let urgent = open(&aio, &path).read(vec![0; LEN], 0);
            assert!(gate.wait_for(4).iter().any(|offset| *offset < LEN as u64));
            gate.open();
            drop((background.wait().unwrap(), urgent.wait().unwrap()));
            assert_eq!(aio.stats().copy_threads, 4);
        });
    }
}

/// However many files are to be copied, few of them are open at once.
#[test]
fn copies_by_path_hold_few_files() {
    for backend in backends() {
        finishes(&format!("copies by path on {backend}"), move || {
            let (folder, gate) = (Folder::new(), Arc::<Gate>::default());
            let aio = handle(backend, &gate, DirectMode::Off);
            let path = |index: usize| folder.path(&format!("f{index}"));
            let content = |index: usize| vec![index as u8; 5000];
            let paths = (0..500).map(|index| cached_at(path(index), &content(index)));
            let paths: Vec<_> = paths.collect();
            let tickets: Vec<_> = paths.iter().map(|path| aio.read_path(path, vec![0; 5000])).collect();
            let ours = || {
                let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
                open.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.starts_with(folder.path(""))))
                    .count()
            };
            // As many as a queue has use for now and next, and the copiers, and what each thread was about to open.
            support::until(|| ours() >= 32 + 32 + 4);
            assert!(ours() <= 32 + 32 + 4 + 5);
            gate.open();
            for (index, ticket) in tickets.into_iter().enumerate() {
                assert!(ticket.wait().unwrap() == content(index));
            }
        });
    }
}

#[test]
fn workers_copy_where_there_are_to_be_no_copiers() {
    for backend in backends() {
        let (folder, content) = (Folder::new(), pattern(9, LEN));
        let path = cached(&folder, &content);
        let aio = aio::builder().backend(backend).direct(DirectMode::Off).copy_threads(0).build().unwrap();
        assert!(open(&aio, &path).read(vec![0; LEN], 0).wait().unwrap() == content);
        assert_eq!((aio.stats().copy_threads, aio.stats().bytes_buffered), (0, LEN as u64));
    }
}

/// Where threads make their own reads, no copier is woken for the only one that waits.
#[test]
fn a_read_that_no_thread_waits_for_is_made_beside_those_of_waiters() {
    for backend in backends() {
        finishes(&format!("a read without a waiter on {backend}"), move || {
            let (folder, content) = (Folder::new(), pattern(9, BLOCK));
            let (path, aio) = (cached(&folder, &content), aio::builder().backend(backend).build().unwrap());
            for _ in 0..200 {
                assert!(aio.read_path(&path, vec![0; BLOCK]).wait().unwrap() == content);
                let read = aio.read_path(&path, vec![0; BLOCK]);
                support::until(|| read.is_done());
                assert!(read.wait().unwrap() == content);
            }
        });
    }
}

/// All copiers are held, so nothing else can make it.
#[test]
fn a_thread_that_waits_for_a_read_makes_it_itself() {
    for backend in backends() {
        finishes(&format!("reads by their waiter on {backend}"), move || {
            let (folder, gate) = (Folder::new(), Arc::<Gate>::default());
            let (held, content) = (cached_at(folder.path("held"), &pattern(8, LEN)), pattern(9, BLOCK));
            let (path, aio) = (cached(&folder, &content), handle(backend, &gate, DirectMode::Off));
            let copies: Vec<_> = (0..4).map(|_| open(&aio, &held).read(vec![0; LEN], 0)).collect();
            gate.wait_for(4);
            assert!(aio.read_path(&path, vec![0; BLOCK]).wait().unwrap() == content);
            assert!(open(&aio, &path).read(vec![0; BLOCK], 0).wait().unwrap() == content);
            let missing = aio.read_path(folder.path("missing"), vec![0; 8]).wait().unwrap_err();
            assert_eq!(missing.error().raw_os_error(), Some(libc::ENOENT));
            let short = cached(&folder, &content[..5000]);
            let short = aio.read_path(short, vec![0; BLOCK]).wait().unwrap_err();
            assert!(matches!(short.error(), Error::UnexpectedEof { read: 5000, .. }), "{short}");
            gate.open();
            copies.into_iter().for_each(|read| drop(read.wait().unwrap()));
        });
    }
}
