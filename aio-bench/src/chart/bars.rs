//! Panels of horizontal bars with whiskers.

use plotters::style::RGBColor;

use super::axis::{self, Tick};
use super::header::Header;
use super::sheet::{MARGIN, Sheet, Side, WIDTH, sheet};
use super::style::{self, HEADING, INK, LABEL, TICK};
use super::{BarChart, Panel, Row};
use aio_cli::estimate::Estimate;
use aio_cli::failure::Failure;

/// Between panels that stand side by side.
const GUTTER: i32 = 36;
const ROW: i32 = 20;
const BAR: i32 = 12;
/// Above the rows: the panel's title, and the label of a reference line.
const HEAD: i32 = 28;
const REFERENCE: i32 = 14;
/// Below the rows: the ticks, and space to the next panel.
const FOOT: i32 = 42;
/// Between names, bars and figures.
const GAP: i32 = 8;

/// Draws the chart; its SVG.
pub(crate) fn bars(chart: &BarChart) -> Result<String, Failure> {
    let columns = if chart.panels.len() > 1 { 2 } else { 1 };
    let header = Header::new(&chart.title, &chart.subtitle);
    let top = header.bottom();
    let heights: Vec<i32> = chart.panels.chunks(columns).map(height).collect();
    sheet(top + heights.iter().sum::<i32>(), |sheet| {
        header.draw(sheet)?;
        let width = (WIDTH - 2 * MARGIN - (columns as i32 - 1) * GUTTER) / columns as i32;
        let mut y = top;
        for (panels, height) in chart.panels.chunks(columns).zip(&heights) {
            for (column, panel) in panels.iter().enumerate() {
                let x = MARGIN + column as i32 * (width + GUTTER);
                Layout::new(panel, x, y + head(panels), width).draw(sheet, y + HEADING / 2, panel)?;
            }
            y += height;
        }
        Ok(())
    })
}

/// What panels side by side need.
fn height(panels: &[Panel]) -> i32 {
    let rows = panels.iter().map(|panel| panel.rows.len()).max().unwrap_or(0);
    head(panels) + rows as i32 * ROW + FOOT
}

/// What they need above their rows, which are level.
fn head(panels: &[Panel]) -> i32 {
    if panels.iter().any(|panel| panel.reference.is_some()) { HEAD + REFERENCE } else { HEAD }
}

/// Where the parts of a panel are, and its scale.
struct Layout {
    left: i32,
    right: i32,
    /// Where the rows begin.
    top: i32,
    bottom: i32,
    /// Where bars begin and end.
    bars: (i32, i32),
    /// Where figures end, right-aligned; behind them there may be shares.
    figures: i32,
    ticks: Vec<Tick>,
    /// The figure at the right end of the bars.
    end: f64,
    reference: Option<f64>,
}

impl Layout {
    /// With its rows from `top` on.
    fn new(panel: &Panel, left: i32, top: i32, width: i32) -> Self {
        let right = left + width;
        let reference = panel.reference.filter(|reference| reference.is_finite() && *reference > 0.0);
        let names = panel.rows.iter().map(|row| style::width(&row.name, LABEL)).max().unwrap_or(0);
        let widest = |printed: &dyn Fn(&Estimate) -> String| {
            let estimates = panel.rows.iter().filter_map(|row| row.estimate().ok());
            estimates.map(|estimate| style::width(&printed(estimate), LABEL)).max().unwrap_or(0)
        };
        let shares = reference.map_or(0, |reference| widest(&|estimate| share(estimate, reference)) + GAP);
        let figures = right - shares;
        let printed = widest(&|estimate| style::figure(estimate.median));
        let bars = (left + names.min(width * 2 / 5) + GAP, figures - printed - GAP);
        let estimates = panel.rows.iter().filter_map(|row| row.estimate().ok());
        let largest =
            estimates.map(|estimate| estimate.high.max(estimate.median)).chain(reference).fold(0.0, f64::max);
        let ticks = axis::linear(largest, 5);
        Self {
            left,
            right,
            top,
            bottom: top + panel.rows.len() as i32 * ROW,
            bars,
            figures,
            ticks,
            end: largest,
            reference,
        }
    }

    /// Where a figure is.
    fn x(&self, figure: f64) -> i32 {
        let share = if self.end > 0.0 { (figure / self.end).clamp(0.0, 1.0) } else { 0.0 };
        self.bars.0 + (share * f64::from(self.bars.1 - self.bars.0)).round() as i32
    }

    fn draw(&self, sheet: &Sheet<'_>, heading: i32, panel: &Panel) -> Result<(), Failure> {
        let unit = format!(" ({})", panel.unit);
        let room = self.right - self.left - style::width(&unit, HEADING);
        let title = style::fit(&panel.title, HEADING, room) + &unit;
        sheet.text((self.left, heading), Side::Right, HEADING, &title)?;
        self.draw_scale(sheet)?;
        for (number, row) in panel.rows.iter().enumerate() {
            self.draw_row(sheet, self.top + number as i32 * ROW, row)?;
        }
        let (start, end) = ((self.bars.0, self.top - 2), (self.bars.0, self.bottom + 2));
        sheet.line(start, end, INK, 1)
    }

