//! The result as a table and sentences.

use std::fmt;

use aio_core::shown;

use super::{Best, Contender, FolderReport, Report, TogetherRates};
use crate::output;
use crate::size;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.partial {
            writeln!(f, "{}\n", output::sentence(output::PARTIAL))?;
        }
        for folder in &self.folders {
            folder.show(self, f)?;
        }
        if let Some(together) = &self.together {
            writeln!(f, "all folders at the same time, each with its recommended configuration:")?;
            writeln!(f, "  read  {}", Rates(&together.read))?;
            writeln!(f, "  write {}\n", Rates(&together.write))?;
        }
        for unavailable in &self.unavailable_backends {
            writeln!(f, "without {}: {}", unavailable.backend, unavailable.reason)?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        if let Some(path) = &self.written {
            writeln!(f, "the recommended configuration is in {}", path)?;
        }
        write!(f, "{:.1} s of {:.1} s", self.elapsed_seconds, self.budget_seconds)
    }
}

impl FolderReport {
    fn show(&self, report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} ({}, {}): a file of {}, ops of {}, {} in flight",
            shown(&self.dir),
            self.file_system.as_deref().unwrap_or("an unknown file system"),
            if self.direct_io { "direct I/O" } else { "no direct I/O: all through the page cache" },
            size::show(self.file_bytes),
            size::show(report.op_bytes as u64),
            report.ops_in_flight,
        )?;
        writeln!(
            f,
            "candidates: {} measured, {} refused, {} not reached in this time; below the last {}, rounds: {}",
            self.measured,
            self.refused.len(),
            self.left_out,
            self.contenders.len(),
            self.rounds,
        )?;
        let mut ranked: Vec<&Contender> = self.contenders.iter().collect();
        ranked.sort_by(|a, b| b.ratio.median.total_cmp(&a.ratio.median));
        let cells = |contender: &Contender| {
            [
                contender.config.to_string(),
                contender.read.gb_per_s.spread.to_string(),
                contender.write.gb_per_s.spread.to_string(),
                format!("{:.2} / {:.2}", contender.read.cpu_seconds_per_gb, contender.write.cpu_seconds_per_gb),
                contender.ratio.to_string(),
            ]
        };
        let header = ["candidate", "read GB/s", "write GB/s", "CPU s per GB", "to the defaults"];
        writeln!(f, "{}", output::figures(header, ranked.into_iter().map(cells)))?;
        if let Some(Best { defaults, overall, read, write }) = &self.best {
            for (what, best) in [("reads", read), ("writes", write), ("both", overall)] {
                let note = match (best.config == defaults.config, best.beats_defaults) {
                    (true, _) => "nothing is ahead of them",
                    (false, true) => "ahead of the defaults",
                    (false, false) => "no more than noise",
                };
                let line = format!("best for {what}:");
                writeln!(f, "{line:17} {} at {} ({note})", best.config, best.ratio)?;
            }
        }
        match &self.recommendation {
            Some(recommended) => writeln!(f, "recommended:      {}: {}", recommended.config, recommended.reason)?,
            None => writeln!(f, "nothing was measured")?,
        }
        for refused in &self.refused {
            writeln!(f, "refused: {}: {}", refused.config, refused.reason)?;
        }
        writeln!(f)
    }
}

struct Rates<'a>(&'a TogetherRates);

impl fmt::Display for Rates<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TogetherRates { alone, sum_of_alone, together, .. } = self.0;
        let alone: Vec<_> = alone.iter().map(|rate| format!("{rate:.2}")).collect();
        write!(f, "alone {}, in sum {sum_of_alone:.2}; together {} GB/s", alone.join(" + "), together.spread)
    }
}
