//! Findings for people to read.

use std::fmt;

use anstyle::{AnsiColor, Style};

use crate::output::wrap;
use crate::probe::findings::{Finding, Severity};

/// Writes findings in `width` columns, remedies indented below, with styles that the printer may strip.
pub(super) fn write(f: &mut fmt::Formatter<'_>, findings: &[Finding], width: u16) -> fmt::Result {
    if findings.is_empty() {
        return write!(f, "\nfindings: none");
    }
    for Finding { severity, id, what, remedy } in findings {
        let (word, style) = severity.shown();
        write!(f, "\n{style}{word}[{id}]{style:#}")?;
        write!(f, "\n{}", wrap("  ", "  ", what, width))?;
        for step in remedy {
            write!(f, "\n{}", wrap("  - ", "    ", step, width))?;
        }
        writeln!(f)?;
    }
    write!(f, "\nfindings: {}", counts(findings))
}

impl Severity {
    fn shown(self) -> (&'static str, Style) {
        let bold = |color: AnsiColor| color.on_default().bold();
        match self {
            Self::Error => ("error", bold(AnsiColor::Red)),
            Self::Warning => ("warning", bold(AnsiColor::Yellow)),
            Self::Note => ("note", bold(AnsiColor::Cyan)),
        }
    }
}

/// `1 error, 2 warnings`.
fn counts(findings: &[Finding]) -> String {
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let shown = [Severity::Error, Severity::Warning, Severity::Note].map(|severity| {
        match (count(severity), severity.shown().0) {
            (0, _) => None,
            (1, word) => Some(format!("1 {word}")),
            (count, word) => Some(format!("{count} {word}s")),
        }
    });
    shown.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Shown(Vec<Finding>, u16);

    impl fmt::Display for Shown {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write(f, &self.0, self.1)
        }
    }

    fn plain(findings: Vec<Finding>, width: u16) -> String {
        anstream::adapter::strip_str(&Shown(findings, width).to_string()).to_string()
    }

    #[test]
    fn lines_are_wrapped_and_what_is_typed_stays_whole() {
        let finding = |severity, id| Finding {
            severity,
            id,
            what: "one two three four five".to_owned(),
            remedy: vec!["`sysctl -w fs.aio-max-nr=1048576`".to_owned(), "or not".to_owned()],
        };
        let found =
            vec![finding(Severity::Error, "a"), finding(Severity::Warning, "b"), finding(Severity::Warning, "c")];
        let text = plain(found, 20);
        let first =
            "\nerror[a]\n  one two three four\n  five\n  - `sysctl -w\n    fs.aio-max-nr=1048576`\n  - or not\n";
        assert!(text.starts_with(first), "{text}");
        assert!(text.ends_with("\n\nfindings: 1 error, 2 warnings"), "{text}");
    }

    #[test]
    fn nothing_found_is_said() {
        assert_eq!(plain(Vec::new(), 80), "\nfindings: none");
    }
}