    fn draw_scale(&self, sheet: &Sheet<'_>) -> Result<(), Failure> {
        for (tick, label) in &self.ticks {
            let x = self.x(*tick);
            sheet.faint((x, self.top), (x, self.bottom))?;
            sheet.text((x, self.bottom + TICK), Side::Middle, TICK, label)?;
        }
        match self.reference {
            Some(reference) => sheet.text((self.x(reference), self.top - TICK + 2), Side::Middle, TICK, "100 %"),
            None => Ok(()),
        }
    }

    fn draw_row(&self, sheet: &Sheet<'_>, y: i32, row: &Row) -> Result<(), Failure> {
        let middle = y + ROW / 2;
        let name = style::fit(&row.name, LABEL, self.bars.0 - GAP - self.left);
        sheet.text((self.bars.0 - GAP, middle), Side::Left, LABEL, &name)?;
        let estimate = match row.estimate() {
            Ok(estimate) => estimate,
            // Without the reference line, which would cross the words.
            Err(reason) => {
                let reason = style::fit(reason, LABEL, self.right - self.bars.0 - GAP);
                return sheet.text((self.bars.0 + GAP, middle), Side::Right, LABEL, &reason);
            }
        };
        self.draw_bar(sheet, middle, style::colour(row.colour), estimate)?;
        if let Some(reference) = self.reference {
            let x = self.x(reference);
            sheet.dashes(&[(x, y), (x, y + ROW)], INK, 1)?;
        }
        sheet.text((self.figures, middle), Side::Left, LABEL, &style::figure(estimate.median))?;
        match self.reference {
            Some(reference) => sheet.text((self.right, middle), Side::Left, LABEL, &share(estimate, reference)),
            None => Ok(()),
        }
    }

    /// The bar up to the median, and the whisker from low to high. No ink is seen on all colours: where the whisker lies
    /// on the bar, the bar leaves a slit in which the page shows.
    fn draw_bar(&self, sheet: &Sheet<'_>, y: i32, colour: RGBColor, estimate: &Estimate) -> Result<(), Failure> {
        const CAP: i32 = 4;
        let (low, median, high) = (self.x(estimate.low), self.x(estimate.median), self.x(estimate.high));
        let (half, slit) = (BAR / 2, BAR / 2 - 3);
        let solid = (low - 2).clamp(self.bars.0, median);
        sheet.block((self.bars.0, y - half), (solid, y + half), colour)?;
        sheet.block((solid, y - half), (median, y - slit), colour)?;
        sheet.block((solid, y + slit), (median, y + half), colour)?;
        sheet.line((low, y), (high, y), INK, 2)?;
        [(low, slit - 1), (high, CAP)]
            .iter()
            .try_for_each(|(x, cap)| sheet.line((*x, y - cap), (*x, y + cap), INK, 2))
    }
}

impl Row {
    /// What can be drawn, or why nothing can.
    fn estimate(&self) -> Result<&Estimate, &str> {
        match &self.figure {
            Ok(estimate) if estimate.is_finite() => Ok(estimate),
            Ok(_) => Err("not a number"),
            Err(reason) => Err(reason),
        }
    }
}

