//! Reads files that the user names: up to a limit, and until a signal comes.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::libc::O_NONBLOCK;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use aio_cli::interrupt;
use aio_cli::size;

/// Opens a regular file or a pipe, without waiting: a FIFO may have no writer yet.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(O_NONBLOCK).open(path)?;
    let kind = file.metadata()?.file_type();
    match kind.is_file() || kind.is_fifo() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is neither a regular file nor a pipe")),
    }
}

/// Reads all of the file, up to `most` bytes. A signal ends it with [`Interrupted`](io::ErrorKind::Interrupted).
pub(crate) fn read(mut file: File, most: u64) -> io::Result<Vec<u8>> {
    const MILLISECONDS: u16 = 50;
    let mut bytes = Vec::new();
    let mut chunk = [0; 1 << 14];
    while interrupt::check().is_ok() {
        // A signal restarts a read, and a read of a FIFO without a writer ends the file; poll does neither.
        match poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], PollTimeout::from(MILLISECONDS)) {
            Ok(0) | Err(Errno::EINTR) => continue,
            ready => ready?,
        };
        match file.read(&mut chunk) {
            Ok(0) => return Ok(bytes),
            Ok(length) => bytes.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if bytes.len() as u64 > most {
            let sentence = format!("it is larger than {}", size::show(most));
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, sentence));
        }
    }
    Err(io::ErrorKind::Interrupted.into())
}
