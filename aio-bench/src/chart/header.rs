//! What is above the panels: a title, and lines below it.

use super::sheet::{MARGIN, Sheet, Side, WIDTH};
use super::style::{self, LABEL, TITLE};
use aio_cli::failure::Failure;

const LINE: i32 = LABEL + 5;

/// A title and a subtitle, which takes as many lines as it needs.
pub(crate) struct Header {
    title: String,
    lines: Vec<String>,
}

impl Header {
    pub(crate) fn new(title: &str, subtitle: &str) -> Self {
        let room = WIDTH - 2 * MARGIN;
        Self { title: style::fit(title, TITLE, room), lines: style::wrap(subtitle, LABEL, room) }
    }

    /// Where it ends and panels may begin.
    pub(crate) fn bottom(&self) -> i32 {
        MARGIN + TITLE + 10 + self.lines.len() as i32 * LINE + 14
    }

    pub(crate) fn draw(&self, sheet: &Sheet<'_>) -> Result<(), Failure> {
        sheet.text((MARGIN, MARGIN + TITLE / 2), Side::Right, TITLE, &self.title)?;
        for (number, line) in self.lines.iter().enumerate() {
            sheet.text((MARGIN, MARGIN + TITLE + 16 + number as i32 * LINE), Side::Right, LABEL, line)?;
        }
        Ok(())
    }
}
