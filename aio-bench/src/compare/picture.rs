//! The report as a picture: a panel per workload, a bar per contender.

use super::report::Report;
use crate::plot::{Panel, Row, bars};
use aio_cli::failure::Failure;
use aio_cli::output;

/// The picture as SVG.
pub(crate) fn svg(report: &Report) -> Result<String, Failure> {
    let panels = report.workloads.iter().map(|workload| Panel {
        title: workload.title(),
        unit: "GB/s",
        rows: workload
            .results
            .iter()
            .enumerate()
            .map(|(colour, result)| Row { name: result.contender.clone(), colour, figure: result.rate() })
            .collect(),
        reference: workload.best_fio_gb_per_s,
    });
    let partial = if report.partial { format!(". {}", output::PARTIAL) } else { String::new() };
    let subtitle =
        format!("GB/s, median of {} rounds, lowest to highest; the line is the best fio{partial}", report.rounds);
    bars("Tensor I/O compared", &subtitle, &panels.collect::<Vec<_>>())
}
