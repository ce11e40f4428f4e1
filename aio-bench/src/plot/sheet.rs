//! What all pictures share: the page with its header, text, and the colours and shapes of series.
//!
//! A picture is one SVG with a transparent background. Its colours can be told apart on a white and on a dark page,
//! also by colour-blind people.

use std::io;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use aio_cli::failure::Failure;

/// Part of a page to draw on, in pixels from its upper left corner.
pub(crate) type Area<'svg> = DrawingArea<SVGBackend<'svg>, Shift>;
pub(crate) type Drawn = Result<(), DrawingAreaErrorKind<io::Error>>;
pub(crate) type Pixel = (i32, i32);

/// Of every page, and around what is on it.
pub(crate) const WIDTH: i32 = 980;
pub(crate) const MARGIN: i32 = 16;

/// Sizes of text in pixels.
pub(crate) const HEADING: i32 = 14;
pub(crate) const LABEL: i32 = 12;
pub(crate) const TICK: i32 = 11;
const TITLE: i32 = 18;

/// Text, axes and whiskers: about the only grey that is readable on both pages.
pub(crate) const INK: RGBColor = RGBColor(0x79, 0x79, 0x79);

/// Colours of series and contenders: those of Okabe and Ito, shifted until each has a contrast of 3:1 on both pages and
/// all differ for people with protanopia and deuteranopia; the first ones differ most.
const PALETTE: [RGBColor; 10] = [
    RGBColor(0x00, 0x5a, 0xd2),
    RGBColor(0xd2, 0x1e, 0x00),
    RGBColor(0x2d, 0xa5, 0x87),
    RGBColor(0x96, 0x5a, 0x96),
    RGBColor(0xc3, 0x87, 0x1e),
    RGBColor(0x78, 0x87, 0xff),
    RGBColor(0x5a, 0x96, 0xc3),
    RGBColor(0x96, 0x4b, 0xff),
    RGBColor(0x5a, 0x69, 0x5a),
    RGBColor(0x1e, 0x78, 0x00),
];

/// The colour of this number; after the last one they repeat.
pub(crate) fn colour(number: usize) -> RGBColor {
    PALETTE[number % PALETTE.len()]
}

/// Draws an SVG of a title, a subtitle and, below them, `height` pixels for `paint`, which gets the whole page, and
/// these.
pub(crate) fn sheet(
    title: &str,
    subtitle: &str,
    height: i32,
    paint: impl FnOnce(&Area<'_>, &Area<'_>) -> Drawn,
) -> Result<String, Failure> {
    const LINE: i32 = LABEL + 5;
    const MOST_LINES: usize = 4;
    let room = WIDTH - 2 * MARGIN;
    let lines = textwrap::wrap(subtitle, (room / width("m", LABEL)) as usize);
    let lines = lines.iter().take(MOST_LINES);
    let head = MARGIN + TITLE + 24 + lines.len() as i32 * LINE;
    let mut svg = String::new();
    let page = SVGBackend::with_string(&mut svg, (WIDTH as u32, (head + height) as u32)).into_drawing_area();
    let draw = || {
        text(&page, (MARGIN, MARGIN + TITLE / 2), HPos::Left, TITLE, &fit(title, TITLE, room))?;
        for (line, number) in lines.zip(0..) {
            let y = MARGIN + TITLE + 16 + number * LINE;
            text(&page, (MARGIN, y), HPos::Left, LABEL, &fit(line, LABEL, room))?;
        }
        paint(&page, &page.split_vertically(head).1)?;
        page.present()
    };
    draw().map_err(|error| Failure::Failed(format!("cannot draw the picture: {error}")))?;
    drop(page);
    Ok(svg)
}

/// Draws text in ink beside its point, centred on the point's height.
pub(crate) fn text(area: &Area<'_>, at: Pixel, side: HPos, size: i32, text: &str) -> Drawn {
    // XML allows neither control characters nor these two, even escaped.
    let allowed = |letter: char| !letter.is_control() && !matches!(letter, '\u{fffe}' | '\u{ffff}');
    let text: String = text.chars().map(|letter| if allowed(letter) { letter } else { '\u{fffd}' }).collect();
    area.draw(&Text::new(text, at, style(size).pos(Pos::new(side, VPos::Center))))
}

