//! The report on a terminal: a table per workload.

use std::fmt;

use super::report::{ContenderReport, Report, ResultReport, WorkloadReport};
use aio_cli::output;
use aio_cli::size;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { machine, queue_depth, rounds, .. } = self;
        writeln!(f, "{machine}")?;
        let of = if *rounds == 1 { "one round".to_owned() } else { format!("medians of {rounds} rounds") };
        writeln!(f, "queue depth {queue_depth}, {of}, lowest to highest in brackets")?;
        for workload in &self.workloads {
            write!(f, "\n{workload}")?;
        }
        if self.partial {
            writeln!(f, "Interrupted: this is what there was until then.")?;
        }
        let notes = self.contenders.iter().filter_map(ContenderReport::footnote);
        write!(f, "{}", notes.collect::<Vec<_>>().join("\n"))
    }
}

impl fmt::Display for WorkloadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.name, self.description())?;
        let header = ["", "GB/s", "of the best fio", "CPU s per GB"];
        writeln!(f, "{}", output::figures(header, self.results.iter().map(ResultReport::cells)))
    }
}

impl WorkloadReport {
    /// Its name and amount of data.
    pub(crate) fn title(&self) -> String {
        let block = size::show(self.block_size as u64);
        format!("{}, {} x {block}", self.name, self.bytes / self.block_size as u64)
    }

    /// What is done, and with how much data.
    pub(crate) fn description(&self) -> String {
        let files = if self.files == 1 { String::new() } else { format!(" in {} files", self.files) };
        let (bytes, block) = (size::show(self.bytes), size::show(self.block_size as u64));
        format!("{}; {bytes}{files}, blocks of {block}", self.what)
    }
}

impl ContenderReport {
    /// Why it did not take part, or a note for the reader.
    pub(crate) fn footnote(&self) -> Option<String> {
        let words = self.reason.as_deref().or(self.note)?;
        Some(format!("{}: {words}", self.name))
    }
}

impl ResultReport {
    /// Name, rate, share, CPU time.
    pub(crate) fn cells(&self) -> [String; 4] {
        let rate = match self.rate() {
            Ok(rate) => rate.to_string(),
            Err(reason) => reason,
        };
        let share = self.of_best_fio.map_or_else(String::new, |share| format!("{:.0} %", share * 100.0));
        let cpu = self.cpu_seconds_per_gb.map_or_else(String::new, |cpu| format!("{:.3}", cpu.median));
        [self.contender.clone(), rate, share, cpu]
    }
}