fn share(estimate: &Estimate, reference: f64) -> String {
    format!("{:.0} %", estimate.median / reference * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, colour: usize, median: f64) -> Row {
        let estimate = Estimate { median, low: median * 0.9, high: median * 1.05 };
        Row { name: name.to_owned(), colour, figure: Ok(estimate) }
    }

    fn panel(title: &str, rows: Vec<Row>, reference: Option<f64>) -> Panel {
        Panel { title: title.to_owned(), unit: "GB/s".to_owned(), rows, reference }
    }

    fn chart(panels: Vec<Panel>) -> BarChart {
        BarChart { title: "all <of> & them".to_owned(), subtitle: "one \u{1b}[1m machine".to_owned(), panels }
    }

    fn texts(svg: &roxmltree::Document<'_>) -> Vec<String> {
        let texts = svg.descendants().filter(|node| node.has_tag_name("text"));
        texts.map(|node| node.text().unwrap().trim().to_owned()).collect()
    }

    fn number(node: &roxmltree::Node<'_, '_>, attribute: &str) -> i32 {
        node.attribute(attribute).unwrap().parse().unwrap()
    }

    /// Bars of this colour: x and the largest width at it.
    fn bar_end(svg: &roxmltree::Document<'_>, colour: usize) -> i32 {
        let RGBColor(red, green, blue) = style::colour(colour);
        let fill = format!("#{red:02X}{green:02X}{blue:02X}");
        let bars =
            svg.descendants().filter(|node| node.has_tag_name("rect") && node.attribute("fill") == Some(&fill));
        bars.map(|bar| number(&bar, "x") + number(&bar, "width")).max().unwrap()
    }

    #[test]
    fn names_figures_and_shares_are_written_and_escaped() {
        let rows = vec![row("a & <b>", 0, 2.0), row("fio \"x\"", 1, 4.0)];
        let svg = bars(&chart(vec![panel("read <1M>", rows, Some(4.0))])).unwrap();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let texts = texts(&document);
        for expected in ["all <of> & them", "one \u{fffd}[1m machine", "read <1M> (GB/s)", "a & <b>", "fio \"x\""] {
            assert!(texts.iter().any(|text| text == expected), "{expected}: {texts:?}");
        }
        for expected in ["2.00", "50 %", "4.00", "100 %", "0"] {
            assert!(texts.iter().any(|text| text == expected), "{expected}: {texts:?}");
        }
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn bars_end_at_the_median_and_whiskers_at_low_and_high() {
        let rows = vec![row("half", 0, 2.0), row("full", 1, 4.0)];
        let panel = panel("p", rows, None);
        let layout = Layout::new(&panel, 0, 0, 500);
        let half = |figure| (layout.x(figure) - layout.bars.0) as f64 / (layout.x(4.0) - layout.bars.0) as f64;
        assert!((half(2.0) - 0.5).abs() < 0.01 && layout.x(4.2) == layout.bars.1);

        let svg = bars(&chart(vec![panel.clone()])).unwrap();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let layout = Layout::new(&panel, MARGIN, 0, WIDTH - 2 * MARGIN);
        assert_eq!(bar_end(&document, 0), layout.x(2.0));
        assert_eq!(bar_end(&document, 1), layout.x(4.0));
        for (low, high) in [(1.8, 2.1), (3.6, 4.2)] {
            let ends = (layout.x(low), layout.x(high));
            let whisker = |points: &str| {
                let points: Vec<(i32, i32)> = points
                    .split_whitespace()
                    .map(|point| {
                        point.split_once(',').map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap())).unwrap()
                    })
                    .collect();
                points.len() == 2 && (points[0].0, points[1].0) == ends && points[0].1 == points[1].1
            };
            let mut lines = document.descendants().filter(|node| node.has_tag_name("polyline"));
            assert!(lines.any(|line| whisker(line.attribute("points").unwrap())), "{low} to {high}\n{svg}");
        }
    }

    #[test]
    fn what_has_no_figure_says_why_and_has_no_bar() {
        let failed = Row { name: "rio".to_owned(), colour: 3, figure: Err("failed: EOPNOTSUPP".to_owned()) };
        let broken = Row { figure: Ok(Estimate { median: f64::NAN, low: 1.0, high: 2.0 }), ..row("nan", 4, 1.0) };
        let svg = bars(&chart(vec![panel("p", vec![row("std", 0, 1.0), failed, broken], Some(f64::NAN))])).unwrap();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let texts = texts(&document);
        assert!(texts.contains(&"failed: EOPNOTSUPP".to_owned()) && texts.contains(&"not a number".to_owned()));
        let filled = document.descendants().filter(|node| node.has_tag_name("rect"));
        let RGBColor(red, green, blue) = style::colour(0);
        for bar in filled {
            assert_eq!(bar.attribute("fill"), Some(format!("#{red:02X}{green:02X}{blue:02X}").as_str()));
        }
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn a_contender_has_one_colour_in_all_panels_and_nothing_leaves_the_sheet() {
        let names =
            ["uring", "libaio", "std::fs, 1 thread", "mmap + copy", "a contender with a name that is far too long"];
        let rows =
            |scale: f64| names.iter().enumerate().map(|(i, name)| row(name, i, scale * (i + 1) as f64)).collect();
        let panels = (0..5).map(|n| panel(&format!("panel {n}"), rows(10f64.powi(n - 2)), Some(3.0))).collect();
        let svg = bars(&chart(panels)).unwrap();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let height = number(&document.root_element(), "height");
        for node in document.descendants().filter(|node| node.has_tag_name("rect") || node.has_tag_name("text")) {
            let (x, y) = (number(&node, "x"), number(&node, "y"));
            assert!((0..=WIDTH).contains(&x) && (0..=height).contains(&y), "{node:?}");
        }
        assert_eq!(number(&document.root_element(), "width"), WIDTH);
    }

    #[test]
    fn a_chart_without_panels_or_rows_is_a_title() {
        for panels in [vec![], vec![panel("empty", vec![], None)]] {
            let svg = bars(&chart(panels)).unwrap();
            assert!(texts(&roxmltree::Document::parse(&svg).unwrap()).contains(&"all <of> & them".to_owned()));
        }
    }
}
