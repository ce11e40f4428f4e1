//! What was measured: lines for people, an object for programs.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use aio::AioHandle;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::drive::Drive;
use super::job::{Compared, Measured};
use super::target::New;
use crate::cli::RunArgs;
use crate::host::resident::Memory;
use crate::paths::Paths;
use crate::size;

/// The result of a job.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    backend: &'static str,
    op: &'static str,
    block_size: usize,
    queue_depth: usize,
    threads: usize,
    /// Whether the file was open for direct I/O.
    direct: bool,
    memory_offset: u16,
    bytes: u64,
    ios: u64,
    seconds: f64,
    gb_per_s: f64,
    iops: f64,
    cpu_us_per_io: f64,
    latency_us: Latency,
    errors: u64,
    paths: Paths,
    memory: Option<Memory>,
    #[serde(flatten)]
    new_file: NewFile,
    /// Plain system calls beside it, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    bare: Option<BareReport>,
    #[serde(skip)]
    file: PathBuf,
    #[serde(skip)]
    extents: u32,
}

/// Per op, in microseconds.
#[derive(Debug, Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

/// Times of a file that the job made; without one there are none.
#[derive(Debug, Default, Serialize)]
pub(crate) struct NewFile {
    /// Giving it disk space, which is not in the rates.
    allocate_seconds: Option<f64>,
    /// Making it, giving it disk space, the timed part, and closing it.
    open_to_close_seconds: Option<f64>,
}

impl NewFile {
    /// From the parts.
    pub(crate) fn new(new: &New, timed: Duration, close: Duration) -> Self {
        let open_to_close = new.create + new.allocate + timed + close;
        Self {
            allocate_seconds: Some(new.allocate.as_secs_f64()),
            open_to_close_seconds: Some(open_to_close.as_secs_f64()),
        }
    }
}

/// `pread(2)` or `pwrite(2)`, next to the library's call.
#[derive(Debug, Serialize)]
struct BareReport {
    /// Whether its descriptor bypassed the page cache.
    direct: bool,
    ios: u64,
    gb_per_s: f64,
    cpu_us_per_io: f64,
    /// The library's CPU time per block, in these. `null` if they took none that could be measured.
    ratio: Option<f64>,
}

/// What a drive comes to.
struct Figures {
    bytes: u64,
    seconds: f64,
    gb_per_s: f64,
    iops: f64,
    cpu_us_per_io: f64,
}

impl Figures {
    fn of(drive: &Drive, block_size: usize) -> Self {
        let bytes = drive.blocks * block_size as u64;
        let (seconds, cpu) = (drive.elapsed.wall.as_secs_f64(), drive.elapsed.cpu.as_secs_f64());
        let per_second = |amount: f64| amount / seconds.max(1e-9);
        Self {
            bytes,
            seconds,
            gb_per_s: per_second(bytes as f64 / 1e9),
            iops: per_second(drive.blocks as f64),
            cpu_us_per_io: cpu * 1e6 / (drive.blocks.max(1) as f64),
        }
    }
}

impl BareReport {
    fn new(bare: &Compared, block_size: usize, ours: f64) -> Self {
        let Figures { gb_per_s, cpu_us_per_io, .. } = Figures::of(&bare.drive, block_size);
        let ratio = (cpu_us_per_io > 0.0).then_some(ours / cpu_us_per_io);
        Self { direct: bare.direct, ios: bare.drive.blocks, gb_per_s, cpu_us_per_io, ratio }
    }
}

impl Report {
    /// From what a job was asked for and what it measured.
    pub(crate) fn new(
        args: &RunArgs,
        handle: &AioHandle,
        direct: bool,
        measured: &Measured,
        paths: Paths,
        memory: Option<Memory>,
        new_file: Option<NewFile>,
    ) -> Self {
        let drive = &measured.drive;
        let Figures { bytes, seconds, gb_per_s, iops, cpu_us_per_io } = Figures::of(drive, args.block_size);
        Self {
            backend: handle.backend_name(),
            op: args.op.name(),
            block_size: args.block_size,
            queue_depth: args.queue_depth,
            threads: handle.config().intra_op_parallelism,
            direct,
            memory_offset: args.memory_offset,
            bytes,
            ios: drive.blocks,
            seconds,
            gb_per_s,
            iops,
            cpu_us_per_io,
            latency_us: Latency::of(&drive.latency),
            errors: drive.errors,
            paths,
            memory,
            new_file: new_file.unwrap_or_default(),
            bare: measured.bare.as_ref().map(|bare| BareReport::new(bare, args.block_size, cpu_us_per_io)),
            file: args.file.clone(),
            extents: args.extents,
        }
    }
}

