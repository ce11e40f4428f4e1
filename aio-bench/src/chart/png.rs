//! A chart as pixels, drawn from its very SVG.

use std::sync::Arc;

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

use aio_cli::failure::Failure;

/// The widest and highest that is drawn: 1 GiB of pixels.
const LARGEST: f32 = 16384.0;

/// `svg` as a PNG of `width` pixels, with a transparent background.
///
/// The letters are DejaVu Sans, which comes with the program: a machine without fonts draws the same picture.
pub(crate) fn png(svg: &str, width: u32) -> Result<Vec<u8>, Failure> {
    let failed = |reason: String| Failure::Failed(format!("cannot draw the chart as PNG: {reason}"));
    let tree = Tree::from_str(svg, &options()).map_err(|error| failed(error.to_string()))?;
    let scale = width as f32 / tree.size().width();
    let height = tree.size().height() * scale;
    if !(1.0..=LARGEST).contains(&height) || !(1.0..=LARGEST).contains(&(width as f32)) {
        return Err(failed(format!("{width} by {height:.0} pixels is not a size from 1 to {LARGEST}")));
    }
    let mut pixels = Pixmap::new(width, height.round() as u32)
        .ok_or_else(|| failed(format!("there is no memory for {width} by {height:.0} pixels")))?;
    resvg::render(&tree, Transform::from_scale(scale, scale), &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| failed(error.to_string()))
}

fn options() -> Options<'static> {
    let mut fonts = fontdb::Database::new();
    fonts.load_font_data(dejavu::sans::regular().to_vec());
    fonts.set_sans_serif_family("DejaVu Sans");
    Options { fontdb: Arc::new(fonts), ..Options::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SVG: &str = r##"<svg width="100" height="50" viewBox="0 0 100 50" xmlns="http://www.w3.org/2000/svg">
        <rect x="0" y="0" width="50" height="10" fill="#D21E00"/>
        <text x="10" y="40" font-family="sans-serif" font-size="20" fill="#797979">words</text></svg>"##;

    fn decoded(png: &[u8]) -> Pixmap {
        Pixmap::decode_png(png).unwrap()
    }

    fn colour(pixels: &Pixmap, x: u32, y: u32) -> (u8, u8, u8, u8) {
        let pixel = pixels.pixel(x, y).unwrap().demultiply();
        (pixel.red(), pixel.green(), pixel.blue(), pixel.alpha())
    }

    #[test]
    fn it_has_the_width_the_shape_and_a_transparent_page() {
        let pixels = decoded(&png(SVG, 300).unwrap());
        assert_eq!((pixels.width(), pixels.height()), (300, 150));
        assert_eq!(colour(&pixels, 100, 15), (0xd2, 0x1e, 0, 0xff));
        assert_eq!(colour(&pixels, 200, 15).3, 0);
    }

    #[test]
    fn letters_are_drawn_without_any_font_of_the_machine() {
        let pixels = decoded(&png(SVG, 200).unwrap());
        let inked = pixels.pixels().iter().filter(|pixel| pixel.demultiply().red() == 0x79 && pixel.alpha() == 255);
        assert!(inked.count() > 100);
    }

    #[test]
    fn sizes_and_texts_that_cannot_be_are_refused() {
        for (svg, width, reason) in
            [(SVG, 0, "0 by 0"), (SVG, 20_000, "20000 by 10000"), ("<svg", 10, "as PNG"), ("<p/>", 10, "as PNG")]
        {
            let failure = png(svg, width).unwrap_err().to_string();
            assert!(failure.contains(reason), "{failure}");
        }
    }
}
