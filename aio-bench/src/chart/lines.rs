//! Panels of lines over one logarithmic axis, with a legend below them.

use plotters::style::RGBColor;

use super::axis::{self, Tick};
use super::header::Header;
use super::marker::{Marker, RADIUS};
use super::sheet::{MARGIN, Point, Sheet, Side, WIDTH, sheet};
use super::style::{self, HEADING, INK, LABEL, TICK};
use super::{LineChart, LinePanel};
use aio_cli::estimate::Estimate;
use aio_cli::failure::Failure;

const GUTTER: i32 = 32;
/// Of the area in which lines are.
const HEIGHT: i32 = 300;
/// Above it, the panel's title; below it, ticks and the name of the axis.
const HEAD: i32 = 30;
const FOOT: i32 = 48;
const LEGEND_ROW: i32 = 20;
/// The piece of line in the legend.
const SAMPLE: i32 = 30;

/// Draws the chart; its SVG.
pub(crate) fn lines(chart: &LineChart) -> Result<String, Failure> {
    let header = Header::new(&chart.title, &chart.subtitle);
    let top = header.bottom();
    let legend = Legend::new(&chart.series);
    let legend_top = top + HEAD + HEIGHT + FOOT;
    sheet(legend_top + legend.height() + MARGIN, |sheet| {
        header.draw(sheet)?;
        let panels = chart.panels.len().max(1) as i32;
        let width = (WIDTH - 2 * MARGIN - (panels - 1) * GUTTER) / panels;
        for (number, panel) in chart.panels.iter().enumerate() {
            let left = MARGIN + number as i32 * (width + GUTTER);
            Layout::new(chart, panel, left, top, width).draw(sheet, chart, panel)?;
        }
        legend.draw(sheet, legend_top)
    })
}

/// Where a panel's area is, and its two scales.
struct Layout {
    left: i32,
    area: (Point, Point),
    /// Logarithms of the smallest and largest x.
    x: (f64, f64),
    x_ticks: Vec<Tick>,
    y: Scale,
    y_ticks: Vec<Tick>,
}

/// What the height stands for.
enum Scale {
    /// From 0 to this.
    Linear(f64),
    /// Between the logarithms of these.
    Log(f64, f64),
}

