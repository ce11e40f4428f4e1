//! Brings an engine into the state it has in the middle of a long job, before anything is timed.
//!
//! Threads start, and memory is registered with the kernel, when ops first need them: pinning 1 GiB takes tens of
//! milliseconds, once. A training job does not notice; a measurement of 100 ms would show little else.

use aio::buf::{AlignedBuf, Arena};
use aio::error::OpError;
use aio::{AioFile, AioHandle, Ticket};

use crate::failure::Failure;
use crate::host::limits;
use crate::interrupt;
use crate::size;

/// Allocates `count` buffers of `bytes` each, as [`allocate`] does, and warms them up on `file`.
pub fn buffers(
    handle: &AioHandle,
    file: &AioFile,
    count_and_bytes: (usize, usize),
    less: &str,
) -> Result<Vec<AlignedBuf>, Failure> {
    warm_up(file, allocate(handle, count_and_bytes, less)?)
}

/// Allocates `count` buffers of `bytes` each. If they do not fit into memory, the error ends with `less`: what needs
/// less.
pub fn allocate(handle: &AioHandle, (count, bytes): (usize, usize), less: &str) -> Result<Vec<AlignedBuf>, Failure> {
    let too_large = |reason: String| {
        let each = size::show(bytes as u64);
        Failure::Failed(format!("{count} buffers of {each} do not fit into memory ({reason}): {less} takes less"))
    };
    // Fails before most of the memory is taken.
    let limit = handle.config().arena_limit.unwrap_or_else(Arena::default_limit);
    if (count as u64).saturating_mul(bytes as u64) > limit {
        return Err(too_large(format!("the arena's limit is {}", size::show(limit))));
    }
    let allocate = |_| {
        interrupt::check()?;
        handle.arena().try_alloc(bytes).map_err(|error| too_large(error.to_string()))
    };
    (0..count).map(allocate).collect()
}

/// Reads the first page of `file` (or as much as a buffer holds) into each of `buffers`, and returns them.
pub fn warm_up(file: &AioFile, buffers: Vec<AlignedBuf>) -> Result<Vec<AlignedBuf>, Failure> {
    let page = usize::try_from(limits::page_size()).unwrap_or(4096);
    let read = |mut buffer: AlignedBuf| -> (usize, Ticket<AlignedBuf>) {
        let len = buffer.len();
        buffer.truncate(page);
        (len, file.read(buffer, 0))
    };
    let tickets: Vec<_> = buffers.into_iter().map(read).collect();
    let finish = |(len, ticket): (usize, Ticket<AlignedBuf>)| -> Result<AlignedBuf, Failure> {
        let mut buffer = arrived(ticket.wait())?;
        buffer.set_len(len)?;
        Ok(buffer)
    };
    tickets.into_iter().map(finish).collect()
}

/// The buffer of a read for warming up. Reaching the end of the file is no failure: a file that is yet to be written is
/// empty where its space could not be allocated.
pub fn arrived<B>(result: Result<B, OpError<B>>) -> Result<B, Failure> {
    let (error, buffer) = match result {
        Ok(buffer) => return Ok(buffer),
        Err(failed) => failed.into_parts(),
    };
    match buffer {
        Some(buffer) => attempted(Err(error)).map(|()| buffer),
        None => Err(error.into()),
    }
}

/// Like [`arrived`], for a blocking read.
pub fn attempted(result: aio::Result<()>) -> Result<(), Failure> {
    match result {
        Err(aio::Error::UnexpectedEof { .. }) => Ok(()),
        result => Ok(result?),
    }
}

#[cfg(test)]
mod tests {
    use aio::Backend;

    use super::*;

    #[test]
    fn an_empty_file_will_do() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let handle = aio::builder().backend(Backend::Pthread).build().unwrap();
        let file = handle.open(file.path()).unwrap();
        let buffers = warm_up(&file, vec![handle.alloc(10_000).unwrap(), handle.alloc(1).unwrap()]).unwrap();
        assert_eq!(buffers.iter().map(|buffer| buffer.len()).collect::<Vec<_>>(), [10_000, 1]);
    }

    #[test]
    fn other_failures_are() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let handle = aio::builder().backend(Backend::Pthread).build().unwrap();
        let options = aio::OpenOptions::new().write(true);
        let file = handle.open_with(file.path(), &options).unwrap();
        assert!(warm_up(&file, vec![handle.alloc(1).unwrap()]).is_err());
    }
}
