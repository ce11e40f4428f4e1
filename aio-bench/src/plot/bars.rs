//! Panels of horizontal bars with whiskers: a panel per workload or quantity, a bar per contender.

use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::sheet::{
    self, Area, Drawn, HEADING, INK, LABEL, MARGIN, TICK, WIDTH, colour, fit, style, text, tick, width,
};
use aio_cli::estimate::Estimate;
use aio_cli::failure::Failure;

#[derive(Debug, Clone)]
pub(crate) struct Panel {
    pub(crate) title: String,
    /// The unit of every figure in the panel, as printed: `GB/s`.
    pub(crate) unit: &'static str,
    pub(crate) rows: Vec<Row>,
    /// What counts as 100 %: drawn as a dashed line across the bars, and as a share beside each figure.
    pub(crate) reference: Option<f64>,
}

#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// The colour's number in the palette; a contender has the same in every panel.
    pub(crate) colour: usize,
    /// The measurement, or in words why there is none.
    pub(crate) figure: Result<Estimate, String>,
}

/// Between panels side by side.
const GUTTER: i32 = 36;
const ROW: i32 = 20;
const BAR: i32 = 12;
/// Above the rows: the panel's title, and the label of a reference line. Below them: the ticks.
const HEAD: i32 = 36;
const FOOT: i32 = 26;
/// Below a panel.
const SPACE: i32 = 20;
/// Between names, bars and figures.
const GAP: i32 = 8;

/// Draws the panels as an SVG, two in a row.
pub(crate) fn bars(title: &str, subtitle: &str, panels: &[Panel]) -> Result<String, Failure> {
    let heights = panels.chunks(2).map(|pair| pair.iter().map(Panel::height).max().unwrap_or(0) + SPACE);
    let heights: Vec<i32> = heights.collect();
    sheet::sheet(title, subtitle, heights.iter().sum(), |page, area| {
        let width = (WIDTH - 2 * MARGIN - GUTTER) / 2;
        let mut top = 0;
        for (pair, height) in panels.chunks(2).zip(&heights) {
            for (panel, left) in pair.iter().zip([MARGIN, MARGIN + width + GUTTER]) {
                panel.draw(page, &area.clone().shrink((left, top), (width, panel.height())))?;
            }
            top += height;
        }
        Ok(())
    })
}

impl Panel {
    fn height(&self) -> i32 {
        HEAD + self.rows.len() as i32 * ROW + FOOT
    }

    fn figures(&self) -> impl Iterator<Item = &Estimate> {
        self.rows.iter().filter_map(|row| row.figure.as_ref().ok())
    }

    fn draw(&self, page: &Area<'_>, area: &Area<'_>) -> Drawn {
        let right = area.dim_in_pixel().0 as i32;
        let title = format!("{} ({})", self.title, self.unit);
        text(area, (0, HEADING / 2), HPos::Left, HEADING, &fit(&title, HEADING, right))?;
        let widest =
            |texts: &mut dyn Iterator<Item = String>| texts.map(|text| width(&text, LABEL)).max().unwrap_or(0);
        let names = widest(&mut self.rows.iter().map(|row| row.name.clone())).min(right * 2 / 5);
        let shares = self.reference.map_or(0, |whole| widest(&mut self.figures().map(|it| share(it, whole))) + GAP);
        let printed = widest(&mut self.figures().map(|it| figure(it.median)));

        let highest = self.figures().map(|it| it.high).chain(self.reference).fold(1e-9, f64::max);
        let mut chart = ChartBuilder::on(area)
            .margin_top(HEAD)
            .margin_right(printed + shares + GAP)
            .x_label_area_size(FOOT)
            .y_label_area_size(names + GAP)
            .build_cartesian_2d(0.0..highest, 0.0..1.0)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .x_labels(6)
            .y_labels(0)
            .light_line_style(TRANSPARENT)
            .bold_line_style(INK.mix(0.25))
            .axis_style(INK)
            .label_style(style(TICK))
            .x_label_formatter(&|figure| tick(*figure))
            .draw()?;
        let page_right = area.get_base_pixel().0 + right;
        let place = |figure: f64| chart.backend_coord(&(figure, 1.0));
        if let Some((x, top)) = self.reference.map(place) {
            text(page, (x, top - TICK), HPos::Center, TICK, "100 %")?;
        }
        for (row, number) in self.rows.iter().zip(0..) {
            let (left, top) = place(0.0);
            let middle = top + number * ROW + ROW / 2;
            text(page, (left - GAP, middle), HPos::Right, LABEL, &fit(&row.name, LABEL, names))?;
            let measured = match &row.figure {
                Ok(measured) => measured,
                // Without the reference line, which would cross the words.
                Err(reason) => {
                    let reason = fit(reason, LABEL, right - names - 2 * GAP);
                    text(page, (left + GAP, middle), HPos::Left, LABEL, &reason)?;
                    continue;
                }
            };
            let [low, median, high] = [measured.low, measured.median, measured.high].map(|it| place(it).0);
            bar(page, colour(row.colour), middle, left, [low, median, high])?;
            let end = page_right - shares;
            text(page, (end, middle), HPos::Right, LABEL, &figure(measured.median))?;
            if let Some(whole) = self.reference {
                let x = place(whole).0;
                let line = [(x, middle - ROW / 2), (x, middle + ROW / 2)];
                page.draw(&DashedPathElement::new(line, 5, 4, INK.stroke_width(1)))?;
                text(page, (page_right, middle), HPos::Right, LABEL, &share(measured, whole))?;
            }
        }
        Ok(())
    }
}

