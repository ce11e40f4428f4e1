//! What goes wrong with one block stays with it, wherever in a batch it stands.

use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::path::Path;
use std::ptr;

use crate::conformance::Context;
use crate::conformance::rig::{Mode, PAGE, Rig, expect_pattern, open};
use aio_core::backend::{IoBlock, QueueConfig};
use aio_core::op::Direction;

pub(super) fn short_reads_at_the_end_of_the_file(context: &Context<'_>) {
    let size = 2 * PAGE + 1808;
    let path = context.filled("file", 4, size);
    for mode in context.modes() {
        let file = open(&path, mode).expect("open");
        let mut rig = Rig::new(context.backend, 16, 16 * PAGE);
        // Neighbours across the end and beyond it, one that starts before the end and is longer than the file,
        // and one far away.
        let mut blocks: Vec<_> = (0..6)
            .map(|at| rig.block(Direction::Read, &file, at as u64, at * PAGE, PAGE, (at * PAGE) as u64))
            .collect();
        blocks.push(rig.block(Direction::Read, &file, 6, 6 * PAGE, 8 * PAGE, PAGE as u64));
        blocks.push(rig.block(Direction::Read, &file, 7, 14 * PAGE, PAGE, 1 << 40));
        let mut results = rig.run(&blocks);
        for (token, bytes) in [PAGE, PAGE, 1808, 0, 0, 0, PAGE + 1808, 0].into_iter().enumerate() {
            results.expect_moved(token as u64, bytes);
        }
        expect_pattern("up to the end", &rig.memory.get(0, size), 4, 0);
        expect_pattern("up to the end in one block", &rig.memory.get(6 * PAGE, PAGE + 1808), 4, PAGE as u64);
    }
}

/// Runs a batch of five reads, in which each position in turn, two at once and all are `spoilt`; the others must
/// succeed, and `judge` sees the results of the spoilt ones.
fn spoil(
    context: &Context<'_>,
    path: &Path,
    mode: Mode,
    spoilt: impl Fn(IoBlock) -> IoBlock,
    judge: impl Fn(io::Result<usize>),
) {
    const BLOCKS: usize = 5;
    let file = open(path, mode).expect("open");
    let mut config = QueueConfig::new(8);
    for single_submit in [false, true] {
        config.single_submit = single_submit;
        let mut rig = Rig::with(context.backend, &config, BLOCKS * PAGE);
        for positions in [&[0][..], &[2], &[4], &[1, 2], &[0, 1, 2, 3, 4]] {
            rig.memory.put(0, &[0xEE; BLOCKS * PAGE]);
            let blocks: Vec<_> = (0..BLOCKS)
                .map(|at| {
                    let block = rig.block(Direction::Read, &file, at as u64, at * PAGE, PAGE, (at * PAGE) as u64);
                    if positions.contains(&at) { spoilt(block) } else { block }
                })
                .collect();
            let mut results = rig.run(&blocks);
            for at in 0..BLOCKS {
                if positions.contains(&at) {
                    judge(results.take(at as u64));
                } else {
                    results.expect_moved(at as u64, PAGE);
                    let what = format!("read by {at} beside {positions:?}");
                    expect_pattern(&what, &rig.memory.get(at * PAGE, PAGE), 1, (at * PAGE) as u64);
                }
            }
        }
    }
}

fn expect_errno(result: io::Result<usize>, errno: i32) {
    let found = result.as_ref().err().and_then(io::Error::raw_os_error);
    assert_eq!(found, Some(errno), "{result:?}, expected {}", io::Error::from_raw_os_error(errno));
}

pub(super) fn a_bad_descriptor_fails_alone(context: &Context<'_>) {
    let path = context.filled("file", 1, 5 * PAGE);
    // A number beyond any limit rather than one that was just closed: another thread may open that one again.
    for fd in [-1, RawFd::MAX] {
        for mode in context.modes() {
            spoil(context, &path, mode, |block| IoBlock { fd, ..block }, |result| expect_errno(result, libc::EBADF));
        }
    }
}

pub(super) fn a_wrong_access_mode_fails_alone(context: &Context<'_>) {
    use std::os::fd::AsRawFd;
    let path = context.filled("file", 1, 5 * PAGE);
    let read_only = File::open(&path).expect("open");
    let write_only = File::options().write(true).open(&path).expect("open");
    let refused = |result| expect_errno(result, libc::EBADF);
    for mode in context.modes() {
        spoil(context, &path, mode, |block| IoBlock { fd: write_only.as_raw_fd(), ..block }, refused);
        let write = |block| IoBlock { fd: read_only.as_raw_fd(), direction: Direction::Write, ..block };
        spoil(context, &path, mode, write, refused);
    }
    expect_pattern("the file", &std::fs::read(&path).expect("read"), 1, 0);
}

pub(super) fn a_directory_fails_alone(context: &Context<'_>) {
    use std::os::fd::AsRawFd;
    let path = context.filled("file", 1, 5 * PAGE);
    let folder = File::open(context.folder).expect("open");
    for mode in context.modes() {
        let spoilt = |block| IoBlock { fd: folder.as_raw_fd(), ..block };
        // Which error it is depends on who looks first.
        spoil(context, &path, mode, spoilt, |result| assert!(result.is_err(), "read {result:?} from a folder"));
    }
}

pub(super) fn a_bad_address_fails_alone(context: &Context<'_>) {
    let path = context.filled("file", 1, 5 * PAGE);
    let page = Inaccessible::new();
    for mode in context.modes() {
        let refused = |result| expect_errno(result, libc::EFAULT);
        spoil(context, &path, mode, |block| IoBlock { ptr: page.0, ..block }, refused);
    }
    // Writes go behind the end, so that the reads beside them see what they expect.
    for mode in context.modes() {
        let write = |block: IoBlock| IoBlock {
            ptr: page.0,
            direction: Direction::Write,
            offset: block.offset + 5 * PAGE as u64,
            ..block
        };
        spoil(context, &path, mode, write, |result| expect_errno(result, libc::EFAULT));
    }
}

/// A page that is mapped without any access.
struct Inaccessible(*mut u8);

impl Inaccessible {
    fn new() -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, placed by the kernel.
        let page = unsafe { libc::mmap(ptr::null_mut(), PAGE, libc::PROT_NONE, flags, -1, 0) };
        assert_ne!(page, libc::MAP_FAILED, "mmap");
        Self(page.cast())
    }
}

impl Drop for Inaccessible {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length, and never accessible to anyone.
        unsafe { libc::munmap(self.0.cast(), PAGE) };
    }
}

/// A file system may permit what is usually EINVAL; then the block has to do what it says.
pub(super) fn a_misaligned_direct_block_fails_alone(context: &Context<'_>) {
    let path = context.filled("file", 1, 5 * PAGE);
    let judge = |result: io::Result<usize>| {
        let fine = match &result {
            Ok(bytes) => *bytes == PAGE - 1,
            Err(error) => error.raw_os_error() == Some(libc::EINVAL),
        };
        assert!(fine, "{result:?}, expected EINVAL or {} bytes", PAGE - 1);
    };
    for mode in context.modes() {
        spoil(context, &path, mode, |block| IoBlock { len: PAGE - 1, ..block }, judge);
        let shifted = |block: IoBlock| IoBlock { offset: block.offset + 1, len: PAGE - 1, ..block };
        spoil(context, &path, mode, shifted, judge);
        let memory = |block: IoBlock| IoBlock { ptr: block.ptr.wrapping_add(1), len: PAGE - 1, ..block };
        spoil(context, &path, mode, memory, judge);
    }
}
