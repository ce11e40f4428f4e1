//! The report on a terminal: a table per workload.

use std::fmt;

use super::report::{Report, ResultReport, WorkloadReport};
use aio_cli::output::{self, sentence};
use aio_cli::size;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", sentence(&self.machine.to_string()))?;
        writeln!(f, "{}", sentence(&self.method()))?;
        for workload in &self.workloads {
            write!(f, "\n{workload}")?;
        }
        if self.partial {
            writeln!(f, "{}", sentence(output::PARTIAL))?;
        }
        let notes = self.footnotes();
        write!(f, "{}", notes.iter().map(|note| sentence(note)).collect::<Vec<_>>().join("\n"))
    }
}

impl fmt::Display for WorkloadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", sentence(&format!("{}: {}", self.name, self.description())))?;
        let header = ["", "GB/s", "of the best fio", "CPU s per GB"];
        writeln!(f, "{}", output::figures(header, self.results.iter().map(ResultReport::cells)))
    }
}

impl WorkloadReport {
    /// Its name and amount of data.
    pub(crate) fn title(&self) -> String {
        match self.block_size.map(|block| block as u64) {
            Some(block) => format!("{}, {} x {}", self.name, self.bytes / block, size::exact(block)),
            None => format!("{}, {}", self.name, size::show(self.bytes)),
        }
    }

    /// What is done, and with how much data.
    pub(crate) fn description(&self) -> String {
        let files = if self.files == 1 { String::new() } else { format!(" in {} files", self.files) };
        let block = self.block_size.map(|block| format!(", blocks of {}", size::exact(block as u64)));
        format!("{}; {}{files}{}", self.what, size::show(self.bytes), block.unwrap_or_default())
    }
}

impl Report {
    /// How it was measured.
    pub(crate) fn method(&self) -> String {
        let Self { queue_depth, rounds, runtime_seconds, .. } = self;
        let of = if *rounds == 1 { "one round".to_owned() } else { format!("medians of {rounds} rounds") };
        let assumed = if self.page_cache_checked {
            ""
        } else {
            "; that cold files are cold is assumed: the kernel does not tell here (cachestat(2))"
        };
        format!(
            "queue depth {queue_depth}, {of} of at least {runtime_seconds} s, lowest to highest in brackets{assumed}"
        )
    }

    /// Why contenders did not take part, and notes for the reader; contenders share what holds for several.
    pub(crate) fn footnotes(&self) -> Vec<String> {
        let mut notes: Vec<(&str, Vec<&str>)> = Vec::new();
        for contender in &self.contenders {
            let Some(words) = contender.reason.as_deref().or(contender.note) else { continue };
            match notes.iter_mut().find(|(note, _)| *note == words) {
                Some((_, names)) => names.push(&contender.name),
                None => notes.push((words, vec![&contender.name])),
            }
        }
        notes.iter().map(|(words, names)| format!("{}: {words}", names.join("; "))).collect()
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
