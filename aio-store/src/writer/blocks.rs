//! Puts bytes that come in any order, in parts, from several threads, into whole blocks, and writes these.
//!
//! Tensors lie one after the other, so they begin and end inside of blocks, where direct I/O cannot write. Blocks that
//! are filled are written past the page cache; one that has to make room before it is full is written in parts, for
//! which the engine has ways.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use aio_core::buf::AlignedBuf;
use aio_core::{AioFile, AioHandle, Ticket};

use crate::error::{Error, Result};
use crate::header::ALIGNMENT;
use crate::ranges::Ranges;

/// Bytes of a block.
const BLOCK: u64 = 4 << 20;
/// The most blocks in memory: filled in part, and in flight.
const BLOCKS: usize = 16;

/// Parts of a block that are written as one op.
const PARTS: usize = 256;

/// Which file, and which block of its data section.
type Key = (usize, u64);

/// A file whose data section is written.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) file: AioFile,
    /// Its bytes in the file; begins at a multiple of [`ALIGNMENT`].
    pub(crate) range: Range<u64>,
}

impl Section {
    fn block(&self, block: u64) -> Range<u64> {
        let begin = self.range.start + block * BLOCK;
        begin..(begin + BLOCK).min(self.range.end)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Blocks {
    aio: AioHandle,
    sections: Vec<Section>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    partial: BTreeMap<Key, Partial>,
    /// Blocks that threads fill, or write in parts, just now.
    busy: HashSet<Key>,
    in_flight: VecDeque<Ticket<AlignedBuf>>,
    free: Vec<AlignedBuf>,
    /// Buffers, wherever they are.
    buffers: usize,
    /// Counts uses, for the one that was used longest ago.
    clock: u64,
    /// Why a write failed, which the call that found it has reported.
    failed: Option<String>,
}

/// A block that is filled in part.
#[derive(Debug)]
struct Partial {
    buffer: AlignedBuf,
    /// What is there, from the block's first byte.
    filled: Ranges,
    used: u64,
}

impl Blocks {
    pub(crate) fn new(aio: &AioHandle, sections: Vec<Section>) -> Self {
        Self { aio: aio.clone(), sections, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Takes the bytes `range` of a file: `copy` is called for each part of them, with its place in `range` and the
    /// memory to be filled. No other call may have any of these bytes. After a failure every later call fails.
    pub(crate) fn put(
        &self,
        file: usize,
        range: Range<u64>,
        copy: impl FnMut(Range<usize>, &mut [u8]),
    ) -> Result<()> {
        self.put_parts(file, range, copy).map_err(|error| self.fail(&mut self.lock(), error))
    }

    fn put_parts(&self, file: usize, range: Range<u64>, mut copy: impl FnMut(Range<usize>, &mut [u8])) -> Result<()> {
        let section = &self.sections[file];
        let mut at = range.start;
        while at < range.end {
            let number = (at - section.range.start) / BLOCK;
            let (key, block) = ((file, number), section.block(number));
            let end = range.end.min(block.end);
            let mut partial = self.check_out(key)?;
            let part = (at - block.start) as usize..(end - block.start) as usize;
            copy((at - range.start) as usize..(end - range.start) as usize, &mut partial.buffer[part.clone()]);
            partial.filled.insert(part.start as u64..part.end as u64);
            self.check_in(key, partial);
            at = end;
        }
        Ok(())
    }

    /// Writes what is left, and waits until all is written.
    pub(crate) fn finish(&self) -> Result<()> {
        let mut state = self.lock();
        while let Some((key, partial)) = state.partial.pop_first() {
            drop(state);
            self.write_parts(key, &partial)?;
            state = self.lock();
        }
        while let Some(ticket) = state.in_flight.pop_front() {
            ticket.wait()?;
        }
        // What is still to be done takes memory.
        state.free.clear();
        failed_before(&state)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What a thread that panicked leaves is whole: it panics in `copy`, with the lock free.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The block, which no other thread has then.
    fn check_out(&self, key: Key) -> Result<Partial> {
        let mut state = self.lock();
        loop {
            failed_before(&state)?;
            if state.busy.contains(&key) {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            if let Some(partial) = state.partial.remove(&key) {
                state.busy.insert(key);
                return Ok(partial);
            }
            let buffer = match state.free.pop() {
                Some(buffer) => Some(buffer),
                None => self.allocate(&mut state)?,
            };
            if let Some(buffer) = buffer {
                state.busy.insert(key);
                return Ok(Partial { buffer, filled: Ranges::default(), used: 0 });
            }
            state = self.make_room(state)?;
        }
    }

    /// A new buffer, as long as there may be one more.
    fn allocate(&self, state: &mut State) -> Result<Option<AlignedBuf>> {
        if state.buffers == BLOCKS {
            return Ok(None);
        }
        match self.aio.try_alloc(BLOCK as usize) {
            Ok(buffer) => {
                state.buffers += 1;
                Ok(Some(buffer))
            }
            Err(aio_core::Error::OutOfMemory { .. }) if state.buffers > 0 => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until a buffer may be free: of the oldest write, of a block that it writes in parts, or of another thread.
    fn make_room<'s>(&'s self, mut state: MutexGuard<'s, State>) -> Result<MutexGuard<'s, State>> {
        if let Some(ticket) = state.in_flight.pop_front() {
            drop(state);
            let written = ticket.wait();
            let mut state = self.lock();
            let written = written.map_err(Error::from).and_then(|mut buffer| {
                buffer.set_len(BLOCK as usize)?;
                Ok(buffer)
            });
            match written {
                Ok(buffer) => state.free.push(buffer),
                Err(error) => return Err(self.fail(&mut state, error)),
            }
            self.changed.notify_all();
            return Ok(state);
        }
        let oldest = state.partial.iter().min_by_key(|(_, partial)| partial.used).map(|(key, _)| *key);
        if let Some(key) = oldest
            && let Some(partial) = state.partial.remove(&key)
        {
            state.busy.insert(key);
            drop(state);
            let written = self.write_parts(key, &partial);
            let mut state = self.lock();
            state.busy.remove(&key);
            state.free.push(partial.buffer);
            if let Err(error) = written {
                return Err(self.fail(&mut state, error));
            }
            self.changed.notify_all();
            return Ok(state);
        }
        Ok(self.changed.wait(state).unwrap_or_else(PoisonError::into_inner))
    }

    fn fail(&self, state: &mut State, error: Error) -> Error {
        state.failed.get_or_insert_with(|| error.to_string());
        self.changed.notify_all();
        error
    }

    /// Gives a block back, and starts to write it if it is full.
    fn check_in(&self, key: Key, mut partial: Partial) {
        let section = &self.sections[key.0];
        let block = section.block(key.1);
        let len = block.end - block.start;
        if !partial.filled.covers(0..len) {
            let mut state = self.lock();
            state.clock += 1;
            partial.used = state.clock;
            state.partial.insert(key, partial);
            state.busy.remove(&key);
            self.changed.notify_all();
            return;
        }
        // Whole units; the file is cut to its length in the end.
        let mut buffer = partial.buffer;
        let padded = len.next_multiple_of(ALIGNMENT) as usize;
        buffer[len as usize..padded].fill(0);
        buffer.truncate(padded);
        let ticket = section.file.write(buffer, block.start).cancel_on_drop();
        let mut state = self.lock();
        state.in_flight.push_back(ticket);
        state.busy.remove(&key);
        self.changed.notify_all();
    }

    /// Writes what is filled of a block.
    fn write_parts(&self, (file, block): Key, partial: &Partial) -> Result<()> {
        let section = &self.sections[file];
        let begin = section.block(block).start;
        let part = |part: Range<u64>| (begin + part.start, &partial.buffer[part.start as usize..part.end as usize]);
        let mut parts = partial.filled.iter().map(part).peekable();
        self.aio.scope(|scope| {
            while parts.peek().is_some() {
                scope.write_vectored(&section.file, parts.by_ref().take(PARTS).collect());
            }
        })?;
        Ok(())
    }
}

fn failed_before(state: &State) -> Result<()> {
    match &state.failed {
        None => Ok(()),
        Some(why) => Err(Error::InvalidInput(format!("a write failed before, so nothing more is taken: {why}"))),
    }
}
