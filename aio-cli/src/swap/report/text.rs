//! The result for people to read.

use std::fmt;

use aio_core::shown;
use comfy_table::Table;

use super::{INTERRUPTED, Rates, Report, Row};
use crate::cli::Layout;
use crate::estimate::Estimate;
use crate::output;
use crate::size;

/// Fewest passes to call a backend slower: with five of each, the spreads of two of three equal backends come apart
/// about twice in a hundred times; with three, in more than a fifth.
const PASSES_TO_TELL: usize = 5;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, tensors, bytes, queue_depth, block_size, threads, .. } = self;
        let (bytes, dir) = (size::show(*bytes), shown(&self.dir));
        let how = if self.layout == Layout::Extents.name() { "extents of one file" } else { "a file each" };
        let noun = if *tensors == 1 { "tensor" } else { "tensors" };
        writeln!(f, "{source}: {tensors} {noun}, {bytes}, {how} in {dir}")?;
        writeln!(f, "queue depth {queue_depth}, blocks of {}, threads {threads}", size::exact(*block_size as u64))?;
        if self.partial {
            writeln!(f, "{}", output::sentence(output::PARTIAL))?;
        }
        if self.groups > 1 {
            writeln!(f, "goes through memory in {} groups, one after the other", self.groups)?;
        }
        if self.passes > 1 {
            writeln!(f, "GB/s: median [lowest..highest] of the passes")?;
        }
        write!(f, "{}", self.table())?;
        for said in [self.difference("swap-out", |row| row.swap_out), self.difference("swap-in", |row| row.swap_in)] {
            said.map_or(Ok(()), |said| write!(f, "\n{said}"))?;
        }
        for row in self.backends.iter().filter(|row| !row.available) {
            write!(f, "\n{} is not available: {}", row.backend, row.reason.as_deref().unwrap_or("unknown"))?;
        }
        let buffered = self.backends.iter().filter(|row| row.mostly_buffered());
        let buffered: Vec<_> = buffered.map(|row| row.backend.as_str()).collect();
        if !buffered.is_empty() {
            write!(
                f,
                "\nMost bytes went through the page cache ({}): tensors are smaller than a page, or direct I/O is off \
                 or not to be had in {}.\nThese are not the rates of a device.",
                buffered.join(", "),
                shown(&self.dir),
            )?;
        }
        Ok(())
    }
}

impl Report {
    /// Compares the backends in one direction, if there are several.
    fn difference(&self, direction: &str, rates: fn(&Row) -> Option<Rates>) -> Option<String> {
        let rows: Vec<_> = self.backends.iter().filter_map(|row| Some((row, rates(row)?.gb_per_s))).collect();
        let &(best, rate) = rows.iter().max_by(|(_, a), (_, b)| a.low.total_cmp(&b.low))?;
        let slower: Vec<_> = rows.iter().filter(|(_, other)| other.high < rate.low).map(|(row, _)| *row).collect();
        let names = slower.iter().map(|row| row.backend.as_str()).collect::<Vec<_>>().join(" and ");
        let enough = slower.iter().copied().chain([best]).all(|row| row.whole_passes(self.tensors) >= PASSES_TO_TELL);
        let best = &best.backend;
        Some(match (rows.len(), slower.len()) {
            (..2, _) => return None,
            (_, 0) => format!("{direction}: the spreads overlap: the backends do not differ here"),
            _ if enough => format!("{direction}: {best} is faster than {names}"),
            _ => format!("{direction}: {best} came out ahead of {names}; it takes --passes {PASSES_TO_TELL} to tell"),
        })
    }

    fn table(&self) -> Table {
        let gb_per_s = |rates: Option<Rates>| match rates.map(|rates| rates.gb_per_s) {
            None => "-".to_owned(),
            Some(Estimate { median, low, high }) if low == high => format!("{median:.2}"),
            Some(spread) => spread.to_string(),
        };
        let cpu = |rates: Option<Rates>| {
            rates.map_or_else(|| "-".to_owned(), |rates| format!("{:.3}", rates.cpu_seconds_per_gb.median))
        };
        let passes = self.passes.max(self.planned);
        let cells = |row: &Row| {
            let whole = row.whole_passes(self.tensors);
            let verified = match row.reason.as_deref() {
                _ if !row.available => "not available".to_owned(),
                None => format!("{whole} of {passes}"),
                Some(INTERRUPTED) => format!("{whole} of {passes}, {INTERRUPTED}"),
                Some(_) => format!("{whole} of {passes}, failed"),
            };
            [
                row.backend.clone(),
                gb_per_s(row.swap_out),
                gb_per_s(row.swap_in),
                cpu(row.swap_out),
                cpu(row.swap_in),
                verified,
            ]
        };
        let header = ["backend", "swap-out GB/s", "swap-in GB/s", "CPU s/GB out", "CPU s/GB in", "passes verified"];
        output::figures(header, self.backends.iter().map(cells))
    }
}
