//! Whether a thread can be had, and does what it is for.
#![allow(unsafe_code)]

use std::env;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use aio_core::{Capabilities, Direction, IoBlock, IoQueue, QueueConfig, Unavailable};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::NAME;
use crate::pool::Pool;
use crate::queue::PoolQueue;

const BYTES: [u8; 64] = [0xA5; 64];

pub(crate) fn probe() -> Result<Capabilities, Unavailable> {
    let unavailable = |what: &str, error: &io::Error| Unavailable::new(NAME, format!("{what}: {error}"), Some(error));
    let file = file().map_err(|error| unavailable("no file to try it on", &error))?;
    write_and_read(&file).map_err(|error| unavailable("a thread that writes and reads a file failed", &error))?;
    Ok(Capabilities::default())
}

/// A file that goes when it is closed.
fn file() -> io::Result<File> {
    match memfd_create(c"aio-pthread-probe", MFdFlags::MFD_CLOEXEC) {
        Ok(file) => Ok(File::from(file)),
        // Refused by a filter.
        Err(_) => File::options().read(true).write(true).custom_flags(libc::O_TMPFILE).open(env::temp_dir()),
    }
}

fn write_and_read(file: &File) -> io::Result<()> {
    let mut memory = BYTES;
    let config = QueueConfig::new(1);
    // Dropped before the memory.
    let mut queue = PoolQueue::new(&config, Pool::new(&config));
    let mut transfer = |direction, memory: &mut [u8; BYTES.len()]| {
        let (fd, ptr, len) = (file.as_raw_fd(), memory.as_mut_ptr(), memory.len());
        let block = IoBlock { token: 0, direction, fd, file: None, region: None, ptr, len, offset: 0 };
        // SAFETY: the memory is borrowed until the completion was reaped, and `reap` does not fail.
        unsafe { queue.submit(&[block])? };
        if queue.threads() == 0 {
            return Err(io::Error::other("no thread could be started"));
        }
        let mut done = Vec::new();
        while done.is_empty() {
            queue.reap(1, None, &mut done)?;
        }
        match done.pop().map_or(Ok(0), |completion| completion.result)? {
            moved if moved == len => Ok(()),
            moved => Err(io::Error::other(format!("{moved} of {len} bytes moved"))),
        }
    };
    transfer(Direction::Write, &mut memory)?;
    memory.fill(0);
    transfer(Direction::Read, &mut memory)?;
    if memory == BYTES { Ok(()) } else { Err(io::Error::other("other bytes were read than written")) }
}
