//! The report as a picture: a panel per workload, a bar per contender.

use super::report::Report;
use crate::chart::{self, BarChart, Panel, Row};
use aio_cli::failure::Failure;

/// SVG.
pub(crate) fn svg(report: &Report) -> Result<String, Failure> {
    let panels = report.workloads.iter().map(|workload| Panel {
        title: workload.title(),
        unit: "GB/s".to_owned(),
        rows: workload
            .results
            .iter()
            .enumerate()
            .map(|(colour, result)| Row { name: result.contender.clone(), colour, figure: result.rate() })
            .collect(),
        reference: workload.best_fio_gb_per_s,
    });
    let partial = if report.partial { ", interrupted" } else { "" };
    let chart = BarChart {
        title: "Tensor I/O compared".to_owned(),
        subtitle: format!(
            "GB/s, median of {} rounds, lowest to highest; the line is the best fio{partial}",
            report.rounds
        ),
        panels: panels.collect(),
    };
    chart::bars(&chart)
}
