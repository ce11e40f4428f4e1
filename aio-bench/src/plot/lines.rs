//! Throughput and latency as lines over a logarithmic axis, with a legend below them.

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::series::{Plot, Point, size};
use super::sheet::{
    self, Area, Drawn, HEADING, INK, LABEL, MARGIN, Pixel, RADIUS, TICK, WIDTH, colour, marker, style, text, tick,
};
use crate::cli::Over;
use aio_cli::estimate::Estimate;
use aio_cli::failure::Failure;

/// Of a panel, with its title and the labels of its axes.
const HEIGHT: i32 = 390;
/// A row of the legend, and the line sample in it.
const ROW: i32 = 20;
const SAMPLE: i32 = 30;

/// One quantity of all points.
#[derive(Clone, Copy)]
struct Quantity {
    of: fn(&Point) -> Estimate,
    /// Dashed with hollow markers, for a second quantity in one panel.
    dashed: bool,
}

/// Draws the plot over `over` as an SVG.
pub(crate) fn lines(plot: &Plot, over: Over) -> Result<String, Failure> {
    let rate = [Quantity { of: |point| point.gb_per_s, dashed: false }];
    let latencies = [
        Quantity { of: |point| point.latency_us.p99, dashed: true },
        Quantity { of: |point| point.latency_us.p50, dashed: false },
    ];
    let names = plot.series.iter().map(|series| sheet::width(&series.name, LABEL));
    let columns = (WIDTH - 2 * MARGIN) / (names.max().unwrap_or(0) + SAMPLE + 32);
    let columns = columns.clamp(1, 4) as usize;
    let rows = plot.series.len().div_ceil(columns).max(1);
    let height = HEIGHT + rows as i32 * ROW + MARGIN;
    sheet::sheet(&format!("Throughput and latency by {}", name(over)), &plot.subtitle(), height, |page, area| {
        let (panels, below) = area.margin(0, MARGIN, MARGIN, MARGIN).split_vertically(HEIGHT);
        let (left, right) = panels.split_horizontally((50).percent_width());
        let (_, highest) = range(plot, &rate);
        panel(page, &left, plot, over, "throughput (GB/s)", 0.0..highest * 1.06, &rate)?;
        let title = "latency of an op: p50 solid, p99 dashed (us)";
        let (lowest, highest) = range(plot, &latencies);
        if spans_a_decade(lowest, highest) {
            let (from, to) = (lowest * 0.8, highest * 1.25);
            let y = (from..to).log_scale().with_key_points(round(from, to));
            panel(page, &right, plot, over, title, y, &latencies)?;
        } else {
            panel(page, &right, plot, over, title, 0.0..highest * 1.06, &latencies)?;
        }
        let cells = below.split_evenly((rows, columns));
        cells.iter().zip(&plot.series).enumerate().try_for_each(|(number, (cell, series))| {
            let (width, height) = cell.dim_in_pixel();
            let y = height as i32 / 2;
            cell.draw(&PathElement::new([(0, y), (SAMPLE, y)], colour(number).stroke_width(2)))?;
            marker(cell, number, (SAMPLE / 2, y), true)?;
            let name = sheet::fit(&series.name, LABEL, width as i32 - SAMPLE - 16);
            text(cell, (SAMPLE + 8, y), HPos::Left, LABEL, &name)
        })
    })
}

fn name(over: Over) -> &'static str {
    match over {
        Over::QueueDepth => "queue depth",
        Over::BlockSize => "block size",
    }
}

/// The lowest and the highest figure. Less than a byte per second, or a nanosecond, is drawn as zero.
fn range(plot: &Plot, quantities: &[Quantity]) -> (f64, f64) {
    const LEAST: f64 = 1e-9;
    let points = || plot.series.iter().flat_map(|series| &series.points);
    let figures = points().flat_map(|point| quantities.iter().map(|quantity| (quantity.of)(point)));
    figures.fold((f64::INFINITY, LEAST), |(low, high), figure| (low.min(figure.low), high.max(figure.high)))
}

/// Whether figures differ so much that a linear axis would hide the small ones.
fn spans_a_decade(lowest: f64, highest: f64) -> bool {
    const LEAST: f64 = 1e-3;
    lowest >= LEAST && highest > 10.0 * lowest
}

/// Round figures on a logarithmic axis: 1, 2, 5, 10, 20, ... or fewer.
fn round(from: f64, to: f64) -> Vec<f64> {
    let decades = from.log10().floor() as i32..=to.log10().floor() as i32;
    let digits = if to > from * 1e4 { &["1"][..] } else { &["1", "2", "5"] };
    // Parsed from text, figures have no 0.30000000000000004.
    let figures = decades.flat_map(|ten| digits.iter().map(move |digit| format!("{digit}e{ten}").parse()));
    figures.filter_map(Result::ok).filter(|figure| (from..=to).contains(figure)).collect()
}

