//! What is measured: a few large ops in flight, as in swapping tensors, so that the engine cuts them into blocks.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use aio::buf::AlignedBuf;
use aio::{AioFile, AioHandle, Error, Ticket};

use super::sample::Sample;
use crate::failure::Failure;
use crate::generate;
use crate::host::cpu::{Elapsed, Stopwatch};
use crate::host::{limits, memory};
use crate::interrupt;
use crate::warm_up;

/// The size and number of ops.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) op_bytes: usize,
    pub(crate) ops_in_flight: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

/// The result of a pass.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) sample: Sample,
    /// Whole ops that moved, from the start of the file.
    pub(crate) whole_ops: u64,
    pub(crate) buffers: Vec<AlignedBuf>,
}

/// How often a waiting pass checks whether it has to end.
const LOOK: Duration = Duration::from_millis(50);

impl Shape {
    /// The shape for a file of this size, and for this many folders measured at the same time: eight ops of 16 MiB, or
    /// less where the file or the memory is small.
    pub(crate) fn of(file_bytes: u64, folders: usize) -> Self {
        const OP: u64 = 16 << 20;
        const IN_FLIGHT: u64 = 8;
        let memory = memory::budget() / folders.max(1) as u64;
        let op = OP.min(file_bytes / IN_FLIGHT).min(memory / IN_FLIGHT);
        let page = limits::page_size();
        let op_bytes = usize::try_from((op / page).max(1) * page).unwrap_or(16 << 20);
        Self { op_bytes, ops_in_flight: IN_FLIGHT as usize }
    }

    /// Bytes of all ops in flight: the command's memory for data.
    pub(crate) fn buffer_bytes(&self) -> usize {
        self.op_bytes * self.ops_in_flight
    }

    /// Buffers known to the engine, with data in them: devices and file systems have short cuts for zeros.
    pub(crate) fn buffers(
        &self,
        handle: &AioHandle,
        file: &AioFile,
        pattern: &[u8],
    ) -> Result<Vec<AlignedBuf>, Failure> {
        let mut buffers = warm_up::buffers(handle, file, (self.ops_in_flight, self.op_bytes), "a smaller --size")?;
        for piece in buffers.iter_mut().flat_map(|buffer| buffer.chunks_mut(pattern.len())) {
            piece.copy_from_slice(&pattern[..piece.len()]);
        }
        Ok(buffers)
    }
}

/// Bytes to fill buffers with.
pub(crate) fn pattern(seed: u64) -> Vec<u8> {
    let mut pattern = vec![0; 1 << 20];
    generate::fill(&mut pattern, seed);
    pattern
}

/// Moves `bytes` (whole ops, from the start of the file), and stops after `at_most`. The time of writes includes a
/// sync: otherwise those through the page cache would seem to cost nothing.
pub(crate) fn pass(
    file: &AioFile,
    direction: Direction,
    buffers: Vec<AlignedBuf>,
    bytes: u64,
    at_most: Duration,
) -> Result<Pass, Failure> {
    timed_pass(file, direction, buffers, bytes, at_most, Stopwatch::stop)
}

/// Runs a pass until `stop`, which ends the timed part.
fn timed_pass(
    file: &AioFile,
    direction: Direction,
    mut buffers: Vec<AlignedBuf>,
    bytes: u64,
    at_most: Duration,
    stop: impl FnOnce(Stopwatch) -> Elapsed,
) -> Result<Pass, Failure> {
    let op_bytes = buffers.first().map_or(0, |buffer| buffer.len()) as u64;
    let mut offsets = (0..bytes.checked_div(op_bytes).unwrap_or(0)).map(|op| op * op_bytes);
    let submit = |buffer, offset| match direction {
        Direction::Read => file.read(buffer, offset),
        Direction::Write => file.write(buffer, offset),
    };
    let (mut moved, mut whole_ops, mut back) = (0, 0, Vec::with_capacity(buffers.len()));
    let mut in_flight: VecDeque<Ticket<AlignedBuf>> = VecDeque::with_capacity(buffers.len());
    let watch = Stopwatch::start();
    let end = watch.started().checked_add(at_most);
    while let Some(buffer) = buffers.pop() {
        match offsets.next() {
            Some(offset) => in_flight.push_back(submit(buffer, offset)),
            None => back.push(buffer),
        }
    }
    let (mut cancelled, mut gap) = (false, false);
    while let Some(ticket) = in_flight.pop_front() {
        while !ticket.wait_timeout(LOOK)? {
            let late = end.is_some_and(|end| Instant::now() >= end) || interrupt::check().is_err();
            if late && !cancelled {
                cancelled = true;
                in_flight.iter().chain([&ticket]).for_each(Ticket::cancel);
            }
        }
        match ticket.wait() {
            Ok(buffer) => {
                moved += op_bytes;
                whole_ops += u64::from(!gap);
                let go_on = !cancelled && end.is_none_or(|end| Instant::now() < end) && interrupt::check().is_ok();
                match offsets.next().filter(|_| go_on) {
                    Some(offset) => in_flight.push_back(submit(buffer, offset)),
                    None => back.push(buffer),
                }
            }
            Err(failed) => match failed.into_parts() {
                (Error::Cancelled { bytes, .. }, buffer) => {
                    moved += bytes;
                    gap = true;
                    back.extend(buffer);
                }
                (error, _) => return Err(interrupt::check().err().unwrap_or_else(|| error.into())),
            },
        }
    }
    interrupt::check()?;
    if direction == Direction::Write {
        let synced = file.sync_data();
        while !synced.wait_timeout(LOOK)? {
            interrupt::check()?;
        }
        synced.wait()?;
    }
    let elapsed = stop(watch);
    if moved == 0 {
        return Err(Failure::Failed(format!("nothing moved within {:.1} s", at_most.as_secs_f64())));
    }
    let (seconds, gb) = (elapsed.wall.as_secs_f64(), moved as f64 / 1e9);
    let sample =
        Sample { gb_per_s: gb / seconds.max(1e-9), cpu_seconds_per_gb: elapsed.cpu.as_secs_f64() / gb, seconds };
    Ok(Pass { sample, whole_ops, buffers: back })
}

