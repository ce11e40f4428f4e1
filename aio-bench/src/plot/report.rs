//! What was drawn: a line for people, an object for programs.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::Format;
use super::input::{self, Input};
use super::series::{Plot, Point, Series};
use crate::cli::Over;
use aio_cli::estimate::Estimate;

/// The result of a plot.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    schema: &'static str,
    out: String,
    format: &'static str,
    /// What the lines are drawn over. `null` if nothing varies: then these are bars.
    x: Option<&'static str>,
    /// How many results were drawn.
    results: usize,
    left_out: Vec<LeftOut>,
    series: Vec<Line>,
}

/// A result that was not drawn.
#[derive(Debug, Serialize)]
struct LeftOut {
    file: String,
    result: usize,
    reason: String,
}

#[derive(Debug, Serialize)]
struct Line {
    name: String,
    points: Vec<Drawn>,
}

#[derive(Debug, Serialize)]
struct Drawn {
    x: Option<u64>,
    runs: usize,
    gb_per_s: Estimate,
    latency_us: Latency,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50: Estimate,
    p99: Estimate,
}

impl Report {
    pub(crate) fn new(out: &Path, format: Format, input: &Input, plot: &Plot) -> Self {
        let left_out = input.left_out.iter().map(|left_out| LeftOut {
            file: input::name(&left_out.file),
            result: left_out.number,
            reason: left_out.reason.clone(),
        });
        Self {
            schema: "aio-bench/plot/1",
            out: out.display().to_string(),
            format: format.name(),
            x: plot.over.map(|over| match over {
                Over::QueueDepth => "queue_depth",
                Over::BlockSize => "block_size",
            }),
            results: input.results.len(),
            left_out: left_out.collect(),
            series: plot.series.iter().map(Line::from).collect(),
        }
    }
}

impl From<&Series> for Line {
    fn from(series: &Series) -> Self {
        Self { name: series.name.clone(), points: series.points.iter().map(Drawn::from).collect() }
    }
}

impl From<&Point> for Drawn {
    fn from(point: &Point) -> Self {
        let latency_us = Latency { p50: point.p50, p99: point.p99 };
        Self { x: point.x, runs: point.runs, gb_per_s: point.gb_per_s, latency_us }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted =
            |number: usize, one: &str, many: &str| format!("{number} {}", if number == 1 { one } else { many });
        let points = self.series.iter().map(|series| series.points.len()).sum();
        write!(
            f,
            "{}: {} of {} from {}",
            self.out,
            counted(points, "point", "points"),
            counted(self.series.len(), "series", "series"),
            counted(self.results, "result", "results")
        )?;
        match self.x {
            Some(x) => write!(f, ", by {}", x.replace('_', " ")),
            None => f.write_str(", as bars: neither the queue depth nor the block size varies"),
        }
    }
}
