//! Colours that hold on white and on dark pages, and how many pixels a text takes.

use plotters::style::RGBColor;

/// Text, axes and whiskers: about the only grey that is readable on both pages.
pub(crate) const INK: RGBColor = RGBColor(0x79, 0x79, 0x79);

/// Series and contenders. Found by moving the colours of Okabe and Ito until each has 3:1 on both pages and all differ
/// for people with protanopia and deuteranopia; the first ones differ most.
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

/// The colour with this number; past the last one they begin again.
pub(crate) fn colour(number: usize) -> RGBColor {
    PALETTE[number % PALETTE.len()]
}

/// Sizes of text in pixels.
pub(crate) const TITLE: i32 = 18;
pub(crate) const HEADING: i32 = 14;
pub(crate) const LABEL: i32 = 12;
pub(crate) const TICK: i32 = 11;

/// About as wide as `text` can get. The reader's sans-serif is not known; this is DejaVu Sans, one of the widest.
pub(crate) fn width(text: &str, size: i32) -> i32 {
    let ems: f64 = text.chars().map(ems).sum();
    (ems * f64::from(size)).ceil() as i32
}

fn ems(letter: char) -> f64 {
    match letter {
        'i' | 'j' | 'l' | '|' | '\'' => 0.29,
        ' ' | '.' | ',' | ':' | ';' | 'f' | 't' | 'r' | '(' | ')' | '/' | 'I' | '-' => 0.40,
        'm' | 'w' | 'M' | 'W' | '%' | '@' => 0.96,
        'A'..='Z' => 0.72,
        letter if letter.is_ascii() => 0.63,
        _ => 1.0,
    }
}

/// `text`, cut to `room` pixels with an ellipsis where it is longer.
pub(crate) fn fit(text: &str, size: i32, room: i32) -> String {
    if width(text, size) <= room {
        return text.to_owned();
    }
    let mut kept = String::new();
    for letter in text.chars() {
        kept.push(letter);
        if width(&kept, size) + size > room {
            kept.pop();
            break;
        }
    }
    format!("{}…", kept.trim_end())
}

/// `text` in lines of at most `room` pixels, broken at spaces.
pub(crate) fn wrap(text: &str, size: i32, room: i32) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if width(&format!("{line} {word}"), size) <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.iter().map(|line| fit(line, size, room)).collect()
}

/// A figure with three digits that count, and no more than two behind the point.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 0.01 => format!("{value:.1e}"),
        size if size < 9.995 => format!("{value:.2}"),
        size if size < 99.95 => format!("{value:.1}"),
        size if size < 1e6 => format!("{value:.0}"),
        _ => format!("{value:.2e}"),
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

    /// What is left of a colour for eyes that lack one kind of cone (Machado, Oliveira, Fernandes 2009, severity 1), in
    /// Oklab, where distances are about those that are seen.
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
    fn what_is_too_long_is_cut_or_broken_to_fit() {
        assert_eq!(fit("short", 12, 100), "short");
        let cut = fit("a name that is far too long for its column", 12, 100);
        assert!(cut.ends_with('…') && cut.starts_with("a name") && width(&cut, 12) <= 100, "{cut}");
        let lines = wrap("one two three four five six seven", 12, 90);
        assert!(lines.len() > 1 && lines.iter().all(|line| width(line, 12) <= 90), "{lines:?}");
        assert_eq!(lines.join(" "), "one two three four five six seven");
        assert!(wrap("  ", 12, 90).is_empty());
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
