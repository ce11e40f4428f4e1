//! Signals go elsewhere. A process of its own, since the limit that it lowers is that of the whole process.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::os::fd::AsRawFd;

use aio_core::backend::{IoBackend, IoBlock, QueueConfig};
use aio_core::op::Direction;
use aio_pthread::PthreadBackend;
use nix::sys::resource::{Resource, setrlimit};

/// SIGXFSZ, which would end this process, comes with EFBIG.
#[test]
fn pool_threads_block_them() {
    const LEN: usize = 4096;
    // Far beyond what a test harness prints, whose output may go to a file as well.
    const LIMIT: u64 = 1 << 40;
    let file: File = tempfile::tempfile().unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, LIMIT, LIMIT).unwrap();
    let mut memory = vec![1; 3 * LEN];
    let mut queue = PthreadBackend::new().open_queue(&QueueConfig::new(4)).unwrap();
    let blocks: Vec<_> = memory
        .chunks_mut(LEN)
        .enumerate()
        .map(|(at, memory)| {
            let offset = LIMIT - LEN as u64 + (at * LEN) as u64;
            let block = IoBlock::new(Direction::Write, file.as_raw_fd(), memory.as_mut_ptr(), LEN, offset);
            IoBlock { token: at as u64, ..block }
        })
        .collect();
    // SAFETY: the memory outlives the queue and is not touched before the completions are reaped.
    assert_eq!(unsafe { queue.submit(&blocks) }.unwrap(), 3);
    let mut done = Vec::new();
    queue.reap(3, None, &mut done).unwrap();
    done.sort_by_key(|completion| completion.token);
    assert!(matches!(done[0].result, Ok(LEN)), "{done:?}");
    for completion in &done[1..] {
        assert_eq!(completion.result.as_ref().unwrap_err().raw_os_error(), Some(libc::EFBIG), "{done:?}");
    }

    let masks: Vec<_> = fs::read_dir("/proc/self/task").unwrap().filter_map(|task| mask(&task.unwrap())).collect();
    assert!(!masks.is_empty(), "no pool threads");
    for mask in masks {
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGUSR1, libc::SIGCHLD, libc::SIGXFSZ, libc::SIGRTMIN()] {
            assert!(mask >> (signal - 1) & 1 == 1, "signal {signal} is not blocked: {mask:x}");
        }
        assert!(mask >> (libc::SIGSEGV - 1) & 1 == 0, "a fault of the thread itself is blocked: {mask:x}");
    }
    // The thread that submits and starts the others keeps its own mask.
    let own = nix::sys::signal::SigSet::thread_get_mask().unwrap();
    assert!(!own.contains(nix::sys::signal::Signal::SIGTERM));
}

/// The blocked signals of a pool thread, or `None` if it is another thread.
fn mask(task: &fs::DirEntry) -> Option<u64> {
    // Threads may end while we look.
    let status = fs::read_to_string(task.path().join("status")).ok()?;
    let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    (value("Name:")? == "aio-pthread").then_some(())?;
    u64::from_str_radix(value("SigBlk:")?, 16).ok()
}