impl Latency {
    fn of(nanoseconds: &Histogram<u64>) -> Self {
        let quantile = |quantile| nanoseconds.value_at_quantile(quantile) as f64 / 1e3;
        Self { p50: quantile(0.5), p99: quantile(0.99), p999: quantile(0.999), max: nanoseconds.max() as f64 / 1e3 }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, op, file, bytes, ios, seconds, errors, latency_us, .. } = self;
        let direct = if self.direct { "direct" } else { "through the page cache" };
        let block = size::show(self.block_size as u64);
        writeln!(f, "{op} of {} on {backend}, {direct}", file.display())?;
        write!(
            f,
            "blocks of {block}, queue depth {}, threads {}, blocks per op {}",
            self.queue_depth, self.threads, self.extents
        )?;
        match self.memory_offset {
            0 => writeln!(f)?,
            offset => writeln!(f, ", memory {offset} bytes past a page boundary")?,
        }
        writeln!(f, "  rate     {:.3} GB/s, {:.0} I/Os per second", self.gb_per_s, self.iops)?;
        writeln!(f, "  moved    {bytes} bytes in {ios} I/Os and {seconds:.3} s")?;
        writeln!(f, "  CPU      {:.2} us per I/O", self.cpu_us_per_io)?;
        if let Some(bare) = &self.bare {
            writeln!(f, "  bare     {bare}")?;
        }
        let Latency { p50, p99, p999, max } = latency_us;
        writeln!(f, "  latency  {p50:.1} us median, {p99:.1} us 99 %, {p999:.1} us 99.9 %, {max:.1} us max, per op")?;
        let Paths { bytes_direct, bytes_buffered, bytes_staged, bytes_fixed } = self.paths;
        writeln!(f, "  paths    {bytes_direct} bytes direct, {bytes_buffered} through the page cache")?;
        writeln!(f, "           {bytes_staged} staged, {bytes_fixed} in registered memory")?;
        if let Some(Memory { buffer_bytes, beyond_bytes, .. }) = self.memory {
            writeln!(f, "  memory   {buffer_bytes} bytes of buffers, {beyond_bytes} beyond")?;
        }
        if let NewFile { allocate_seconds: Some(allocate), open_to_close_seconds: Some(whole) } = self.new_file {
            writeln!(f, "  new file {allocate:.3} s to allocate, {whole:.3} s from open to close")?;
        }
        write!(f, "  errors   {errors}")
    }
}

impl fmt::Display for BareReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.direct { "direct" } else { "through the page cache" };
        let Self { cpu_us_per_io, gb_per_s, ios, .. } = self;
        write!(f, "{cpu_us_per_io:.2} us of CPU per I/O, {gb_per_s:.3} GB/s in {ios} I/Os, {how}")?;
        match self.ratio {
            Some(ratio) => write!(f, "; the library takes {ratio:.2} times its CPU time"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::cpu::Elapsed;

    fn drive(blocks: u64, wall: u64, cpu: u64) -> Drive {
        let elapsed = Elapsed { wall: Duration::from_micros(wall), cpu: Duration::from_micros(cpu) };
        Drive { blocks, elapsed, latency: Histogram::new(3).unwrap(), errors: 0, first_error: None }
    }

    #[test]
    fn the_ratio_is_of_cpu_time_per_block() {
        let ours = Figures::of(&drive(1000, 4000, 3000), 4096);
        assert_eq!((ours.bytes, ours.cpu_us_per_io, ours.iops), (4_096_000, 3.0, 250_000.0));
        let bare = |cpu| Compared { drive: drive(500, 1000, cpu), direct: true };
        let report = BareReport::new(&bare(1000), 4096, ours.cpu_us_per_io);
        assert_eq!((report.ios, report.cpu_us_per_io, report.gb_per_s), (500, 2.0, 2.048));
        assert_eq!(report.ratio, Some(1.5));
        assert_eq!(BareReport::new(&bare(0), 4096, ours.cpu_us_per_io).ratio, None);
    }
}