impl Layout {
    fn new(chart: &LineChart, panel: &LinePanel, left: i32, top: i32, width: i32) -> Self {
        let all = || panel.lines.iter().flat_map(|line| line.drawable());
        let fold = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::INFINITY, 0f64), |(low, high), value| (low.min(value), high.max(value)))
        };
        // One x axis for all panels, so that they are read across.
        let (first, last) = fold(
            &mut chart.panels.iter().flat_map(|panel| &panel.lines).flat_map(|line| line.drawable().map(|(x, _)| x)),
        );
        let (_, highest) = fold(&mut all().map(|(_, figure)| figure.high.max(figure.median)));
        let (lowest, _) = fold(&mut all().map(|(_, figure)| figure.low.min(figure.median)));
        let (y, y_ticks) = if panel.log && lowest > 0.0 && lowest.is_finite() {
            let (from, to) = (lowest * 0.8, highest * 1.25);
            (Scale::Log(from.log10(), to.log10()), axis::log10(from, to))
        } else {
            (Scale::Linear(highest * 1.06), axis::linear(highest * 1.06, 7))
        };
        let labels = y_ticks.iter().map(|(_, label)| style::width(label, TICK)).max().unwrap_or(0);
        let area = ((left + labels + 8, top + HEAD), (left + width, top + HEAD + HEIGHT));
        // As if the labels of y took a fifth in every panel: all name the same values of x.
        let x_ticks = axis::log2(first, last, chart.x.bytes, width * 4 / 5);
        Self { left, area, x: (first.log2(), last.log2()), x_ticks, y, y_ticks }
    }

    /// Where an x is; with some room on either side for markers.
    fn x(&self, value: f64) -> i32 {
        let (first, last) = self.x;
        let share = if last > first { (value.log2() - first) / (last - first) } else { 0.5 };
        let (from, to) = (f64::from(self.area.0.0 + 16), f64::from(self.area.1.0 - 16));
        (from + share * (to - from)).round() as i32
    }

    fn y(&self, value: f64) -> i32 {
        let share = match self.y {
            Scale::Linear(largest) if largest > 0.0 => value / largest,
            Scale::Linear(_) => 0.0,
            Scale::Log(from, to) => (value.log10() - from) / (to - from),
        };
        let (top, bottom) = (f64::from(self.area.0.1), f64::from(self.area.1.1));
        (bottom - share.clamp(0.0, 1.0) * (bottom - top)).round() as i32
    }

    fn draw(&self, sheet: &Sheet<'_>, chart: &LineChart, panel: &LinePanel) -> Result<(), Failure> {
        let ((left, top), (right, bottom)) = self.area;
        let unit = format!(" ({})", panel.unit);
        let title = style::fit(&panel.title, HEADING, right - self.left - style::width(&unit, HEADING)) + &unit;
        sheet.text((self.left, top - HEAD + HEADING / 2), Side::Right, HEADING, &title)?;
        for (value, label) in &self.y_ticks {
            let y = self.y(*value);
            sheet.faint((left, y), (right, y))?;
            sheet.text((left - 6, y), Side::Left, TICK, label)?;
        }
        for (value, label) in &self.x_ticks {
            let x = self.x(*value);
            sheet.line((x, bottom), (x, bottom + 4), INK, 1)?;
            sheet.text((x, bottom + 6 + TICK / 2), Side::Middle, TICK, label)?;
        }
        sheet.text(((left + right) / 2, bottom + 24 + LABEL / 2), Side::Middle, LABEL, &chart.x.name)?;
        sheet.path(vec![(left, top), (left, bottom), (right, bottom)], INK, 1)?;
        panel.lines.iter().try_for_each(|line| {
            let points: Vec<_> = line.drawable().collect();
            self.draw_line(sheet, line.series, line.dashed, &points)
        })
    }

    fn draw_line(
        &self,
        sheet: &Sheet<'_>,
        series: usize,
        dashed: bool,
        points: &[(f64, Estimate)],
    ) -> Result<(), Failure> {
        let colour = style::colour(series);
        let at = |(x, figure): &(f64, Estimate)| (self.x(*x), self.y(figure.median));
        let path: Vec<Point> = points.iter().map(at).collect();
        match dashed {
            true => sheet.dashes(&path, colour, 2)?,
            false => sheet.path(path.clone(), colour, 2)?,
        }
        for ((_, figure), (x, y)) in points.iter().zip(path) {
            self.draw_whisker(sheet, x, figure, colour)?;
            Marker::of(series).draw(sheet, (x, y), colour, !dashed)?;
        }
        Ok(())
    }

    /// Nothing where low and high lie under the marker.
    fn draw_whisker(&self, sheet: &Sheet<'_>, x: i32, figure: &Estimate, colour: RGBColor) -> Result<(), Failure> {
        let (low, high) = (self.y(figure.low), self.y(figure.high));
        if low - high <= 2 {
            return Ok(());
        }
        sheet.line((x, low), (x, high), colour, 1)?;
        [low, high].iter().try_for_each(|y| sheet.line((x - RADIUS, *y), (x + RADIUS, *y), colour, 1))
    }
}

/// The names of all series, in as many columns as fit.
struct Legend<'a> {
    names: &'a [String],
    columns: i32,
}

impl<'a> Legend<'a> {
    fn new(names: &'a [String]) -> Self {
        let widest = names.iter().map(|name| style::width(name, LABEL)).max().unwrap_or(0) + SAMPLE + 32;
        Self { names, columns: ((WIDTH - 2 * MARGIN) / widest).clamp(1, 4) }
    }

    fn height(&self) -> i32 {
        (self.names.len() as i32 + self.columns - 1) / self.columns * LEGEND_ROW
    }

    fn draw(&self, sheet: &Sheet<'_>, top: i32) -> Result<(), Failure> {
        let width = (WIDTH - 2 * MARGIN) / self.columns;
        for (series, name) in self.names.iter().enumerate() {
            let (row, column) = (series as i32 / self.columns, series as i32 % self.columns);
            let (x, y) = (MARGIN + column * width, top + row * LEGEND_ROW + LEGEND_ROW / 2);
            let colour = style::colour(series);
            sheet.line((x, y), (x + SAMPLE, y), colour, 2)?;
            Marker::of(series).draw(sheet, (x + SAMPLE / 2, y), colour, true)?;
            let name = style::fit(name, LABEL, width - SAMPLE - 16);
            sheet.text((x + SAMPLE + 8, y), Side::Right, LABEL, &name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Axis, Line};
    use super::*;

    fn estimate(median: f64) -> Estimate {
        Estimate { median, low: median * 0.5, high: median * 1.5 }
    }

    fn line(series: usize, dashed: bool, points: &[(f64, f64)]) -> Line {
        Line { series, dashed, points: points.iter().map(|(x, y)| (*x, estimate(*y))).collect() }
    }

    fn chart(log: bool, series: &[&str], lines: Vec<Line>) -> LineChart {
        LineChart {
            title: "by <depth>".to_owned(),
            subtitle: "a & b".to_owned(),
            x: Axis { name: "queue depth".to_owned(), bytes: false },
            series: series.iter().map(|&name| name.to_owned()).collect(),
            panels: vec![LinePanel { title: "latency".to_owned(), unit: "us".to_owned(), log, lines }],
        }
    }

    /// The points of all paths of this colour that are as long as `length`.
    fn paths(svg: &roxmltree::Document<'_>, series: usize, length: usize) -> Vec<Vec<Point>> {
        let RGBColor(red, green, blue) = style::colour(series);
        let stroke = format!("#{red:02X}{green:02X}{blue:02X}");
        let paths = svg.descendants().filter(|node| node.attribute("stroke") == Some(&stroke));
        let points = paths.filter_map(|path| path.attribute("points")).map(|points| {
            let points = points.split_whitespace().map(|point| point.split_once(',').unwrap());
            points.map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap())).collect::<Vec<Point>>()
        });
        points.filter(|points| points.len() == length).collect()
    }

