//! Reads pieces of files in order, with I/O ahead of the consumer.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use aio_core::buf::AlignedBuf;
use aio_core::{AioFile, AioHandle, Ticket};

use crate::error::{Error, Result};

/// How long memory is waited for where nothing is in flight.
const PATIENCE: Duration = Duration::from_secs(1);

/// A contiguous part of a file, and what it is read for.
#[derive(Debug, Clone)]
pub(crate) struct Piece<T> {
    /// Which of the files.
    pub(crate) file: usize,
    /// Its bytes there.
    pub(crate) range: Range<u64>,
    /// What the consumer knows it by.
    pub(crate) of: T,
}

/// Gives pieces in order, and has as many of the next ones in flight as the budget allows, one at least.
#[derive(Debug)]
pub(crate) struct ReadAhead<'m, T, I> {
    aio: &'m AioHandle,
    files: &'m [AioFile],
    pieces: I,
    /// The piece for which there was no memory.
    next: Option<Piece<T>>,
    in_flight: VecDeque<(Piece<T>, Ticket<AlignedBuf>)>,
    /// Bytes that are in flight, or wait for the consumer.
    ahead: u64,
    budget: u64,
    is_over: bool,
}

impl<'m, T, I: Iterator<Item = Piece<T>>> ReadAhead<'m, T, I> {
    /// `budget`: bytes.
    pub(crate) fn new(aio: &'m AioHandle, files: &'m [AioFile], pieces: I, budget: u64) -> Self {
        Self { aio, files, pieces, next: None, in_flight: VecDeque::new(), ahead: 0, budget, is_over: false }
    }

    /// Gives nothing more, and cancels what is in flight.
    pub(crate) fn stop(&mut self) {
        self.in_flight.clear();
        self.next = None;
        self.is_over = true;
    }

    /// Starts what the budget allows.
    fn fill(&mut self) -> Result<()> {
        while let Some(piece) = self.next.take().or_else(|| self.pieces.next()) {
            let len = piece.range.end - piece.range.start;
            if !self.in_flight.is_empty() && self.ahead.saturating_add(len) > self.budget {
                self.next = Some(piece);
                break;
            }
            let bytes = usize::try_from(len).map_err(|error| Error::InvalidInput(error.to_string()))?;
            let buffer = match self.aio.try_alloc(bytes) {
                Ok(buffer) => buffer,
                Err(aio_core::Error::OutOfMemory { .. }) if !self.in_flight.is_empty() => {
                    self.next = Some(piece);
                    break;
                }
                // Other threads may be waiting for what queues give back.
                Err(aio_core::Error::OutOfMemory { .. }) => self.aio.alloc_timeout(bytes, PATIENCE)?,
                Err(error) => return Err(error.into()),
            };
            self.ahead += len;
            let ticket = self.files[piece.file].read(buffer, piece.range.start).cancel_on_drop();
            self.in_flight.push_back((piece, ticket));
        }
        Ok(())
    }
}

impl<T, I: Iterator<Item = Piece<T>>> Iterator for ReadAhead<'_, T, I> {
    type Item = Result<(Piece<T>, AlignedBuf)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        if let Err(error) = self.fill() {
            self.stop();
            return Some(Err(error));
        }
        let (piece, ticket) = self.in_flight.pop_front()?;
        self.ahead -= piece.range.end - piece.range.start;
        Some(ticket.wait().map(|buffer| (piece, buffer)).map_err(Error::from))
    }
}
