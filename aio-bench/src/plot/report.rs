//! The report of a plot: a line for people, an object for programs.

use std::fmt;
use std::path::Path;

use aio_core::Printable;
use serde::Serialize;

use super::input::{Input, LeftOut};
use super::series::{Plot, Series};
use crate::cli::Over;

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    schema: &'static str,
    out: String,
    /// The horizontal axis; `null` for bars, if nothing varies.
    x: Option<&'static str>,
    results: usize,
    left_out: Vec<LeftOut>,
    series: Vec<Series>,
}

impl Report {
    pub(crate) fn new(out: &Path, input: Input, plot: Plot) -> Self {
        Self {
            schema: "aio-bench/plot/1",
            out: out.display().to_string(),
            x: plot.over.map(|over| match over {
                Over::QueueDepth => "queue_depth",
                Over::BlockSize => "block_size",
            }),
            results: input.results.len(),
            left_out: input.left_out,
            series: plot.series,
        }
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
            Printable(&self.out),
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
