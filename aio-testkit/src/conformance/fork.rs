//! A queue in a forked child: it is the parent's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::rig::{Mode, Rig, expect_pattern, open};
use super::{Check, Context};
use aio_core::backend::{FileId, IoBackend, IoBlock, QueueConfig};
use aio_core::op::Direction;

const BLOCKS: usize = 24;
const LEN: usize = 256 << 10;

/// Checks that a forked child neither uses nor ends the queues of its parent.
///
/// For a test binary of its own: what other tests have in flight is forked, too, and kernels before 6.3 then may read
/// into the child's copy of their memory.
///
/// # Panics
///
/// When the check fails.
pub fn fork(backend: &dyn IoBackend) {
    super::run(backend, &[Check { name: "fork", run: queues_stay_with_the_parent }]);
}

/// Buffered transfers may be over when the process forks, so that their completions are there for the child to take;
/// direct ones are in flight. Submitted one by one they are with the kernel, together they may wait for the next reap.
fn queues_stay_with_the_parent(context: &Context<'_>) {
    for mode in context.modes() {
        for single_submit in [false, true] {
            a_queue_stays_with_the_parent(context, mode, single_submit);
        }
    }
}

fn a_queue_stays_with_the_parent(context: &Context<'_>, mode: Mode, single_submit: bool) {
    let path = context.filled("file", 1, BLOCKS * LEN);
    let file = open(&path, mode).expect("open");
    let mut config = QueueConfig::new(BLOCKS + 1);
    (config.regions, config.files, config.single_submit) = (1, 1, single_submit);
    let mut rig = Rig::with(context.backend, &config, (BLOCKS + 1) * LEN);
    let block = |rig: &Rig, at: usize, offset: usize| {
        rig.block(Direction::Read, &file, at as u64, at * LEN, LEN, (offset * LEN) as u64)
    };
    let blocks: Vec<_> = (0..BLOCKS).map(|at| block(&rig, at, at)).collect();
    let one_more = block(&rig, BLOCKS, 0);
    assert_eq!(rig.submit(&blocks), BLOCKS);
    assert_eq!(rig.queue.in_flight(), BLOCKS);

    // SAFETY: the child uses and drops the queue, which takes no lock but the allocator's, which `fork` leaves
    // free, and ends without unwinding.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork: {}", io::Error::last_os_error());
    if child == 0 {
        // SAFETY: ends the child should it hang, and should it not.
        unsafe {
            libc::alarm(60);
            libc::_exit(trespass(rig, one_more, file.as_fd()));
        }
    }
    let mut status = 0;
    // SAFETY: a child of this process that was not waited for, and a place for its status.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child, "waitpid");
    assert!(libc::WIFEXITED(status), "the child died or hung: status {status}");
    assert_eq!(libc::WEXITSTATUS(status), 0, "what the child could do, in the order of `trespass`");

    // The parent's queue is none the worse for it: every block comes back once, and another one works.
    assert_eq!(rig.finish().len(), BLOCKS, "blocks of the parent that came back");
    rig.run_all(&[one_more]);
    expect_pattern("read", &rig.memory.get(0, BLOCKS * LEN), 1, 0);
    expect_pattern("read later", &rig.memory.get(BLOCKS * LEN, LEN), 1, 0);
}

/// Returns the number of the first thing that should have failed, or 0. Must not panic.
fn trespass(mut rig: Rig, block: IoBlock, file: BorrowedFd<'_>) -> i32 {
    let refused = |outcome: io::Result<()>| outcome.is_err_and(|error| error.kind() == io::ErrorKind::Other);
    let mut done = Vec::new();
    // SAFETY: the memory is the rig's, which drops its queue first.
    if !refused(unsafe { rig.queue.submit(&[block]) }.map(drop)) {
        return 1;
    }
    for (min, timeout) in [(0, Some(Duration::ZERO)), (1, None)] {
        if !refused(rig.queue.reap(min, timeout, &mut done)) || !done.is_empty() {
            return 2;
        }
    }
    // Backends without such a thing refuse it anyway.
    if rig.queue.add_file(FileId { slot: 0, generation: 0 }, file).is_ok() {
        return 3;
    }
    if rig.queue.drain() != 0 || rig.queue.in_flight() != 0 {
        return 4;
    }
    drop(rig);
    0
}
