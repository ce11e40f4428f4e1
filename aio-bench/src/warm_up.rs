//! Getting an engine to where it is in the middle of a long job, before anything is timed.
//!
//! Threads start and memory is registered with the kernel when ops first need them: pinning 1 GiB takes tens of
//! milliseconds, once. A training job does not notice; a measurement of 100 ms would show little else.

use aio::{AioFile, AlignedBuf, Ticket};

use crate::failure::Failure;
use crate::host::limits;

/// Reads the first page of `file` (or as much as a buffer holds) into each of `buffers`, and gives them back.
pub(crate) fn warm_up(file: &AioFile, buffers: Vec<AlignedBuf>) -> Result<Vec<AlignedBuf>, Failure> {
    let page = usize::try_from(limits::page_size()).unwrap_or(4096);
    let read = |mut buffer: AlignedBuf| -> (usize, Ticket<AlignedBuf>) {
        let len = buffer.len();
        buffer.truncate(page);
        (len, file.read(buffer, 0))
    };
    let tickets: Vec<_> = buffers.into_iter().map(read).collect();
    let finish = |(len, ticket): (usize, Ticket<AlignedBuf>)| -> Result<AlignedBuf, Failure> {
        let mut buffer = ticket.wait()?;
        buffer.set_len(len)?;
        Ok(buffer)
    };
    tickets.into_iter().map(finish).collect()
}