/// Draws a bar up to the median, and the whisker from low to high. No ink stands out on all colours: where the whisker
/// lies on the bar, the bar has a slit that shows the page.
fn bar(page: &Area<'_>, colour: RGBColor, y: i32, left: i32, [low, median, high]: [i32; 3]) -> Drawn {
    const HALF: i32 = BAR / 2;
    const SLIT: i32 = HALF - 3;
    const CAP: i32 = 4;
    let solid = (low - 2).clamp(left, median);
    for (from, to) in [
        ((left, y - HALF), (solid, y + HALF)),
        ((solid, y - HALF), (median, y - SLIT)),
        ((solid, y + SLIT), (median, y + HALF)),
    ] {
        page.draw(&Rectangle::new([from, to], colour.filled()))?;
    }
    for line in
        [[(low, y), (high, y)], [(low, y - SLIT + 1), (low, y + SLIT - 1)], [(high, y - CAP), (high, y + CAP)]]
    {
        page.draw(&PathElement::new(line, INK.stroke_width(2)))?;
    }
    Ok(())
}

fn share(measured: &Estimate, whole: f64) -> String {
    format!("{:.0} %", measured.median / whole * 100.0)
}

/// A figure with three significant digits, and at most two decimals.
fn figure(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        value if value < 0.01 => format!("{value:.1e}"),
        value if value < 9.995 => format!("{value:.2}"),
        value if value < 99.95 => format!("{value:.1}"),
        value if value < 1e6 => format!("{value:.0}"),
        value => format!("{value:.2e}"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use roxmltree::{Document, Node};

    fn row(name: &str, colour: usize, median: f64) -> Row {
        let estimate = Estimate { median, low: median * 0.9, high: median * 1.05 };
        Row { name: name.to_owned(), colour, figure: Ok(estimate) }
    }

    fn panel(title: &str, rows: Vec<Row>, reference: Option<f64>) -> Panel {
        Panel { title: title.to_owned(), unit: "GB/s", rows, reference }
    }

    fn drawn(panels: &[Panel]) -> String {
        let svg = bars("a title", "a subtitle", panels).unwrap();
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        svg
    }

    fn texts<'a>(svg: &'a Document<'_>) -> Vec<&'a str> {
        let texts = svg.descendants().filter(|node| node.has_tag_name("text"));
        texts.map(|node| node.text().unwrap().trim()).collect()
    }

    fn number(node: &Node<'_, '_>, attribute: &str) -> i32 {
        node.attribute(attribute).unwrap().parse().unwrap()
    }

    /// The left and right ends of all bars of this colour.
    fn ends(svg: &Document<'_>, number_of: usize) -> (i32, i32) {
        let RGBColor(red, green, blue) = colour(number_of);
        let fill = format!("#{red:02X}{green:02X}{blue:02X}");
        let bars =
            || svg.descendants().filter(|node| node.has_tag_name("rect") && node.attribute("fill") == Some(&fill));
        let (left, right) =
            (bars().map(|bar| number(&bar, "x")), bars().map(|bar| number(&bar, "x") + number(&bar, "width")));
        (left.min().unwrap(), right.max().unwrap())
    }

    #[test]
    fn names_figures_and_shares_are_written_and_escaped() {
        let rows = vec![row("a & <b>", 0, 2.0), row("fio \"x\"", 1, 4.0)];
        let svg = drawn(&[panel("read <1M>", rows, Some(4.0))]);
        let document = Document::parse(&svg).unwrap();
        let texts = texts(&document);
        for expected in ["read <1M> (GB/s)", "a & <b>", "fio \"x\"", "2.00", "50 %", "4.00", "100 %", "0"] {
            assert!(texts.contains(&expected), "{expected}: {texts:?}");
        }
    }

    #[test]
    fn bars_end_at_the_median_and_whiskers_at_low_and_high() {
        let svg = drawn(&[panel("p", vec![row("half", 0, 2.0), row("full", 1, 4.0)], None)]);
        let document = Document::parse(&svg).unwrap();
        let ((left, half), (_, full)) = (ends(&document, 0), ends(&document, 1));
        assert!((full - left - 2 * (half - left)).abs() <= 2, "{left} {half} {full}");
        let place = |figure: f64| left + (f64::from(full - left) * figure / 4.0).round() as i32;
        let mut texts = document.descendants().filter(|node| node.has_tag_name("text"));
        let figure = texts.find(|text| text.text().unwrap().trim() == "4.00").unwrap();
        assert!(number(&figure, "x") - width("4.00", LABEL) > place(4.2), "it lies on the whisker");
        for (low, high) in [(1.8, 2.1), (3.6, 4.2)] {
            let whisker = |line: Node<'_, '_>| {
                let numbers = line.attribute("points").unwrap().split([' ', ',']).filter_map(|it| it.parse().ok());
                let numbers: Vec<i32> = numbers.collect();
                matches!(numbers[..], [x, y, to, same]
                    if y == same && (x - place(low)).abs() <= 1 && (to - place(high)).abs() <= 1)
            };
            let mut lines = document.descendants().filter(|node| node.has_tag_name("polyline"));
            assert!(lines.any(whisker), "{low} to {high}\n{svg}");
        }
    }

    #[test]
    fn what_has_no_figure_says_why_and_has_no_bar() {
        let failed = Row { name: "rio".to_owned(), colour: 3, figure: Err("failed: EOPNOTSUPP".to_owned()) };
        let svg =
            drawn(&[panel("p", vec![row("std", 0, 1.0), failed.clone()], None), panel("q", vec![failed], None)]);
        let document = Document::parse(&svg).unwrap();
        assert_eq!(texts(&document).iter().filter(|text| **text == "failed: EOPNOTSUPP").count(), 2);
        let fills = document.descendants().filter(|node| node.has_tag_name("rect"));
        assert_eq!(fills.map(|bar| bar.attribute("fill")).collect::<Vec<_>>(), [Some("#005AD2"); 3]);
    }

    #[test]
    fn nothing_leaves_the_page_or_lies_on_another_text() {
        let names =
            ["uring", "libaio", "std::fs, 1 thread", "mmap + copy", "a contender with a name that is far too long"];
        let rows =
            |scale: f64| names.iter().enumerate().map(|(i, name)| row(name, i, scale * (i + 1) as f64)).collect();
        let mut panels: Vec<_> = (0..5).map(|n| panel("panel", rows(10f64.powi(3 * n - 6)), Some(3.0))).collect();
        panels.extend([panel("zero", rows(0.0), None), panel("one of the last two", vec![], None)]);
        let svg = drawn(&panels);
        let document = Document::parse(&svg).unwrap();
        assert_apart(&document);
        assert_eq!(number(&document.root_element(), "width"), WIDTH);
    }

    /// Checks that all texts, as wide as [`width`] estimates, are on the page and do not overlap.
    pub(in super::super) fn assert_apart(svg: &Document<'_>) {
        let (wide, high) = (number(&svg.root_element(), "width"), number(&svg.root_element(), "height"));
        let boxes = svg.descendants().filter(|node| node.has_tag_name("text")).map(|node| {
            let text = node.text().unwrap().trim();
            let size = node.attribute("font-size").unwrap().parse::<f64>().unwrap() as i32;
            let (x, y, width) = (number(&node, "x"), number(&node, "y"), width(text, size));
            let left = match node.attribute("text-anchor").unwrap() {
                "start" => x,
                "middle" => x - width / 2,
                _ => x - width,
            };
            let top = match node.attribute("dy").unwrap() {
                "0.76em" => y,
                "0.5ex" => y - size / 2,
                _ => y - size,
            };
            (text, [left, left + width], [top, top + size])
        });
        let boxes: Vec<_> = boxes.collect();
        for (number, (text, [left, right], [top, bottom])) in boxes.iter().enumerate() {
            assert!(*left >= 0 && *right <= wide && *top >= 0 && *bottom <= high, "{text} leaves the page");
            for (other, [from, to], [above, below]) in &boxes[..number] {
                assert!(right <= from || to <= left || bottom <= above || below <= top, "{text:?} lies on {other:?}");
            }
        }
    }

    #[test]
    fn figures_have_three_digits() {
        for (value, text) in [
            (0.0, "0"),
            (0.123, "0.12"),
            (1.234, "1.23"),
            (9.999, "10.0"),
            (42.25, "42.2"),
            (123.4, "123"),
            (0.001, "1.0e-3"),
        ] {
            assert_eq!(figure(value), text);
        }
    }
}
