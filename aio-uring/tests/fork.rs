//! A queue that is dropped in a forked process. Alone in its binary: no other test's transfers are forked.

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::time::Duration;

use aio_core::{Direction, IoBackend, IoBlock, QueueConfig};
use aio_uring::UringBackend;

/// The copy shares the ring: it must neither wait for nor take what is the parent's.
#[test]
fn a_drop_in_a_forked_process_touches_nothing() {
    let backend = UringBackend::default();
    if !aio_core::conformance::require(&backend) {
        return;
    }
    let (reader, mut writer) = io::pipe().unwrap();
    let mut byte = Box::new(0_u8);
    let (fd, ptr) = (reader.as_raw_fd(), &raw mut *byte);
    let read = IoBlock { token: 9, direction: Direction::Read, fd, file: None, region: None, ptr, len: 1, offset: 0 };
    let mut queue = backend.open_queue(&QueueConfig::new(1)).unwrap();
    let mut done = Vec::new();
    // SAFETY: the byte and the pipe are used and dropped after the block was reaped.
    assert_eq!(unsafe { queue.submit(&[read]) }.unwrap(), 1);
    queue.reap(0, Some(Duration::ZERO), &mut done).unwrap();
    assert_eq!((queue.in_flight(), done.len()), (1, 0));
    // SAFETY: the child drops the queue, which takes no lock but the allocator's, which fork(2) leaves free, and ends
    // without unwinding.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        drop(queue);
        // SAFETY: ends the process.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: one live int.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
    writer.write_all(b"x").unwrap();
    queue.reap(1, Some(Duration::from_secs(30)), &mut done).unwrap();
    assert!(matches!(done[..], [aio_core::Completion { token: 9, result: Ok(1) }]));
    drop(queue);
    assert_eq!(*byte, b'x');
}
