//! Panels of lines over one logarithmic axis, with a legend below them.

use plotters::style::RGBColor;

use super::axis::{self, Tick};
use super::marker::{Marker, RADIUS};
use super::sheet::{Point, Sheet, Side, sheet};
use super::style::{self, HEADING, INK, LABEL, TICK, TITLE};
use super::{Estimate, LineChart, LinePanel};
use crate::failure::Failure;

const WIDTH: i32 = 980;
const MARGIN: i32 = 16;
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
    let subtitle = style::wrap(&chart.subtitle, LABEL, WIDTH - 2 * MARGIN);
    let top = MARGIN + TITLE + 10 + subtitle.len() as i32 * (LABEL + 5) + 14;
    let legend = Legend::new(&chart.series);
    let legend_top = top + HEAD + HEIGHT + FOOT;
    sheet(WIDTH, legend_top + legend.height() + MARGIN, |sheet| {
        let title = style::fit(&chart.title, TITLE, WIDTH - 2 * MARGIN);
        sheet.text((MARGIN, MARGIN + TITLE / 2), Side::Right, TITLE, &title)?;
        for (number, line) in subtitle.iter().enumerate() {
            sheet.text((MARGIN, MARGIN + TITLE + 16 + number as i32 * (LABEL + 5)), Side::Right, LABEL, line)?;
        }
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
        let x_ticks = axis::log2(first, last, chart.x.bytes, area.1.0 - area.0.0);
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
