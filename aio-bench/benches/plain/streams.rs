//! One thread that runs through a file by blocking calls, beside `std::fs` in the same way, and `dd`.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use aio::{AioHandle, Backend};

use crate::side_by_side::{SideBySide, Work};

const KIB: usize = 1 << 10;
const SIZES: [usize; 3] = [4 * KIB, 64 * KIB, 256 * KIB];

pub(crate) fn compare_reads(lines: &mut SideBySide) {
    let len = lines.scaled(1 << 30, 8 << 20) as usize;
    let aio = aio::builder().backend(Backend::Auto).build().expect("a handle");
    let cold = lines.file("cold", len as u64);
    let evicted = cold.clone();
    lines.prepare_by(move || evict(&evicted));
    for size in SIZES {
        let mut memory = vec![0; size];
        let mut ours = || {
            let file = aio.open(&cold).expect("the file");
            each_offset(len, size, |offset| file.read_at(&mut memory, offset).expect("the bytes"))
        };
        let mut theirs = vec![0; size];
        let plain: Box<Work<'_>> = Box::new(|| {
            let file = File::open(&cold).expect("the file");
            each_offset(len, size, |offset| file.read_exact_at(&mut theirs, offset).expect("the bytes"))
        });
        lines.line(&format!("cold reads, {} KiB", size / KIB), 0.95, &mut ours, &mut [plain]);
    }
    lines.prepare_by(|| ());
}

pub(crate) fn compare_writes(lines: &mut SideBySide) {
    let len = lines.scaled(1 << 30, 8 << 20) as usize;
    let aio = aio::builder().backend(Backend::Auto).build().expect("a handle");
    let new = lines.path("new");
    let removed = new.clone();
    lines.prepare_by(move || remove(&removed));
    for size in SIZES {
        let memory = vec![7; size];
        let mut ours = || write_new(&aio, &new, &memory, len);
        let plain: Box<Work<'_>> = Box::new(|| {
            let file = File::create(&new).expect("a file");
            let written =
                each_offset(len, size, |offset| file.write_all_at(&memory, offset).expect("room for the bytes"));
            file.sync_data().expect("a disk that takes the file");
            written
        });
        lines.line(&format!("new file, {} KiB, synced", size / KIB), 1.0, &mut ours, &mut [plain]);
        let dd: Box<Work<'_>> = Box::new(|| {
            let operands = [
                "if=/dev/zero".to_owned(),
                format!("of={}", new.display()),
                format!("bs={size}"),
                format!("count={}", len / size),
                "conv=fdatasync".to_owned(),
            ];
            let status = Command::new("dd").args(operands).stderr(Stdio::null()).status();
            assert!(status.expect("dd").success(), "dd failed");
            len as u64
        });
        lines.line(&format!("new file, {} KiB, beside dd conv=fdatasync", size / KIB), 1.0, &mut ours, &mut [dd]);
    }
    lines.prepare_by(|| ());
    remove(&new);
}

fn write_new(aio: &AioHandle, path: &Path, memory: &[u8], len: usize) -> u64 {
    let file = aio.create(path).expect("a file");
    let written = each_offset(len, memory.len(), |offset| file.write_at(memory, offset).expect("room for the bytes"));
    file.sync_data().wait().expect("a disk that takes the file");
    written
}

fn each_offset(len: usize, size: usize, mut call: impl FnMut(u64)) -> u64 {
    (0..len).step_by(size).for_each(|offset| call(offset as u64));
    len as u64
}

/// Removes a file, and waits until the disk knows: it may be asked to discard what the file had.
fn remove(path: &Path) {
    if path.exists() {
        std::fs::remove_file(path).expect("the file goes");
    }
    nix::unistd::sync();
}

/// Drops a file from the page cache, where it lies in clean pages.
pub(crate) fn evict(path: &Path) {
    let file = File::open(path).expect("the file");
    nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("the advice");
    let (range, mut found) = ([0_u64, u64::MAX >> 1], [0_u64; 5]);
    // SAFETY: two and five 64-bit numbers are the structures of `cachestat(2)`.
    let asked = unsafe { libc::syscall(451, file.as_raw_fd(), range.as_ptr(), found.as_mut_ptr(), 0) };
    assert_eq!((asked, found[0]), (0, 0), "the file is still cached");
}
