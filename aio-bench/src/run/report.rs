//! What was measured: lines for people, an object for programs.

use std::fmt;
use std::path::PathBuf;

use aio::{AioFile, AioHandle};
use hdrhistogram::Histogram;
use serde::Serialize;

use super::drive::Drive;
use crate::cli::RunArgs;
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
    bytes: u64,
    ios: u64,
    seconds: f64,
    gb_per_s: f64,
    iops: f64,
    cpu_us_per_io: f64,
    latency_us: Latency,
    errors: u64,
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

impl Report {
    /// From what a job was asked for and what it measured.
    pub(crate) fn new(args: &RunArgs, handle: &AioHandle, file: &AioFile, drive: &Drive) -> Self {
        let bytes = drive.blocks * args.block_size as u64;
        let (seconds, cpu) = (drive.elapsed.wall.as_secs_f64(), drive.elapsed.cpu.as_secs_f64());
        let per_second = |amount: f64| amount / seconds.max(1e-9);
        Self {
            backend: handle.backend_name(),
            op: args.op.name(),
            block_size: args.block_size,
            queue_depth: args.queue_depth,
            threads: handle.config().intra_op_parallelism,
            direct: file.is_direct(),
            bytes,
            ios: drive.blocks,
            seconds,
            gb_per_s: per_second(bytes as f64 / 1e9),
            iops: per_second(drive.blocks as f64),
            cpu_us_per_io: cpu * 1e6 / (drive.blocks.max(1) as f64),
            latency_us: Latency::of(&drive.latency),
            errors: drive.errors,
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
        writeln!(
            f,
            "blocks of {block}, queue depth {}, threads {}, blocks per op {}",
            self.queue_depth, self.threads, self.extents
        )?;
        writeln!(f, "  rate     {:.3} GB/s, {:.0} I/Os per second", self.gb_per_s, self.iops)?;
        writeln!(f, "  moved    {bytes} bytes in {ios} I/Os and {seconds:.3} s")?;
        writeln!(f, "  CPU      {:.2} us per I/O", self.cpu_us_per_io)?;
        let Latency { p50, p99, p999, max } = latency_us;
        writeln!(f, "  latency  {p50:.1} us median, {p99:.1} us 99 %, {p999:.1} us 99.9 %, {max:.1} us max, per op")?;
        write!(f, "  errors   {errors}")
    }
}
