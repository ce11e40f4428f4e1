//! A sheet to draw on, in pixels from its upper left corner.

use plotters::backend::SVGBackend;
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{DashedPathElement, Drawable, PathElement, PointCollection, Polygon, Rectangle};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, IntoFont, RGBColor, TextStyle};

use super::style::INK;
use aio_cli::failure::Failure;

pub(crate) type Point = (i32, i32);

/// Of every sheet, and around what is on it.
pub(crate) const WIDTH: i32 = 980;
pub(crate) const MARGIN: i32 = 16;

/// Draws with `paint` on a transparent sheet of this height; the SVG.
pub(crate) fn sheet(height: i32, paint: impl FnOnce(&Sheet<'_>) -> Result<(), Failure>) -> Result<String, Failure> {
    let mut svg = String::new();
    let size = (WIDTH.unsigned_abs(), height.unsigned_abs());
    let sheet = Sheet { area: SVGBackend::with_string(&mut svg, size).into_drawing_area() };
    paint(&sheet)?;
    sheet.area.present().map_err(cannot_draw)?;
    drop(sheet);
    Ok(svg)
}

/// Where charts are drawn.
pub(crate) struct Sheet<'svg> {
    area: DrawingArea<SVGBackend<'svg>, Shift>,
}

/// On which side of its point a text lies. It is centred on the point's height.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Side {
    Right,
    Left,
    Middle,
}

impl Sheet<'_> {
    /// Text in ink.
    pub(crate) fn text(&self, at: Point, side: Side, size: i32, text: &str) -> Result<(), Failure> {
        let horizontal = match side {
            Side::Right => HPos::Left,
            Side::Left => HPos::Right,
            Side::Middle => HPos::Center,
        };
        let font = ("sans-serif", f64::from(size) * FONT_SIZE).into_font();
        let style = TextStyle { pos: Pos::new(horizontal, VPos::Center), ..font.color(&INK) };
        self.area.draw_text(&printable(text), &style, at).map_err(cannot_draw)
    }

    pub(crate) fn line(&self, from: Point, to: Point, colour: RGBColor, width: u32) -> Result<(), Failure> {
        self.path(vec![from, to], colour, width)
    }

    pub(crate) fn path(&self, points: Vec<Point>, colour: RGBColor, width: u32) -> Result<(), Failure> {
        self.draw(&PathElement::new(points, colour.stroke_width(width)))
    }

    /// A line that is there without being looked at first: grids.
    pub(crate) fn faint(&self, from: Point, to: Point) -> Result<(), Failure> {
        self.draw(&PathElement::new(vec![from, to], INK.mix(0.25).stroke_width(1)))
    }

    /// A dashed line.
    pub(crate) fn dashes(&self, points: &[Point], colour: RGBColor, width: u32) -> Result<(), Failure> {
        self.draw(&DashedPathElement::new(points.iter().copied(), 5, 4, colour.stroke_width(width)))
    }

    /// A filled rectangle.
    pub(crate) fn block(&self, from: Point, to: Point, colour: RGBColor) -> Result<(), Failure> {
        self.draw(&Rectangle::new([from, to], colour.filled()))
    }

    /// A filled polygon.
    pub(crate) fn polygon(&self, points: Vec<Point>, colour: RGBColor) -> Result<(), Failure> {
        self.draw(&Polygon::new(points, colour))
    }

    /// Any element of plotters.
    pub(crate) fn draw<'svg, 'a, E>(&'a self, element: &'a E) -> Result<(), Failure>
    where
        SVGBackend<'svg>: 'a,
        &'a E: PointCollection<'a, Point>,
        E: for<'any> Drawable<SVGBackend<'any>>,
    {
        self.area.draw(element).map_err(cannot_draw)
    }
}

/// What plotters multiplies into pixels of an SVG.
const FONT_SIZE: f64 = 1.24;

/// Without the control characters that XML does not allow, not even escaped.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

fn cannot_draw(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(format!("cannot draw the chart: {error}"))
}
