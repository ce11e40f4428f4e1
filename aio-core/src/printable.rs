//! Text from outside, such as paths, in errors and log lines: without what a terminal would obey, and on one line.

use std::fmt::{self, Display, Write};
use std::path::Path;

/// Shows a text with its control characters, but tabs, escaped as Rust writes them.
#[derive(Debug, Clone, Copy)]
pub struct Printable<T>(pub T);

/// A path in a sentence; an empty one as `""`.
pub fn shown(path: &Path) -> impl Display + '_ {
    let path = if path.as_os_str().is_empty() { Path::new("\"\"") } else { path };
    Printable(path.display())
}

impl<T: Display> Display for Printable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

struct Escaping<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let is_obeyed = |letter: char| letter.is_control() && letter != '\t';
        text.chars().try_for_each(|letter| match is_obeyed(letter) {
            true => write!(self.0, "{}", letter.escape_default()),
            false => self.0.write_char(letter),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn control_characters_are_escaped_and_nothing_else() {
        assert_eq!(Printable("a \u{1b}[31m\r\n\tb\u{9b} é\\").to_string(), "a \\u{1b}[31m\\r\\n\tb\\u{9b} é\\");
        assert_eq!(shown(Path::new("/a\nb")).to_string(), "/a\\nb");
        assert_eq!(shown(Path::new(OsStr::from_bytes(b"/\x07\xff"))).to_string(), "/\\u{7}\u{fffd}");
        assert_eq!(shown(Path::new("")).to_string(), "\"\"");
    }
}