/// Places that are far enough apart for their labels.
fn apart(mut places: Vec<u64>, over: Over) -> Vec<f64> {
    places.sort_unstable();
    let span = places.first().zip(places.last()).map_or(0.0, |(first, last)| (*last as f64 / *first as f64).log2());
    let labels = match over {
        Over::QueueDepth => 10.0,
        Over::BlockSize => 6.0,
    };
    let mut kept: Vec<f64> = Vec::new();
    for place in places.into_iter().map(|place| place as f64) {
        if kept.last().is_none_or(|last| (place / last).log2() >= span / labels && place > *last) {
            kept.push(place);
        }
    }
    kept
}

/// One line per series and quantity.
fn panel<Y>(
    page: &Area<'_>,
    area: &Area<'_>,
    plot: &Plot,
    over: Over,
    title: &str,
    y: Y,
    quantities: &[Quantity],
) -> Drawn
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let places: Vec<u64> = plot.series.iter().flat_map(|series| &series.points).filter_map(|point| point.x).collect();
    let (first, last) = (places.iter().min(), places.iter().max());
    let Some((first, last)) = first.zip(last).map(|(first, last)| (*first as f64, *last as f64)) else {
        return Ok(());
    };
    // Room for markers on both sides.
    let beside = (last / first).powf(0.04).max(1.001);
    let x = (first / beside..last * beside).log_scale().with_key_points(apart(places, over));
    let mut chart = ChartBuilder::on(area)
        .caption(title, style(HEADING))
        .x_label_area_size(42)
        .y_label_area_size(56)
        .margin_right(MARGIN)
        .margin_bottom(MARGIN)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .y_labels(8)
        .light_line_style(TRANSPARENT)
        .bold_line_style(INK.mix(0.25))
        .axis_style(INK)
        .label_style(style(TICK))
        .axis_desc_style(style(LABEL))
        .x_desc(name(over))
        .x_label_formatter(&|place| match over {
            Over::QueueDepth => tick(*place),
            Over::BlockSize => size(*place as u64),
        })
        .y_label_formatter(&|figure| tick(*figure))
        .draw()?;
    for quantity in quantities {
        for (number, series) in plot.series.iter().enumerate() {
            let points = series.points.iter().filter_map(|point| Some((point.x? as f64, (quantity.of)(point))));
            let places = points.map(|(x, Estimate { low, median, high })| {
                [low, median, high].map(|figure| chart.backend_coord(&(x, figure)))
            });
            line(page, number, quantity.dashed, &places.collect::<Vec<_>>())?;
        }
    }
    Ok(())
}