    #[test]
    fn x_goes_by_doublings_and_y_from_zero() {
        let chart = chart(false, &["uring"], vec![line(0, false, &[(1.0, 1.0), (2.0, 2.0), (8.0, 3.0)])]);
        let svg = lines(&chart).unwrap();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let path = &paths(&document, 0, 3)[0];
        let (near, far) = (path[1].0 - path[0].0, path[2].0 - path[1].0);
        assert!((far - 2 * near).abs() <= 2, "{path:?}");
        let layout = Layout::new(&chart, &chart.panels[0], MARGIN, 0, WIDTH - 2 * MARGIN);
        assert_eq!(layout.y(0.0), layout.area.1.1);
        assert!(((path[0].1 - path[1].1) - (path[1].1 - path[2].1)).abs() <= 1, "{path:?}");
        assert!(layout.y(4.5) > layout.area.0.1, "the whisker of the highest has room");
        let whisker = |x: f64, y: f64| [(layout.x(x), layout.y(y * 0.5)), (layout.x(x), layout.y(y * 1.5))];
        // Its height alone: the panel's place on the sheet is another one.
        let [low, high] = whisker(8.0, 3.0);
        let drawn = paths(&document, 0, 2);
        assert!(drawn.iter().any(|path| path[0].0 == low.0 && path[0].1 - path[1].1 == low.1 - high.1), "{drawn:?}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn a_logarithmic_height_is_even_in_factors() {
        let points = [(1.0, 10.0), (2.0, 100.0), (4.0, 1000.0)];
        let svg = lines(&chart(true, &["uring"], vec![line(0, false, &points)])).unwrap();
        let path = &paths(&roxmltree::Document::parse(&svg).unwrap(), 0, 3)[0];
        assert!(((path[0].1 - path[1].1) - (path[1].1 - path[2].1)).abs() <= 1, "{path:?}");
        assert!(path[0].1 - path[1].1 > 50);
    }

    #[test]
    fn a_logarithmic_height_without_positive_figures_is_from_zero() {
        for figure in [0.0, f64::NAN] {
            let svg = lines(&chart(true, &["uring"], vec![line(0, false, &[(1.0, figure)])])).unwrap();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn names_are_in_the_legend_and_escaped_and_dashes_are_pieces() {
        let names =
            ["a & <b>", "a name that is so long that it takes the whole width of the legend".repeat(3).leak()];
        let points = [(1.0, 1.0), (64.0, 2.0)];
        let svg = lines(&chart(false, &names, vec![line(0, false, &points), line(1, true, &points)])).unwrap();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let texts: Vec<_> = document.descendants().filter_map(|node| node.text()).map(str::trim).collect();
        for text in ["by <depth>", "a & b", "a & <b>", "queue depth", "latency (us)", "64"] {
            assert!(texts.contains(&text), "{text}: {texts:?}");
        }
        assert!(texts.iter().any(|text| text.starts_with("a name that is") && text.ends_with('…')));
        let longest = |series| {
            let paths = paths(&document, series, 2);
            paths.iter().map(|path| (path[1].0 - path[0].0).abs()).max().unwrap()
        };
        assert!(longest(0) > 500 && longest(1) <= SAMPLE, "{} {}", longest(0), longest(1));
    }

    #[test]
    fn a_chart_of_nothing_or_of_one_place_is_drawn() {
        for lines_of in [vec![], vec![line(0, false, &[])], vec![line(0, false, &[(10.0, 3.0)])]] {
            let svg = lines(&chart(true, &["uring"], lines_of)).unwrap();
            roxmltree::Document::parse(&svg).unwrap();
            assert!(!svg.contains("NaN") && !svg.contains("inf"));
        }
    }
}