/// The style of text of this size, in ink.
pub(crate) fn style(size: i32) -> TextStyle<'static> {
    /// plotters divides sizes by this in an SVG.
    const UNIT: f64 = 1.24;
    ("sans-serif", f64::from(size) * UNIT).into_font().color(&INK)
}

/// Estimates the width of `text` in pixels, for a wide sans-serif font.
pub(crate) fn width(text: &str, size: i32) -> i32 {
    // No drawn text is longer than a page is wide.
    let letters = text.chars().take(WIDTH as usize);
    (letters.map(|letter| if letter.is_ascii() { 3 } else { 5 }).sum::<i32>() * size + 4) / 5
}

/// Cuts `text` to `room` pixels, with an ellipsis.
pub(crate) fn fit(text: &str, size: i32, room: i32) -> String {
    if width(text, size) <= room {
        return text.to_owned();
    }
    let mut kept = String::new();
    for letter in text.chars() {
        // Neither this letter nor the ellipsis is wider than high.
        if width(&kept, size) + 2 * size > room {
            break;
        }
        kept.push(letter);
    }
    kept.trim_end().to_owned() + "…"
}

/// A figure of an axis, without rounding errors of floating point.
pub(crate) fn tick(figure: f64) -> String {
    let figure = format!("{figure:.5e}").parse().unwrap_or(figure);
    if figure == 0.0 || (1e-3..1e6).contains(&figure) { figure.to_string() } else { format!("{figure:e}") }
}

/// How far a marker reaches from its point.
pub(crate) const RADIUS: i32 = 4;

/// Shapes of markers, as corners; a circle has none. Seven shapes and ten colours give 70 series distinct pairs.
const SHAPES: [&[Pixel]; 7] = [
    &[],
    &[(-4, -4), (4, -4), (4, 4), (-4, 4)],
    &[(0, -5), (5, 4), (-5, 4)],
    &[(0, -6), (6, 0), (0, 6), (-6, 0)],
    &[(0, 5), (5, -4), (-5, -4)],
    &[(-5, 0), (-3, -5), (3, -5), (5, 0), (3, 5), (-3, 5)],
    &[(0, -7), (2, -2), (7, 0), (2, 2), (0, 7), (-2, 2), (-7, 0), (-2, -2)],
];

