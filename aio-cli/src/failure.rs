//! Why a command ends with another exit code than 0.

use std::fmt;
use std::io::{self, Write};

use aio_core::Printable;

/// What a command failed with, which gives its exit code.
#[derive(Debug)]
pub enum Failure {
    /// The command line asks for something impossible: exit code 2.
    Usage(String),
    /// The command tried and failed, or data did not verify: exit code 1.
    Failed(String),
    /// `probe` found what `--fail-on` names, as this sentence says: exit code 3.
    Found(String),
    /// A signal asked for an early end: exit code 128 + its number, as shells report it.
    Interrupted(i32),
}

impl Failure {
    /// The process's exit code.
    fn exit_code(&self) -> i32 {
        match self {
            Self::Usage(_) => 2,
            Self::Failed(_) => 1,
            Self::Found(_) => 3,
            Self::Interrupted(signal) => 128 + signal,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(sentence) => {
                shown(f, sentence)?;
                f.write_str("\n\nFor more information, try '--help'.")
            }
            Self::Failed(sentence) | Self::Found(sentence) => shown(f, sentence),
            Self::Interrupted(_) => {
                f.write_str("interrupted: nothing is in flight any more, data files made were removed")
            }
        }
    }
}

/// Writes `sentence` with control characters escaped, line by line: TOML's errors have several lines.
fn shown(f: &mut fmt::Formatter<'_>, sentence: &str) -> fmt::Result {
    let mut lines = sentence.split('\n');
    lines.next().map_or(Ok(()), |line| write!(f, "{}", Printable(line)))?;
    lines.try_for_each(|line| write!(f, "\n{}", Printable(line)))
}

impl From<aio::Error> for Failure {
    fn from(error: aio::Error) -> Self {
        match error {
            aio::Error::Config { key, value, accepted } => {
                Self::Usage(format!("{} = {value} is not valid: {accepted}", option(&key)))
            }
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// Prints a failure on stderr, and returns its exit code.
pub fn tell(failure: &Failure) -> i32 {
    // The exit code still tells the failure where stderr fails.
    let _ = writeln!(io::stderr(), "error: {failure}");
    failure.exit_code()
}

/// The system refuses to start a thread.
pub fn no_thread(error: io::Error) -> Failure {
    Failure::Failed(format!(
        "cannot start a thread: {error}; RLIMIT_NPROC (ulimit -u) and pids.max of the control group limit their number"
    ))
}

/// A text from outside as part of a sentence: one line, of bounded length, with control characters escaped.
pub fn one_line(text: &str) -> String {
    const CHARS: usize = 400;
    // One more than the limit, to see whether there is more.
    let end = text.char_indices().nth(CHARS + 1).map_or(text.len(), |(end, _)| end);
    let escaped = Printable(&text[..end]).to_string();
    match escaped.char_indices().nth(CHARS) {
        Some((end, _)) => escaped[..end].to_owned() + "...",
        None => escaped,
    }
}

/// The command line's name for the configuration's `key`.
fn option(key: &str) -> &str {
    match key {
        "queue_depth" => "--queue-depth",
        "block_size" => "--block-size",
        "intra_op_parallelism" => "--threads",
        other => other,
    }
}

impl From<aio::tensor::Error> for Failure {
    fn from(error: aio::tensor::Error) -> Self {
        match error {
            aio::tensor::Error::Io(error) => error.into(),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl<B> From<aio::error::OpError<B>> for Failure {
    fn from(failed: aio::error::OpError<B>) -> Self {
        aio::Error::from(failed).into()
    }
}

#[cfg(test)]
mod tests {
    use super::{Failure, one_line};

    #[test]
    fn what_a_terminal_would_obey_is_escaped_and_what_is_long_is_cut() {
        assert_eq!(one_line("a \u{1b}[31m\r\n\tb\u{9b} é"), "a \\u{1b}[31m\\r\\n\tb\\u{9b} é");
        assert_eq!(one_line(&"é".repeat(400)), "é".repeat(400));
        assert_eq!(one_line(&"é".repeat(401)), "é".repeat(400) + "...");
        assert_eq!(one_line(&"\0".repeat(100)), "\\u{0}".repeat(80) + "...");
        assert_eq!(Failure::Failed("a\u{1b}[31m\n  b\r".to_owned()).to_string(), "a\\u{1b}[31m\n  b\\r");
        assert!(Failure::Usage("a\u{7}".to_owned()).to_string().starts_with("a\\u{7}\n\nFor more"));
    }
}
