//! Reaping: what a worker does with the completions of its blocks.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use super::{AioThread, COPIED_AT_ONCE};
use crate::backend::Direction;
use crate::engine::completion::NextStep;
use crate::engine::in_flight::{Done, PendingBlock, Run, RunId, UnknownToken};
use crate::engine::staging;
use crate::error::Error;
use crate::foreign::{log, report_drop};
use crate::printable::shown;

impl AioThread {
    /// Waits for completions, and handles them.
    pub(super) fn reap(&mut self, min: usize, timeout: Option<Duration>) -> Result<(), String> {
        let reaped = self.flight.reap(min, timeout);
        self.handle_completions()?;
        reaped.map_err(|error| format!("the I/O queue broke: {error}"))
    }

    /// Handles what was reaped, until as much was copied as [should be at once](COPIED_AT_ONCE).
    pub(super) fn handle_completions(&mut self) -> Result<(), String> {
        let before = self.staged;
        while self.staged - before < COPIED_AT_ONCE as u64 {
            let Some(done) = self.flight.next_done() else { break };
            let done = done.map_err(|UnknownToken(token)| {
                let backend = self.shared.backend.name();
                format!("the {backend} backend reported a block that it did not have ({token:#x})")
            })?;
            self.complete(done);
        }
        Ok(())
    }

    /// Takes the next step with a block.
    fn complete(&mut self, Done { index, result }: Done) {
        let Some((block, _)) = self.flight.block(index) else { return self.finish_block(index, 0) };
        let step = block.piece.next_step(result);
        block.piece.count(&step, self.counters.stats());
        block.advance(&step);
        match step {
            NextStep::Done { .. } => self.deliver(index),
            NextStep::Rest { .. } | NextStep::Retry { pause: None } => self.flight.push_again(index),
            NextStep::Retry { pause: Some(pause) } => self.delayed.push((Instant::now() + pause, index)),
            NextStep::ThroughCache { .. } => self.use_page_cache(index),
            NextStep::EndOfFile => self.end_of_file(index),
            NextStep::Failed(source) => self.fail_block_with(index, source),
        }
    }

    /// Every byte of the block has moved.
    fn deliver(&mut self, index: usize) {
        let Some((block, run)) = self.flight.block(index) else { return };
        match staging::deliver(&run.op, block) {
            Ok(()) => {
                let bytes = block.done();
                self.finish_block(index, bytes);
            }
            Err(error) => self.fail_block(index, error),
        }
    }

    #[cold]
    fn end_of_file(&mut self, index: usize) {
        let Some((block, run)) = self.flight.block(index) else { return };
        // What did arrive is the user's, also of a block that the end of the file cuts short.
        let error = match staging::deliver(&run.op, block) {
            Ok(()) => run.op.eof(position(block, run)),
            Err(error) => error,
        };
        self.fail_block(index, error);
    }

    /// Takes a block off direct I/O: a read goes on where it is; a write has to wait until no direct write is in
    /// flight, and is done again as a whole.
    #[cold]
    fn use_page_cache(&mut self, index: usize) {
        let Some((block, run)) = self.flight.block(index) else { return };
        match cached_fd(run, block.piece.offset) {
            Err(source) => self.fail_block_with(index, source),
            Ok(_) if block.piece.direction == Direction::Write => self.requeue_block(index),
            Ok(fd) => {
                (block.block.fd, block.block.file) = (fd, None);
                self.flight.push_again(index);
            }
        }
    }

    /// The block leaves its slot, to be claimed again alone, through the page cache.
    fn requeue_block(&mut self, index: usize) {
        let again = self.flight.block(index).and_then(|(block, run)| {
            let number = run.op.state.plan()?.number(block.range);
            Some((run.op.clone(), number))
        });
        let (Some((op, number)), Some((id, staging))) = (again, self.flight.release(index)) else { return };
        if let Some(buffer) = staging {
            self.staging.give(buffer);
        }
        if op.state.options.is_background() {
            self.background -= 1;
        }
        // The run may be over by this, and let the other route's writes in.
        self.finish_run(id);
        self.shared.requeue_through_cache(op, number);
    }

    /// The block is over, well or not.
    fn finish_block(&mut self, index: usize, bytes: usize) {
        let Some((id, staging)) = self.flight.release(index) else { return };
        if let Some(buffer) = staging {
            self.staged += bytes as u64;
            self.staging.give(buffer);
        }
        self.counters.stats().blocks += 1;
        if let Some(run) = self.flight.run(id) {
            run.progress.done_with(1, bytes);
            if run.is_background() {
                self.background -= 1;
            }
        }
        self.finish_run(id);
    }

    #[cold]
    fn fail_block_with(&mut self, index: usize, source: io::Error) {
        let Some((block, run)) = self.flight.block(index) else { return };
        let (op, left) = (&run.op, block.piece);
        let error =
            op.io_error(op.kind(), source).at(left.offset, left.len as u64).by(self.shared.backend.name()).into();
        self.fail_block(index, error);
    }

    fn fail_block(&mut self, index: usize, error: Error) {
        if let Some((block, run)) = self.flight.block(index) {
            run.op.state.fail(position(block, run), error);
        }
        self.finish_block(index, 0);
    }

    /// If nothing of a run is left, gives its account to the op.
    pub(super) fn finish_run(&mut self, id: RunId) {
        let Some(run) = self.flight.take_finished(id) else { return };
        let (op, finished, bytes) = run.into_account();
        if op.state.plan().is_some_and(|plan| plan.blocks != finished) {
            // Another worker may end the op, and its waiter finds all of it counted.
            self.add_counters();
        }
        if op.state.account(finished, bytes) {
            self.ended.extend(self.shared.blocks_ended(op));
        } else {
            // By now it may be the last reference, and the descriptor's own drop is foreign code.
            report_drop(op);
        }
    }

    /// Issues the blocks again whose pause is over.
    pub(super) fn retry_delayed(&mut self) {
        if self.delayed.is_empty() {
            return;
        }
        let now = Instant::now();
        let (due, later): (Vec<_>, Vec<_>) = self.delayed.drain(..).partition(|(due, ..)| *due <= now);
        self.delayed = later;
        for (_, index) in due {
            self.flight.push_again(index);
        }
    }
}

fn cached_fd(run: &Run, offset: u64) -> io::Result<RawFd> {
    let file = run.file().ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
    let fd = file.buffered()?.as_raw_fd();
    log(|| tracing::debug!(path = %shown(file.path()), offset, "continuing through the page cache"));
    Ok(fd)
}

/// How far into the op the block got.
fn position(block: &PendingBlock, run: &Run) -> u64 {
    let position = run.op.state.plan().map_or(0, |plan| plan.segments[block.range.segment].position);
    position + (block.range.from + block.done()) as u64
}
