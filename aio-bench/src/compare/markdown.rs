//! The report as a page.

use std::fmt::Write;

use super::report::Report;
use aio_cli::output;

/// The page; it shows the picture `report.svg` beside it.
pub(crate) fn markdown(report: &Report) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail.
    let _ = write(report, &mut page);
    page
}

fn write(report: &Report, page: &mut String) -> std::fmt::Result {
    let Report { machine, command, .. } = report;
    writeln!(page, "# Tensor I/O compared\n")?;
    if report.partial {
        writeln!(page, "**{}.**\n", output::PARTIAL)?;
    }
    writeln!(page, "{machine}\n")?;
    writeln!(page, "```\n{command}\n```\n")?;
    writeln!(page, "{}. GB is 10^9 bytes.\n", sentence(&report.method()))?;
    writeln!(page, "![Rates by workload](report.svg)\n")?;
    for workload in &report.workloads {
        writeln!(page, "## {}\n\n{}.\n", workload.name, sentence(&workload.description()))?;
        writeln!(page, "| | GB/s | of the best fio | CPU s per GB |\n|---|---|---|---|")?;
        for result in &workload.results {
            let [name, rate, share, cpu] = result.cells().map(|cell| escaped(&cell));
            let name = if result.is_ours() { format!("**{name}**") } else { name };
            writeln!(page, "| {name} | {rate} | {share} | {cpu} |")?;
        }
        writeln!(page)?;
    }
    writeln!(page, "## Notes\n")?;
    report.footnotes().iter().try_for_each(|note| writeln!(page, "- {}", escaped(note)))
}

/// The text with a capital letter first.
fn sentence(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().map_or_else(String::new, |first| first.to_uppercase().chain(rest).collect())
}

/// Escapes text for a cell.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}
