//! Shapes by which series are told apart where colours do not do it.

use plotters::element::Circle;
use plotters::style::{Color, RGBColor};

use super::sheet::{Point, Sheet};
use aio_cli::failure::Failure;

/// How far a marker reaches from its point.
pub(crate) const RADIUS: i32 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marker {
    Circle,
    Square,
    Triangle,
    Diamond,
    /// A triangle that stands on its tip.
    Wedge,
    Hexagon,
    Star,
}

impl Marker {
    /// The shape of a series. As there are seven shapes and ten colours, 70 series have a pair of their own.
    pub(crate) fn of(series: usize) -> Self {
        use Marker::*;
        [Circle, Square, Triangle, Diamond, Wedge, Hexagon, Star][series % 7]
    }

    /// Draws it filled, or as an outline.
    pub(crate) fn draw(self, sheet: &Sheet<'_>, at: Point, colour: RGBColor, filled: bool) -> Result<(), Failure> {
        if self == Self::Circle {
            let style = if filled { colour.filled() } else { colour.stroke_width(1) };
            return sheet.draw(&Circle::new(at, RADIUS, style));
        }
        let mut corners: Vec<Point> = self.corners().iter().map(|(x, y)| (at.0 + x, at.1 + y)).collect();
        if filled {
            return sheet.polygon(corners, colour);
        }
        corners.extend_from_within(..1);
        sheet.path(corners, colour, 1)
    }

    /// Of all but the circle, around the point. They reach somewhat further than it, to look as large.
    fn corners(self) -> &'static [Point] {
        match self {
            Self::Circle => &[],
            Self::Square => &[(-4, -4), (4, -4), (4, 4), (-4, 4)],
            Self::Triangle => &[(0, -5), (5, 4), (-5, 4)],
            Self::Diamond => &[(0, -6), (6, 0), (0, 6), (-6, 0)],
            Self::Wedge => &[(0, 5), (5, -4), (-5, -4)],
            Self::Hexagon => &[(-5, 0), (-3, -5), (3, -5), (5, 0), (3, 5), (-3, 5)],
            Self::Star => &[(0, -7), (2, -2), (7, 0), (2, 2), (0, 7), (-2, 2), (-7, 0), (-2, -2)],
        }
    }
}
