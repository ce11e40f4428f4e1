//! The result in lines for people.

use std::fmt;

use aio_core::shown;

use super::{BareReport, KindReport, Latency, NewFile, Report, VerifyReport};
use aio_cli::host::resident::Memory;
use aio_cli::output;
use aio_cli::paths::Paths;
use aio_cli::size;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, op, file, bytes, ios, seconds, errors, latency_us, .. } = self;
        let direct = if self.direct { "opened for direct I/O" } else { "through the page cache" };
        let block = size::exact(self.block_size as u64);
        writeln!(f, "{op} of {} on {backend}, {direct}", shown(file))?;
        write!(
            f,
            "blocks of {block}, queue depth {}, threads {}, blocks per op {}",
            self.queue_depth, self.threads, self.extents
        )?;
        match self.memory_offset {
            0 => writeln!(f)?,
            offset => writeln!(f, ", memory {offset} bytes past a page boundary")?,
        }
        if self.partial {
            writeln!(f, "{}", output::sentence(output::PARTIAL))?;
        }
        if self.ramp_seconds > 0.0 {
            writeln!(f, "  ramp     {} s before, which no figure has", self.ramp_seconds)?;
        }
        writeln!(f, "  rate     {:.3} GB/s, {:.0} I/Os per second", self.gb_per_s, self.iops)?;
        writeln!(f, "  moved    {bytes} bytes in {ios} I/Os and {seconds:.3} s")?;
        writeln!(f, "  CPU      {:.2} us per I/O", self.cpu_us_per_io)?;
        if let Some(bare) = &self.bare {
            writeln!(f, "  bare     {bare}")?;
        }
        writeln!(f, "  latency  {latency_us}")?;
        if self.ops.len() > 1 {
            self.ops.iter().try_for_each(|kind| write!(f, "{kind}"))?;
        }
        let Paths { bytes_direct, bytes_buffered, bytes_staged, bytes_fixed } = self.paths;
        writeln!(f, "  paths    {bytes_direct} bytes direct, {bytes_buffered} through the page cache")?;
        writeln!(f, "           {bytes_staged} staged, {bytes_fixed} in registered memory")?;
        if let Some(Memory { buffer_bytes, beyond_bytes, .. }) = self.memory {
            writeln!(f, "  memory   {buffer_bytes} bytes of buffers, {beyond_bytes} beyond")?;
        }
        if let NewFile { allocate_seconds: Some(allocate), open_to_close_seconds: Some(whole) } = self.new_file {
            writeln!(f, "  new file {allocate:.3} s to allocate, {whole:.3} s from open to close")?;
        }
        if let Some(VerifyReport { bytes, read_back_bytes }) = &self.verify {
            write!(f, "  verify   {bytes} bytes are what they should be")?;
            match read_back_bytes {
                Some(read_back) => writeln!(f, ", {read_back} of them read back in the end")?,
                None => writeln!(f)?,
            }
        }
        write!(f, "  errors   {errors}")
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p99, p999, max } = self;
        write!(f, "{p50:.1} us median, {p99:.1} us 99 %, {p999:.1} us 99.9 %, {max:.1} us max, per op")
    }
}

impl fmt::Display for KindReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { op, weight, ios, bytes, gb_per_s, iops, latency_us } = self;
        writeln!(f, "  {op}, weight {weight}")?;
        writeln!(f, "           {gb_per_s:.3} GB/s, {iops:.0} I/Os per second, {bytes} bytes in {ios} I/Os")?;
        writeln!(f, "           {latency_us}")
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