/// Draws the marker of a series, filled or as an outline.
pub(crate) fn marker(area: &Area<'_>, series: usize, (x, y): Pixel, filled: bool) -> Drawn {
    let colour = colour(series);
    let mut corners: Vec<Pixel> = SHAPES[series % SHAPES.len()].iter().map(|(dx, dy)| (x + dx, y + dy)).collect();
    match (corners.is_empty(), filled) {
        (true, true) => area.draw(&Circle::new((x, y), RADIUS, colour.filled())),
        (true, false) => area.draw(&Circle::new((x, y), RADIUS, colour.stroke_width(1))),
        (false, true) => area.draw(&Polygon::new(corners, colour)),
        (false, false) => {
            corners.extend_from_within(..1);
            area.draw(&PathElement::new(corners, colour.stroke_width(1)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHITE: RGBColor = RGBColor(0xff, 0xff, 0xff);
    const DARK: RGBColor = RGBColor(0x0d, 0x11, 0x17);

    fn linear(RGBColor(red, green, blue): RGBColor) -> [f64; 3] {
        [red, green, blue].map(|channel| {
            let channel = f64::from(channel) / 255.0;
            if channel <= 0.04045 { channel / 12.92 } else { ((channel + 0.055) / 1.055).powf(2.4) }
        })
    }

    /// <https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio>
    fn contrast(a: RGBColor, b: RGBColor) -> f64 {
        let [a, b] = [a, b].map(|colour| {
            let [red, green, blue] = linear(colour);
            0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05
        });
        a.max(b) / a.min(b)
    }

    #[test]
    fn contrast_is_as_the_standard_has_it() {
        assert!((contrast(RGBColor(0, 0, 0), WHITE) - 21.0).abs() < 1e-9);
        assert!((contrast(RGBColor(0x77, 0x77, 0x77), WHITE) - 4.48).abs() < 0.01);
    }

    #[test]
    fn everything_stands_out_on_white_and_on_dark() {
        for page in [WHITE, DARK] {
            assert!(contrast(INK, page) >= 4.3, "{}", contrast(INK, page));
            for colour in PALETTE {
                assert!(contrast(colour, page) >= 3.0, "{colour:?}: {}", contrast(colour, page));
            }
        }
    }

    /// How a colour looks to eyes without one kind of cone (Machado, Oliveira, Fernandes 2009, severity 1), in Oklab,
    /// where distances are about those that people see.
    fn seen(colour: RGBColor, eyes: [[f64; 3]; 3]) -> [f64; 3] {
        let times =
            |matrix: [[f64; 3]; 3], v: [f64; 3]| matrix.map(|row| row[0] * v[0] + row[1] * v[1] + row[2] * v[2]);
        let cones = times(
            [
                [0.412_221_470_8, 0.536_332_536_3, 0.051_445_992_9],
                [0.211_903_498_2, 0.680_699_545_1, 0.107_396_956_6],
                [0.088_302_461_9, 0.281_718_837_6, 0.629_978_700_5],
            ],
            times(eyes, linear(colour)).map(|channel| channel.clamp(0.0, 1.0)),
        );
        times(
            [
                [0.210_454_255_3, 0.793_617_785_0, -0.004_072_046_8],
                [1.977_998_495_1, -2.428_592_205_0, 0.450_593_709_9],
                [0.025_904_037_1, 0.782_771_766_2, -0.808_675_766_0],
            ],
            cones.map(f64::cbrt),
        )
    }

    #[test]
    fn colours_differ_for_all_eyes() {
        let all = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
        let no_green = [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]];
        let no_red = [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]];
        for (eyes, least) in [(all, 0.1), (no_green, 0.065), (no_red, 0.065)] {
            for (number, a) in PALETTE.iter().enumerate() {
                for b in &PALETTE[..number] {
                    let [p, q] = [*a, *b].map(|colour| seen(colour, eyes));
                    let distance = (0..3).map(|axis| (p[axis] - q[axis]).powi(2)).sum::<f64>().sqrt();
                    assert!(distance >= least, "{a:?} and {b:?}: {distance}");
                }
            }
        }
    }

    #[test]
    fn what_is_too_long_is_cut_to_fit() {
        assert_eq!(fit("short", 12, 100), "short");
        let cut = fit("a name that is far too long for its column", 12, 100);
        assert!(cut.ends_with('…') && cut.starts_with("a name") && width(&cut, 12) <= 100, "{cut}");
        assert!(fit(&"long".repeat(1 << 20), 18, WIDTH).chars().count() < WIDTH as usize);
    }

    #[test]
    fn the_header_is_well_formed_and_takes_the_lines_that_it_needs() {
        let height = |subtitle: &str| {
            let svg = sheet("all <of> \u{1b}[1m & \u{ffff}", subtitle, 100, |_, _| Ok(())).unwrap();
            let document = roxmltree::Document::parse(&svg).unwrap();
            let title =
                document.descendants().find_map(|node| node.text().map(str::trim).filter(|it| !it.is_empty()));
            assert_eq!(title, Some("all <of> \u{fffd}[1m & \u{fffd}"));
            document.root_element().attribute("height").unwrap().parse::<i32>().unwrap()
        };
        let one = height("one line");
        assert_eq!(height(&"a line of many words ".repeat(8)), one + 17);
        assert_eq!(height(&"a line of many words ".repeat(800)), one + 3 * 17);
    }

    #[test]
    fn series_have_pairs_of_a_colour_and_a_shape_of_their_own() {
        let pair = |series: usize| (colour(series), SHAPES[series % SHAPES.len()]);
        assert!((1..70).all(|series| (0..series).all(|other| pair(series) != pair(other))));
        assert_eq!(pair(70), pair(0));
    }
}
