//! Proved: the whole engine (handle, worker threads with their loop, tickets, files, operations on whole files) starts,
//! serves and ends without a deadlock, and has let go of what it was given when it says so.
//!
//! The public types on a queue that moves nothing; one or two workers and one or two threads that use them; at most
//! one or two preemptions.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use loom::thread;
use tempfile::NamedTempFile;

use super::still::Still;
use super::{BLOCK, config, explore};
use crate::api::file::AioFile;
use crate::api::handle::AioHandle;
use crate::config::AioConfig;
use crate::file::OpenOptions;
use crate::op::desc::Target;

/// A file of two blocks, made once: an execution only opens it.
pub(super) fn two_blocks() -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(2 * BLOCK as u64).unwrap();
    file
}

pub(super) fn handle(config: AioConfig) -> AioHandle {
    AioHandle::with_backend(Arc::new(Still), config).unwrap()
}

#[test]
fn a_blocks_way_through_the_engine() {
    let file = two_blocks();
    explore("engine: one worker, one read, close()", 4, move || {
        let handle = handle(config(1, 1));
        let open = handle.open_with(file.path(), &OpenOptions::new().read(true)).unwrap();
        open.read(vec![0; BLOCK], 0).wait().unwrap();
        drop(open);
        handle.close().unwrap();
    });
}

#[test]
fn a_handle_that_is_dropped_waits_for_what_is_in_flight() {
    let file = two_blocks();
    explore("engine: two workers, one read, dropped in flight", 2, move || {
        let handle = handle(config(2, 1));
        let open = handle.open_with(file.path(), &OpenOptions::new().read(true)).unwrap();
        let ticket = open.read(vec![0; 2 * BLOCK], 0);
        drop((open, handle));
        assert!(ticket.is_done(), "the engine's last owner did not wait");
        assert_eq!(ticket.wait().unwrap().len(), 2 * BLOCK);
    });
}

#[test]
fn two_threads_use_one_handle() {
    let file = two_blocks();
    explore("engine: one worker, two threads that read", 2, move || {
        let handle = handle(config(1, 1));
        let open = handle.open_with(file.path(), &OpenOptions::new().read(true)).unwrap();
        let other = {
            let open = open.clone();
            thread::spawn(move || drop(open.read(vec![0; BLOCK], 0).wait().unwrap()))
        };
        open.read(vec![0; BLOCK], 0).wait().unwrap();
        other.join().unwrap();
        drop(open);
        handle.close().unwrap();
    });
}

#[test]
fn operations_on_whole_files_get_threads_and_these_end() {
    let file = two_blocks();
    explore("engine: two operations on a file, close()", 1, move || {
        let handle = handle(config(1, 1));
        let open = handle.open_with(file.path(), &OpenOptions::new().read(true).write(true)).unwrap();
        let (first, second) = (open.punch_hole(0, 0), open.punch_hole(0, 0));
        first.wait().unwrap();
        second.wait().unwrap();
        drop(open);
        handle.close().unwrap();
    });
}

/// The file that a closed [`AioFile`] had is closed: no thread has it any more.
fn assert_closed(fd: i32, file: &NamedTempFile) {
    // Other tests may have got the number meanwhile.
    let still = std::fs::read_link(format!("/proc/self/fd/{fd}")).is_ok_and(|named| named == file.path());
    assert!(!still, "a thread of the engine still has the file");
}

fn fd_of(file: &AioFile) -> i32 {
    match file.target() {
        Target::File(file) => file.fd().as_raw_fd(),
        Target::Path(..) => unreachable!(),
    }
}

/// The write makes the file longer, so one worker prepares it and puts it back, and the other may end it while the first
/// is still about to let go.
#[test]
fn a_closed_file_is_let_go_of_by_every_worker() {
    let file = two_blocks();
    explore("engine: two workers, one growing write, closing the file", 2, move || {
        let handle = handle(AioConfig { preallocate: false, ..config(2, 1) });
        let open = handle.open_with(file.path(), &OpenOptions::new().write(true)).unwrap();
        let fd = fd_of(&open);
        open.write(vec![0; BLOCK], 2 * BLOCK as u64).wait().unwrap();
        open.close().unwrap();
        assert_closed(fd, &file);
        handle.close().unwrap();
    });
}
