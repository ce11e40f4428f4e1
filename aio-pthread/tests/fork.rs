//! A forked child has the queue, but not its threads.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;

use aio_core::{Direction, IoBackend, IoBlock, QueueConfig};
use aio_pthread::PthreadBackend;

#[test]
fn the_child_can_drop_its_copy() {
    const BLOCKS: usize = 200;
    const LEN: usize = 1 << 20;
    let mut memory = vec![1; LEN];
    let file: File = tempfile::tempfile().unwrap();
    let mut queue = PthreadBackend::new().open_queue(&QueueConfig::new(BLOCKS)).unwrap();
    let (fd, ptr) = (file.as_raw_fd(), memory.as_mut_ptr());
    // The same bytes to the same place, so many that threads are at work on them when the process forks.
    let block = |token| IoBlock {
        token,
        direction: Direction::Write,
        fd,
        file: None,
        region: None,
        ptr,
        len: LEN,
        offset: 0,
    };
    let blocks: Vec<_> = (0..BLOCKS as u64).map(block).collect();
    // SAFETY: the memory outlives the queue and nobody changes it.
    assert_eq!(unsafe { queue.submit(&blocks) }.unwrap(), BLOCKS);
    let mut done = Vec::new();
    queue.reap(1, None, &mut done).unwrap();
    assert!(queue.in_flight() > 0);
    // SAFETY: the child of a process with threads may call what is async-signal-safe; it allocates and locks nothing.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        0 => {
            // SAFETY: `alarm` ends the child should it hang; `_exit` runs none of the parent's clean-up.
            unsafe {
                libc::alarm(10);
                drop(queue);
                libc::_exit(0);
            }
        }
        child => {
            let mut status = 0;
            // SAFETY: a child of ours that was not waited for, and a place for its status.
            let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
            assert_eq!((waited, status), (child, 0), "the child hung or failed");
        }
    }
    // The parent's queue is none the worse for it.
    queue.reap(BLOCKS, None, &mut done).unwrap();
    assert_eq!(done.len(), BLOCKS);
    assert!(done.iter().all(|completion| matches!(completion.result, Ok(LEN))), "{done:?}");
}