/// Draws one quantity of a series, by the low, median and high pixels of each point.
fn line(page: &Area<'_>, series: usize, dashed: bool, points: &[[Pixel; 3]]) -> Drawn {
    let colour = colour(series);
    let path: Vec<Pixel> = points.iter().map(|[_, median, _]| *median).collect();
    match dashed {
        true => page.draw(&DashedPathElement::new(path, 5, 4, colour.stroke_width(2)))?,
        false => page.draw(&PathElement::new(path, colour.stroke_width(2)))?,
    }
    for [(x, low), at, (_, high)] in points {
        // No whisker if the marker covers low and high.
        if low - high > 2 {
            let caps = [low, high].map(|y| [(x - RADIUS, *y), (x + RADIUS, *y)]);
            for line in [[(*x, *low), (*x, *high)], caps[0], caps[1]] {
                page.draw(&PathElement::new(line, colour.stroke_width(1)))?;
            }
        }
        marker(page, series, *at, !dashed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use roxmltree::Document;
    use serde_json::{Value, json};

    use super::super::bars::tests::assert_apart;
    use super::super::input::tests::result;
    use super::*;

    fn plot(results: &[Value]) -> Plot {
        let results: Vec<_> = results.iter().map(|it| serde_json::from_value(it.clone()).unwrap()).collect();
        Plot::new(&results, Some(Over::QueueDepth)).unwrap()
    }

    fn drawn(plot: &Plot) -> String {
        let svg = lines(plot, Over::QueueDepth).unwrap();
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert_apart(&Document::parse(&svg).unwrap());
        svg
    }

    fn with(queue_depth: u64, changes: Value) -> Value {
        let mut result = result("uring", queue_depth, 1.0);
        result.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        result
    }

    /// The points of all paths of a series with this many of them.
    fn paths(svg: &str, series: usize, length: usize) -> Vec<Vec<(i32, i32)>> {
        let RGBColor(red, green, blue) = colour(series);
        let stroke = format!("#{red:02X}{green:02X}{blue:02X}");
        let document = Document::parse(svg).unwrap();
        let paths = document.descendants().filter(|node| node.attribute("stroke") == Some(&stroke));
        let points = paths.filter_map(|path| path.attribute("points")).map(|points| {
            let points = points.split_whitespace().map(|point| point.split_once(',').unwrap());
            points.map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap())).collect::<Vec<_>>()
        });
        points.filter(|points| points.len() == length).collect()
    }

    #[test]
    fn x_goes_by_doublings_and_throughput_from_zero() {
        let svg = drawn(&plot(&[(1, 1.0), (2, 2.0), (8, 3.0)].map(|(depth, rate)| result("uring", depth, rate))));
        let path = &paths(&svg, 0, 3)[0];
        let (near, far) = (path[1].0 - path[0].0, path[2].0 - path[1].0);
        assert!((far - 2 * near).abs() <= 2, "{path:?}");
        let axis = path[0].1 + (path[0].1 - path[1].1);
        assert!(((path[0].1 - path[1].1) - (path[1].1 - path[2].1)).abs() <= 1, "{path:?}");
        assert!(svg.contains(&format!(",{axis} ")) || svg.contains(&format!(",{} ", axis + 1)), "no axis at {axis}");
    }

    #[test]
    fn latencies_are_logarithmic_where_they_spread() {
        // p99 is drawn first, as dashes.
        let path = |depths: [u64; 3]| {
            paths(&drawn(&plot(&depths.map(|depth| result("uring", depth, 1.0)))), 0, 3)[1].clone()
        };
        let steps = |path: Vec<(i32, i32)>| (path[0].1 - path[1].1, path[1].1 - path[2].1);
        let (first, second) = steps(path([1, 8, 64]));
        assert!((first - second).abs() <= 1 && first > 50, "{first} {second}");
        let (first, second) = steps(path([1, 2, 4]));
        assert!((2 * first - second).abs() <= 2 && first > 20, "{first} {second}");
    }

    #[test]
    fn names_are_in_the_legend_and_dashes_are_pieces() {
        let long = "a name that is so long that it takes the whole width of the legend".repeat(3);
        let backends = ["li<b>aio", &long];
        let results = backends.iter().flat_map(|backend| [1, 64].map(|depth| result(backend, depth, 1.0)));
        let svg = drawn(&plot(&results.collect::<Vec<_>>()));
        let document = Document::parse(&svg).unwrap();
        let texts: Vec<_> = document.descendants().filter_map(|node| node.text()).map(str::trim).collect();
        for text in ["li<b>aio", "throughput (GB/s)", "queue depth", "64", "read, direct, 1 thread, blocks of 1 MiB"]
        {
            assert!(texts.contains(&text), "{text}: {texts:?}");
        }
        assert!(texts.iter().any(|text| text.starts_with("a name that is") && text.ends_with('…')));
        let long = |path: &&Vec<(i32, i32)>| path[1].0 - path[0].0 > 100;
        // Throughput and p50 are solid.
        assert_eq!(paths(&svg, 1, 2).iter().filter(long).count(), 2);
    }

    #[test]
    fn whatever_was_measured_is_drawn() {
        let rate = |rate: f64| with(1, json!({ "gb_per_s": rate, "latency_us": { "p50": rate, "p99": rate } }));
        for rates in
            [&[0.0][..], &[5e-324], &[1e12], &[0.0, 1e12], &[5e-324, 1e12], &[1e-3, 1.0], &[1.0, 1.0 + 1e-12]]
        {
            drawn(&plot(&rates.iter().map(|it| rate(*it)).collect::<Vec<_>>()));
        }
        for depths in [&[u64::MAX][..], &[1, u64::MAX], &[60, 62, 64], &[1000; 2]] {
            drawn(&plot(&depths.iter().map(|depth| with(*depth, json!({}))).collect::<Vec<_>>()));
        }
        drawn(&plot(&(1..100).map(|depth| with(depth, json!({}))).collect::<Vec<_>>()));
        let svg = lines(
            &plot(&[with(1, json!({ "block_size": 1 })), with(1, json!({ "block_size": 1u64 << 63 }))]),
            Over::BlockSize,
        );
        assert!(svg.unwrap().contains("8388608 TiB"));
    }

    #[test]
    fn logarithmic_labels_are_round_and_few() {
        assert_eq!(round(8.0, 1250.0), [10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0]);
        assert_eq!(round(0.08, 0.31), [0.1, 0.2]);
        assert_eq!(round(0.5, 5e6), [1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6]);
    }
}
