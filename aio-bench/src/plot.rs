//! Pictures of measurements: results of `run` as lines or bars, and the bars of `compare`.

mod bars;
mod input;
mod lines;
mod report;
mod series;
mod sheet;

use std::io::Write;

use aio_core::Printable;

use crate::cli::PlotArgs;
use aio_cli::estimate::Estimate;
use aio_cli::failure::Failure;
use aio_cli::interrupt;
use aio_cli::output;

pub(crate) use bars::{Panel, Row, bars};
use input::Input;
use report::Report;
use series::{Plot, Point};

/// Draws the results in the files.
pub(crate) fn plot(args: &PlotArgs) -> Result<(), Failure> {
    // Checked before reading: stdin can be read only once.
    if !args.out.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("svg")) {
        let out = Printable(args.out.display());
        return Err(Failure::Usage(format!("--out {out} cannot be: pictures are SVG, end the name in .svg")));
    }
    let input = Input::read(&args.files)?;
    for left_out in &input.left_out {
        // The report has the notes, too, if stderr fails.
        let _ = writeln!(std::io::stderr(), "note: {left_out}");
    }
    let plot = Plot::new(&input.results, args.x)?;
    let svg = match plot.over {
        Some(over) => lines::lines(&plot, over)?,
        None => bars("Throughput and latency", &plot.subtitle(), &panels(&plot))?,
    };
    interrupt::check()?;
    output::to_file(&args.out, svg.as_bytes())?;
    output::result(&Report::new(&args.out, input, plot), args.json)
}

/// Bars for results in which neither axis varies.
fn panels(plot: &Plot) -> Vec<Panel> {
    let panel = |title: &str, unit, figure: fn(&Point) -> Estimate| {
        let rows = plot.series.iter().enumerate().flat_map(|(colour, series)| {
            series.points.iter().map(move |point| Row {
                name: series.name.clone(),
                colour,
                figure: Ok(figure(point)),
            })
        });
        Panel { title: title.to_owned(), unit, rows: rows.collect(), reference: None }
    };
    vec![
        panel("throughput", "GB/s", |point| point.gb_per_s),
        panel("latency of an op, p50", "us", |point| point.latency_us.p50),
        panel("latency of an op, p99", "us", |point| point.latency_us.p99),
    ]
}
