//! The result of a command goes to stdout or into files; everything else goes to stderr.

mod closed;

use std::fmt;
use std::io::{self, Write};
use std::ops::Deref;
use std::path::Path;

use aio::Backend;
use aio_core::shown;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Serialize, Serializer};
use terminal_size::{Width, terminal_size_of};
use textwrap::{Options, WordSplitter};

use crate::failure::Failure;

/// Prints the result of a command: one JSON object, or text.
pub fn result(result: &(impl Serialize + fmt::Display), as_json: bool) -> Result<(), Failure> {
    let text = if as_json { json(result)? } else { result.to_string() };
    print(&text)
}

/// Fails if the process began with stdout closed (`>&-`): Rust then opens /dev/null in its place, which takes
/// everything.
pub fn is_open() -> Result<(), Failure> {
    match closed::at_start() {
        true => Err(Failure::Failed("cannot write the result to stdout: it is closed".to_owned())),
        false => Ok(()),
    }
}

/// A result as one JSON object.
pub fn json(result: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(result)
        .map_err(|error| Failure::Failed(format!("cannot express the result as JSON: {error}")))
}

/// Serializes a path as a JSON string; bytes that are not UTF-8 become U+FFFD.
pub(crate) fn lossy<S: Serializer>(path: &impl AsRef<Path>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.as_ref().display())
}

/// Prints `text` and a line end. Colours go to terminals only, and nowhere with NO_COLOR.
///
/// A reader that stops early (`tensor-aio probe | head -1`) is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    is_open()?;
    let mut stdout = anstream::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::Failed(format!("cannot write the result to stdout: {error}"))),
    }
}

/// Writes a file in one step; if that fails, the file that was there stays.
pub fn to_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let replace = || -> aio::Result<()> {
        let file = aio::builder().backend(Backend::Pthread).build()?.create_atomic(path)?;
        file.write_at(bytes, 0)?;
        Ok(file.commit().wait()?)
    };
    replace().map_err(|error| match error {
        // The user does not know the temporary file.
        aio::Error::Io(error) => cannot_write(path, &error.source),
        error => error.into(),
    })
}

pub(crate) fn cannot_write(path: &Path, reason: &io::Error) -> Failure {
    Failure::Failed(format!("cannot write {}: {reason}", shown(path)))
}

/// A bar or a line on stderr, only if that is a terminal; drop erases it.
#[derive(Debug)]
pub struct Bar(ProgressBar);

impl Bar {
    /// A bar of this length, in the caller's unit. The templates are constants that indicatif accepts.
    pub fn new(length: u64, template: &str) -> Self {
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        Self(ProgressBar::new(length).with_style(style))
    }
}

impl Deref for Bar {
    type Target = ProgressBar;

    fn deref(&self) -> &ProgressBar {
        &self.0
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Columns of a table in a file or a pipe.
const WIDTH: u16 = 110;

/// Formats a table, as wide as the terminal if there is one.
pub fn table<const COLUMNS: usize>(
    header: [&str; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(width());
    let mut longest = header.map(longest_word);
    table.set_header(header);
    for row in rows {
        for (longest, cell) in longest.iter_mut().zip(&row) {
            *longest = longest_word(cell).max(*longest);
        }
        table.add_row(row);
    }
    keep_words(&mut table, &longest);
    table
}

/// One whose columns but the first hold figures.
pub fn figures<const COLUMNS: usize>(
    header: [&str; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> Table {
    let mut table = table(header, rows);
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

/// On a narrow terminal, breaks cells between words, without padding if need be: a number broken within its digits
/// reads as two. Words are broken only where they do not fit in at all.
fn keep_words(table: &mut Table, longest: &[usize]) {
    let (width, borders) = (table.width().map_or(usize::MAX, usize::from), longest.len() + 1);
    let words: usize = longest.iter().sum();
    let Some(padding) = [1, 0].into_iter().find(|padding| words + 2 * padding * longest.len() + borders <= width)
    else {
        return;
    };
    for (column, longest) in table.column_iter_mut().zip(longest) {
        let least = u16::try_from(longest + 2 * padding).unwrap_or(u16::MAX);
        column.set_padding((padding as u16, padding as u16));
        column.set_constraint(ColumnConstraint::LowerBoundary(comfy_table::Width::Fixed(least)));
    }
}

/// Columns of the longest word.
fn longest_word(text: &str) -> usize {
    text.split_whitespace().map(textwrap::core::display_width).max().unwrap_or(0)
}

/// A number of things: `1 tensor`, `2 tensors`.
pub(crate) fn count(number: usize, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

/// A checksum, as files have it.
pub(crate) fn checksum(sum: u64) -> String {
    format!("{sum:016x}")
}

/// What a text says when a signal ended the command early.
pub const PARTIAL: &str = "PARTIAL: interrupted; this is what there was until then";

/// Wraps a paragraph between words; its first line begins with `first`, the others with `rest`.
pub fn wrap(first: &str, rest: &str, text: &str, columns: u16) -> String {
    // Commands must not break at a hyphen or within a path.
    let options = Options::new(columns.into())
        .initial_indent(first)
        .subsequent_indent(rest)
        .break_words(false)
        .word_splitter(WordSplitter::NoHyphenation);
    textwrap::wrap(text, options).join("\n")
}

/// [`wrap`] in as many columns as there are.
pub fn sentence(text: &str) -> String {
    wrap("", "", text, width())
}

/// Columns for text: those of the terminal, if there is one.
pub fn width() -> u16 {
    terminal_size_of(io::stdout()).map_or(WIDTH, |(Width(columns), _)| columns)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn where_no_file_can_be_the_reason_is_said() {
        let dir = tempfile::tempdir().unwrap();
        for (path, reason) in
            [(dir.path().to_owned(), "Is a directory"), (dir.path().join("no/a.svg"), "No such file")]
        {
            let failure = to_file(&path, b"x").unwrap_err().to_string();
            assert!(failure.contains(reason) && failure.contains(path.to_str().unwrap()), "{failure}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let path = dir.path().join("a.svg");
        for bytes in [&b"first"[..], b"2"] {
            to_file(&path, bytes).unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
    }
}
