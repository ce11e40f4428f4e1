//! The chart of a plot: lines over what varies, or bars where nothing does.

use super::series::{Plot, Point, Series};
use crate::chart::{self, Axis, BarChart, Line, LineChart, LinePanel, Panel, Row};
use crate::cli::Over;
use aio_cli::estimate::Estimate;
use aio_cli::failure::Failure;

/// Draws it; the SVG.
pub(crate) fn draw(plot: &Plot) -> Result<String, Failure> {
    match plot.over {
        Some(over) => chart::lines(&lines(plot, over)),
        None => chart::bars(&bars(plot)),
    }
}

fn lines(plot: &Plot, over: Over) -> LineChart {
    let (name, bytes) = match over {
        Over::QueueDepth => ("queue depth", false),
        Over::BlockSize => ("block size", true),
    };
    let (rate, p50, p99) =
        (all(plot, |point| point.gb_per_s), all(plot, |point| point.p50), all(plot, |point| point.p99));
    let panels = vec![
        LinePanel {
            title: "throughput".to_owned(),
            unit: "GB/s".to_owned(),
            log: false,
            lines: rate.map(|(series, points)| Line { series, dashed: false, points }).collect(),
        },
        LinePanel {
            title: "latency of an op: p50 solid, p99 dashed".to_owned(),
            unit: "us".to_owned(),
            log: spans_a_decade(plot),
            lines: p99
                .map(|(series, points)| Line { series, dashed: true, points })
                .chain(p50.map(|(series, points)| Line { series, dashed: false, points }))
                .collect(),
        },
    ];
    LineChart {
        title: format!("Throughput and latency by {name}"),
        subtitle: subtitle(plot),
        x: Axis { name: name.to_owned(), bytes },
        series: plot.series.iter().map(|series| series.name.clone()).collect(),
        panels,
    }
}

/// One quantity of all series, by their numbers.
fn all(plot: &Plot, quantity: fn(&Point) -> Estimate) -> impl Iterator<Item = (usize, Vec<(f64, Estimate)>)> {
    plot.series.iter().enumerate().map(move |(number, series)| {
        let points = series.points.iter().filter_map(|point| Some((point.x? as f64, quantity(point))));
        (number, points.collect())
    })
}

/// Whether latencies differ so much that the small ones would lie on the axis.
fn spans_a_decade(plot: &Plot) -> bool {
    let latencies = || plot.series.iter().flat_map(|series| &series.points).flat_map(|point| [point.p50, point.p99]);
    let lowest = latencies().map(|latency| latency.low).fold(f64::INFINITY, f64::min);
    let highest = latencies().map(|latency| latency.high).fold(0.0, f64::max);
    lowest > 0.0 && highest > 10.0 * lowest
}

fn bars(plot: &Plot) -> BarChart {
    let panel = |title: &str, unit: &str, quantity: fn(&Point) -> Estimate| Panel {
        title: title.to_owned(),
        unit: unit.to_owned(),
        rows: plot.series.iter().enumerate().flat_map(|(colour, series)| rows(colour, series, quantity)).collect(),
        reference: None,
    };
    BarChart {
        title: "Throughput and latency".to_owned(),
        subtitle: subtitle(plot),
        panels: vec![
            panel("throughput", "GB/s", |point| point.gb_per_s),
            panel("latency of an op, p50", "us", |point| point.p50),
            panel("latency of an op, p99", "us", |point| point.p99),
        ],
    }
}

fn rows(colour: usize, series: &Series, quantity: fn(&Point) -> Estimate) -> impl Iterator<Item = Row> {
    series.points.iter().map(move |point| Row { name: series.name.clone(), colour, figure: Ok(quantity(point)) })
}

/// What all results have in common, and what the whiskers are.
fn subtitle(plot: &Plot) -> String {
    let whiskers = match plot.most_runs() {
        0 | 1 => String::new(),
        runs => format!(". Medians of up to {runs} runs, whiskers from the lowest to the highest."),
    };
    plot.common.join(", ") + &whiskers
}

#[cfg(test)]
mod tests {
    use super::super::input::tests::result;
    use super::*;
    use crate::chart::png;

    fn plot(results: &[(&str, u64, f64)]) -> Plot {
        let results: Vec<_> = results
            .iter()
            .map(|(backend, depth, rate)| serde_json::from_value(result(backend, *depth, *rate)).unwrap())
            .collect();
        Plot::new(&results, None).unwrap()
    }

    #[test]
    fn a_line_chart_names_all_series_and_has_both_panels() {
        let plot = plot(&[("uring", 1, 1.0), ("uring", 8, 2.0), ("li<b>aio", 1, 0.5), ("li<b>aio", 8, 1.5)]);
        let chart = lines(&plot, Over::QueueDepth);
        assert_eq!(chart.panels.iter().map(|panel| panel.lines.len()).collect::<Vec<_>>(), [2, 4]);
        assert_eq!(chart.panels[0].lines[1].points[1].1.median, 1.5);
        let svg = draw(&plot).unwrap();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let texts: Vec<_> = document.descendants().filter_map(|node| node.text()).map(str::trim).collect();
        for text in
            ["uring", "li<b>aio", "throughput (GB/s)", "queue depth", "8", "read, direct, 1 thread, blocks of 1 MiB"]
        {
            assert!(texts.contains(&text), "{text}: {texts:?}");
        }
    }

    #[test]
    fn latencies_are_logarithmic_where_they_spread() {
        // p50 is 100 us per depth, p99 is 300 us.
        assert!(!lines(&plot(&[("uring", 1, 1.0), ("uring", 8, 1.0)]), Over::QueueDepth).panels[1].log);
        assert!(lines(&plot(&[("uring", 1, 1.0), ("uring", 64, 1.0)]), Over::QueueDepth).panels[1].log);
    }

    #[test]
    fn where_nothing_varies_there_are_bars_with_the_spread_explained() {
        let plot = plot(&[("uring", 8, 1.0), ("uring", 8, 3.0), ("pthread", 8, 1.0)]);
        let chart = bars(&plot);
        assert_eq!(chart.panels[0].rows[0].figure, Ok(Estimate { median: 2.0, low: 1.0, high: 3.0 }));
        assert!(chart.subtitle.contains("queue depth 8") && chart.subtitle.ends_with("lowest to the highest."));
        assert!(draw(&plot).unwrap().contains("pthread"));
    }

    #[test]
    fn pixels_have_the_colour_of_every_series() {
        let plot = plot(&[
            ("uring", 1, 1.0),
            ("uring", 8, 2.0),
            ("libaio", 1, 0.5),
            ("libaio", 8, 1.5),
            ("pthread", 1, 0.2),
        ]);
        let png = png(&draw(&plot).unwrap(), 980).unwrap();
        let pixels = resvg::tiny_skia::Pixmap::decode_png(&png).unwrap();
        assert_eq!(pixels.width(), 980);
        for colour in (0..3).map(chart::colour) {
            let same = |pixel: &&resvg::tiny_skia::PremultipliedColorU8| {
                (pixel.red(), pixel.green(), pixel.blue(), pixel.alpha()) == (colour.0, colour.1, colour.2, 255)
            };
            assert!(pixels.pixels().iter().filter(same).count() > 50, "{colour:?}");
        }
    }
}
