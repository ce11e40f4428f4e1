//! Rings that the kernel may make no workers for.

use std::os::fd::FromRawFd;
use std::process::Command;

use super::*;

/// The name of the test that a child process is for.
const CHILD: &str = "AIO_TEST_WITHOUT_WORKERS";
const BLOCKS: usize = 8;

/// From now on the kernel makes no thread for this one. The limit is the process's; root is not bound by it, so the
/// calling thread becomes another user, and it alone: that is what the system call does, unlike the C library's
/// function.
fn forbid_workers() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is alive for the call that reads it, and the others take no pointers.
    unsafe {
        assert_eq!(libc::setrlimit(libc::RLIMIT_NPROC, &none), 0);
        if libc::geteuid() == 0 {
            assert_eq!(libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534), 0);
        }
    }
}

fn in_memory() -> File {
    // SAFETY: a string that ends with a zero, and a descriptor that has no other owner.
    unsafe {
        let fd = libc::memfd_create(c"without-workers".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0);
        File::from_raw_fd(fd)
    }
}

#[test]
fn blocks_go_by_plain_calls() {
    const NAME: &str = "tests::kernel_workers::blocks_go_by_plain_calls";
    if std::env::var_os(CHILD).is_none() {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let output = child.args([NAME, "--exact", "--nocapture"]).env(CHILD, NAME).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        return assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }
    // On another thread: a worker that was made for this one would stay.
    let rungs = std::thread::spawn(rungs).join().unwrap();
    // Each write grows its file.
    let files = || [("memory", in_memory()), ("cached", tempfile::tempfile().unwrap()), ("direct", direct_file(1))];
    let files: Vec<_> = rungs.into_iter().map(|rung| (rung, files())).collect();
    forbid_workers();
    for (backend, files) in &files {
        if let Err(unavailable) = backend.probe() {
            panic!("{unavailable}");
        }
        for (name, file) in files {
            for (pass, single_submit) in [false, true].into_iter().enumerate() {
                let mut config = config(BLOCKS);
                config.single_submit = single_submit;
                let mut queue = open(backend, &config);
                for round in 0..3 {
                    write_and_read(&mut queue, file, (pass * 3 + round) * BLOCKS * PAGE);
                    assert!(queue.is_without_workers(), "{name}: the kernel had a worker");
                }
            }
        }
    }
}

/// Several blocks at once, from this place of the file on.
fn write_and_read(queue: &mut UringQueue, file: &File, from: usize) {
    let memory = Memory::new(2 * BLOCKS * PAGE);
    let expected = pattern(from, BLOCKS * PAGE);
    // SAFETY: nothing is in flight there, and it is as long.
    unsafe { memory.ptr.copy_from_nonoverlapping(expected.as_ptr(), expected.len()) };
    for (direction, half) in [(Direction::Write, 0), (Direction::Read, BLOCKS * PAGE)] {
        let blocks: Vec<_> = (0..BLOCKS)
            .map(|i| {
                let (at, offset) = (half + i * PAGE, (from + i * PAGE) as u64);
                block(100 + i as u64, direction, file, &memory, at, PAGE, offset)
            })
            .collect();
        submit(queue, &blocks);
        let all_whole: Vec<_> = blocks.iter().map(|block| (block.token, Ok(PAGE))).collect();
        assert_eq!(reap_all(queue), all_whole, "{direction:?}");
    }
    assert!(memory.bytes()[BLOCKS * PAGE..] == expected);
}
