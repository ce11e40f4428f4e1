//! The result: an object for programs, and in [`text`] the lines for people.

mod text;

use std::path::PathBuf;
use std::time::Duration;

use aio::AioHandle;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::aside::ReadBack;
use super::drive::Drive;
use super::job::{Compared, Measured};
use super::target::New;
use super::watch;
use crate::cli::{RunArgs, WeightedOp};
use aio_cli::host::resident::Memory;
use aio_cli::paths::Paths;

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    schema: &'static str,
    /// Whether a signal ended it early.
    partial: bool,
    backend: &'static str,
    op: String,
    block_size: usize,
    queue_depth: usize,
    threads: usize,
    /// Blocks per op.
    extents: u32,
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
    ramp_seconds: f64,
    /// By kind of op.
    ops: Vec<KindReport>,
    verify: Option<VerifyReport>,
    paths: Paths,
    memory: Option<Memory>,
    #[serde(flatten)]
    new_file: NewFile,
    /// The plain system calls, with `--bare`.
    #[serde(skip_serializing_if = "Option::is_none")]
    bare: Option<BareReport>,
    #[serde(skip)]
    file: PathBuf,
}

/// Per op, in microseconds.
#[derive(Debug, Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

/// One kind of op.
#[derive(Debug, Serialize)]
struct KindReport {
    op: &'static str,
    weight: u32,
    ios: u64,
    bytes: u64,
    gb_per_s: f64,
    iops: f64,
    latency_us: Latency,
}

/// Bytes that were checked and found right.
#[derive(Debug, Serialize)]
struct VerifyReport {
    bytes: u64,
    /// Bytes of these that were read back after the timed part; `null` if none were.
    read_back_bytes: Option<u64>,
}

/// The results of a job's parts.
pub(crate) struct Outcome<'a> {
    pub(crate) direct: bool,
    pub(crate) measured: &'a Measured,
    /// By kind of op, if there are several.
    pub(crate) kinds: &'a [watch::Figures],
    pub(crate) paths: Paths,
    pub(crate) memory: Option<Memory>,
    pub(crate) new_file: Option<NewFile>,
    /// Bytes that were checked, with `--verify`.
    pub(crate) verified: Option<u64>,
    pub(crate) read_back: Option<&'a ReadBack>,
    pub(crate) partial: bool,
}

/// Times for a file that the job made; without one there are none.
#[derive(Debug, Default, Serialize)]
pub(crate) struct NewFile {
    /// Allocating disk space, which the rates leave out.
    allocate_seconds: Option<f64>,
    /// Making it, allocating disk space, the timed part, and closing it.
    open_to_close_seconds: Option<f64>,
}

impl NewFile {
    pub(crate) fn new(new: &New, timed: Duration, close: Duration) -> Self {
        let open_to_close = new.create + new.allocate + timed + close;
        Self {
            allocate_seconds: Some(new.allocate.as_secs_f64()),
            open_to_close_seconds: Some(open_to_close.as_secs_f64()),
        }
    }
}

/// Plain `pread(2)` or `pwrite(2)`, beside the library's call.
#[derive(Debug, Serialize)]
struct BareReport {
    /// Whether its descriptor bypassed the page cache.
    direct: bool,
    ios: u64,
    gb_per_s: f64,
    cpu_us_per_io: f64,
    /// The library's CPU time per block, divided by theirs; `null` if theirs was too short to measure.
    ratio: Option<f64>,
}

/// The figures of a drive.
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
    /// The report of a job with these arguments and this outcome.
    pub(crate) fn new(args: &RunArgs, handle: &AioHandle, outcome: Outcome<'_>) -> Self {
        let Outcome { direct, measured, kinds, paths, memory, new_file, verified, read_back, partial } = outcome;
        let drive = &measured.drive;
        let Figures { bytes, seconds, gb_per_s, iops, cpu_us_per_io } = Figures::of(drive, args.block_size);
        let totals = [(drive.blocks, &drive.latency)];
        let kind = |(op, (ios, latency)): (&WeightedOp, (u64, &Histogram<u64>))| {
            KindReport::new(*op, ios, latency, args.block_size, seconds)
        };
        let ops = match kinds {
            [] => args.ops.iter().zip(totals).map(kind).collect(),
            kinds => args.ops.iter().zip(kinds.iter().map(|of| (of.blocks, &of.latency))).map(kind).collect(),
        };
        let read_back_fault = read_back.and_then(|read_back| read_back.fault.as_ref());
        Self {
            schema: "aio-bench/run/1",
            partial,
            backend: handle.backend_name(),
            op: args.op_name(),
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
            errors: drive.errors + u64::from(read_back_fault.is_some()),
            ramp_seconds: args.ramp.map_or(0.0, |ramp| ramp.as_secs_f64()),
            ops,
            verify: verified
                .map(|bytes| VerifyReport { bytes, read_back_bytes: read_back.map(|read_back| read_back.bytes) }),
            paths,
            memory,
            new_file: new_file.unwrap_or_default(),
            bare: measured.bare.as_ref().map(|bare| BareReport::new(bare, args.block_size, cpu_us_per_io)),
            file: args.file.clone(),
            extents: args.extents,
        }
    }
}

impl KindReport {
    fn new(op: WeightedOp, ios: u64, latency: &Histogram<u64>, block_size: usize, seconds: f64) -> Self {
        let bytes = ios * block_size as u64;
        let per_second = |amount: f64| amount / seconds.max(1e-9);
        Self {
            op: op.op.name(),
            weight: op.weight,
            ios,
            bytes,
            gb_per_s: per_second(bytes as f64 / 1e9),
            iops: per_second(ios as f64),
            latency_us: Latency::of(latency),
        }
    }
}

impl Latency {
    fn of(nanoseconds: &Histogram<u64>) -> Self {
        let quantile = |quantile| nanoseconds.value_at_quantile(quantile) as f64 / 1e3;
        Self { p50: quantile(0.5), p99: quantile(0.99), p999: quantile(0.999), max: nanoseconds.max() as f64 / 1e3 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aio_cli::host::cpu::Elapsed;

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