#[cfg(test)]
mod tests {
    use aio::{Backend, DirectMode, OpenOptions};

    use super::*;
    use crate::host::page_cache::PageCache;

    const SHAPE: Shape = Shape { op_bytes: 64 << 10, ops_in_flight: 4 };

    fn rig() -> (tempfile::NamedTempFile, AioHandle, AioFile) {
        let named = tempfile::NamedTempFile::new().unwrap();
        named.as_file().set_len(1 << 20).unwrap();
        let handle = aio::builder().backend(Backend::Pthread).build().unwrap();
        let file = handle.open_with(named.path(), &OpenOptions::new().read(true).write(true)).unwrap();
        (named, handle, file)
    }

    #[test]
    fn memory_is_bounded_whatever_the_file() {
        for (bytes, op) in [(1 << 40, 16 << 20), (8 << 20, 1 << 20), (1 << 20, 128 << 10), (0, 4096)] {
            let shape = Shape::of(bytes, 1);
            assert!(shape.op_bytes <= op && shape.op_bytes.is_multiple_of(4096), "{bytes}: {shape:?}");
            assert!(shape.buffer_bytes() <= 128 << 20);
        }
    }

    #[test]
    fn a_pass_moves_what_it_is_told_and_gives_the_buffers_back() {
        let (named, handle, file) = rig();
        let buffers = SHAPE.buffers(&handle, &file, &pattern(1)).unwrap();
        let hour = Duration::from_secs(3600);
        let wrote = pass(&file, Direction::Write, buffers, 10 * SHAPE.op_bytes as u64 + 1, hour).unwrap();
        assert_eq!((wrote.whole_ops, wrote.buffers.len()), (10, 4));
        assert!(wrote.sample.gb_per_s > 0.0 && wrote.sample.seconds > 0.0);
        let contents = std::fs::read(named.path()).unwrap();
        let (written, rest) = contents.split_at(10 * SHAPE.op_bytes);
        assert!(written.chunks(4096).all(|page| page.iter().any(|byte| *byte != 0)) && rest.iter().all(|b| *b == 0));

        let read = pass(&file, Direction::Read, wrote.buffers, 2 * SHAPE.op_bytes as u64, hour).unwrap();
        assert_eq!((read.whole_ops, read.buffers.len()), (2, 4));
    }

    #[test]
    fn when_time_is_up_no_further_op_starts() {
        let (_named, handle, file) = rig();
        let buffers = SHAPE.buffers(&handle, &file, &pattern(1)).unwrap();
        match pass(&file, Direction::Read, buffers, 16 * SHAPE.op_bytes as u64, Duration::ZERO) {
            Ok(read) => assert!((1..=4).contains(&read.whole_ops) && read.buffers.len() == 4, "{read:?}"),
            // All ops were cancelled: the machine was busy.
            Err(error) => assert!(error.to_string().contains("nothing moved"), "{error}"),
        }
    }

    #[test]
    fn what_was_written_is_on_the_device_before_the_clock_stops() {
        let unwritten = |file| PageCache::of(file).map(|pages| pages.unwritten);
        let named = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(named.path(), pattern(1)).unwrap();
        if unwritten(named.as_file()).is_none_or(|pages| pages == 0) {
            return println!(
                "SKIPPED: the kernel does not tell what is unwritten (cachestat, Linux 6.5), or it is tmpfs"
            );
        }
        let handle = aio::builder().backend(Backend::Pthread).direct(DirectMode::Off).build().unwrap();
        let file = handle.open_with(named.path(), &OpenOptions::new().read(true).write(true)).unwrap();
        let buffers = SHAPE.buffers(&handle, &file, &pattern(1)).unwrap();
        let (hour, bytes) = (Duration::from_secs(3600), pattern(1).len() as u64);
        let mut at_the_end = None;
        let stop = |watch: Stopwatch| {
            at_the_end = unwritten(named.as_file());
            watch.stop()
        };
        timed_pass(&file, Direction::Write, buffers, bytes, hour, stop).unwrap();
        assert_eq!(at_the_end, Some(0));
    }

    #[test]
    fn a_failure_is_told() {
        let (named, handle, file) = rig();
        named.as_file().set_len(100).unwrap();
        let buffers = SHAPE.buffers(&handle, &file, &pattern(1)).unwrap();
        let error = pass(&file, Direction::Read, buffers, 1 << 20, Duration::from_secs(3600)).unwrap_err();
        assert!(error.to_string().contains("the file ends"), "{error}");
    }
}
