//! Pictures of saved results of `run`.

mod input;
mod picture;
mod report;
mod series;

use std::path::Path;

use crate::chart;
use crate::cli::PlotArgs;
use aio_cli::failure::Failure;
use aio_cli::interrupt;
use aio_cli::output;
use aio_cli::replace::replace;

use input::Input;
use report::Report;
use series::Plot;

/// Of a PNG, unless another one is asked for: twice that of the drawing, so that text is sharp.
const PNG_WIDTH: u32 = 1960;

/// Draws what the files hold.
pub(crate) fn plot(args: &PlotArgs) -> Result<(), Failure> {
    // Before anything is read: stdin can be read only once.
    let format = Format::of(&args.out)?;
    if args.width.is_some() && format == Format::Svg {
        return Err(Failure::Usage("--width is of a PNG; an SVG has no pixels".to_owned()));
    }
    let input = Input::read(&args.files)?;
    for left_out in &input.left_out {
        eprintln!("note: {left_out}");
    }
    let plot = Plot::new(&input.results, args.x)?;
    let svg = picture::draw(&plot)?;
    let bytes = match format {
        Format::Svg => svg.into_bytes(),
        Format::Png => chart::png(&svg, args.width.unwrap_or(PNG_WIDTH))?,
    };
    interrupt::check()?;
    replace(&args.out, &bytes)?;
    output::result(&Report::new(&args.out, format, &input, &plot), args.json)
}

/// What a picture is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Svg,
    Png,
}

impl Format {
    fn of(out: &Path) -> Result<Self, Failure> {
        let extension = out.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        match extension.as_deref() {
            Some("svg") => Ok(Self::Svg),
            Some("png") => Ok(Self::Png),
            _ => {
                let out = out.display();
                Err(Failure::Usage(format!("--out {out} does not say what to draw: end its name in .svg or .png")))
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Svg => "svg",
            Self::Png => "png",
        }
    }
}
