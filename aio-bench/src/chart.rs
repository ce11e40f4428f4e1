//! Pictures of measurements: bars to compare contenders, lines to follow a parameter.
//!
//! What is drawn here knows nothing of commands. Each picture is one SVG with a transparent background, in colours that
//! are told apart on a white page and on a dark one, also by people who see fewer of them.

mod axis;
mod bars;
mod header;
mod lines;
mod marker;
mod png;
mod sheet;
mod style;

pub(crate) use axis::size;
pub(crate) use bars::bars;
pub(crate) use lines::lines;
pub(crate) use png::png;
#[cfg(test)]
pub(crate) use style::colour;

use aio_cli::estimate::Estimate;

/// Small multiples: one panel per workload, in each a horizontal bar per contender.
#[derive(Debug, Clone)]
pub(crate) struct BarChart {
    pub(crate) title: String,
    pub(crate) subtitle: String,
    pub(crate) panels: Vec<Panel>,
}

/// One workload.
#[derive(Debug, Clone)]
pub(crate) struct Panel {
    pub(crate) title: String,
    /// Of every figure in the panel, as it is printed: `GB/s`.
    pub(crate) unit: String,
    pub(crate) rows: Vec<Row>,
    /// What counts as 100 %: a dashed line across the bars, and a share beside each figure.
    pub(crate) reference: Option<f64>,
}

/// One contender in one workload.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// Which colour of the palette: the same number is the same contender in every panel.
    pub(crate) colour: usize,
    /// What was measured, or why there is nothing, in words.
    pub(crate) figure: Result<Estimate, String>,
}

/// Panels side by side, in each one line or more per series, over one logarithmic axis.
#[derive(Debug, Clone)]
pub(crate) struct LineChart {
    pub(crate) title: String,
    pub(crate) subtitle: String,
    pub(crate) x: Axis,
    /// The names of the series; a series has the same colour and marker in every panel.
    pub(crate) series: Vec<String>,
    pub(crate) panels: Vec<LinePanel>,
}

/// What the lines are drawn over.
#[derive(Debug, Clone)]
pub(crate) struct Axis {
    pub(crate) name: String,
    /// Whether its values are bytes, which are written as `4 KiB`.
    pub(crate) bytes: bool,
}

/// One quantity of every series.
#[derive(Debug, Clone)]
pub(crate) struct LinePanel {
    pub(crate) title: String,
    pub(crate) unit: String,
    /// A logarithmic height, instead of one from 0.
    pub(crate) log: bool,
    pub(crate) lines: Vec<Line>,
}

/// One line.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// The number of its series.
    pub(crate) series: usize,
    /// Dashed with hollow markers, for a second quantity of the same series.
    pub(crate) dashed: bool,
    /// From left to right.
    pub(crate) points: Vec<(f64, Estimate)>,
}

impl Line {
    /// Its points that have a place on a logarithmic axis.
    fn drawable(&self) -> impl Iterator<Item = (f64, Estimate)> {
        self.points.iter().copied().filter(|(x, figure)| x.is_finite() && *x > 0.0 && figure.is_finite())
    }
}
