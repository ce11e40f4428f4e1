//! The result for people to read.

use std::fmt;

use comfy_table::{CellAlignment, Table};

use super::{Rate, Report, Row};
use crate::cli::Layout;
use crate::output;
use crate::paths::Paths;
use crate::size;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, tensors, bytes, queue_depth, block_size, threads, .. } = self;
        let (bytes, dir) = (size::show_decimal(*bytes), self.dir.display());
        let how = if self.layout == Layout::Extents.name() { "extents of one file" } else { "a file each" };
        writeln!(f, "{source}: {tensors} tensors, {bytes}, {how} in {dir}")?;
        writeln!(f, "queue depth {queue_depth}, blocks of {}, threads {threads}", size::show(*block_size as u64))?;
        if self.partial {
            writeln!(f, "PARTIAL: a signal ended it early")?;
        }
        if self.groups > 1 {
            writeln!(f, "goes through memory in {} groups, one after the other", self.groups)?;
        }
        write!(f, "{}", self.table())?;
        for row in self.backends.iter().filter(|row| !row.available) {
            write!(f, "\n{} is not available: {}", row.backend, row.reason.as_deref().unwrap_or("unknown"))?;
        }
        let buffered = self.backends.iter().filter(|row| row.paths.as_ref().is_some_and(Paths::mostly_buffered));
        let buffered: Vec<_> = buffered.map(|row| row.backend.as_str()).collect();
        if !buffered.is_empty() {
            write!(
                f,
                "\nMost bytes went through the page cache ({}): tensors are smaller than a page, or direct I/O is off \
                 or not to be had in {}.\nThese are not the rates of a device.",
                buffered.join(", "),
                self.dir.display(),
            )?;
        }
        Ok(())
    }
}

impl Report {
    /// The last one only: nothing comes after a signal.
    fn interrupted(&self, row: &Row) -> bool {
        self.partial && self.backends.last().is_some_and(|last| std::ptr::eq(last, row))
    }

    fn table(&self) -> Table {
        let figure = |rate: &Option<Rate>, figure: fn(&Rate) -> f64| match rate {
            Some(rate) => format!("{:.3}", figure(rate)),
            None => "-".to_owned(),
        };
        let cells = |row: &Row| {
            let verified = match &row.reason {
                None => format!("{} of {}", row.verified, self.tensors),
                Some(_) if self.interrupted(row) => format!("{} of {}, interrupted", row.verified, self.tensors),
                Some(_) if row.available => "failed".to_owned(),
                Some(_) => "not available".to_owned(),
            };
            [
                row.backend.clone(),
                figure(&row.swap_out, |rate| rate.gb_per_s),
                figure(&row.swap_in, |rate| rate.gb_per_s),
                figure(&row.swap_out, |rate| rate.cpu_seconds_per_gb),
                figure(&row.swap_in, |rate| rate.cpu_seconds_per_gb),
                verified,
            ]
        };
        let header = ["backend", "swap-out GB/s", "swap-in GB/s", "CPU s/GB out", "CPU s/GB in", "verified"];
        let mut table = output::table(header, self.backends.iter().map(cells));
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}
