//! Findings: what could be better, how severe it is, and what to type or change.
//!
//! Findings follow from the report alone, so tests can make up a machine for each.

mod backends;
mod folder;
mod kernel;
mod limits;

use serde::Serialize;

use super::report::Report;

/// One thing that could be better.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// A stable name for programs.
    pub(crate) id: &'static str,
    /// One sentence, with the figures.
    pub(crate) what: String,
    /// What to type or change, the easiest first: alternatives, or a temporary and a permanent way.
    pub(crate) remedy: Vec<String>,
}

/// The severity of a finding, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// A backend or direct I/O cannot be used at all, or nothing works.
    Error,
    /// It works, but slower, or will fail under load.
    Warning,
    /// Good to know.
    Note,
}

/// All findings of a report, the worst first.
pub(crate) fn findings(report: &Report) -> Vec<Finding> {
    let parts = [backends::findings, folder::findings, limits::findings, kernel::findings];
    let mut found: Vec<_> = parts.iter().flat_map(|part| part(report)).collect();
    found.sort_by_key(|finding| finding.severity);
    found
}

fn finding<const N: usize>(
    severity: Severity,
    id: &'static str,
    what: impl Into<String>,
    remedy: [&str; N],
) -> Finding {
    Finding { severity, id, what: what.into(), remedy: remedy.map(str::to_owned).into() }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::healthy;
    use super::*;

    const TROUBLESHOOTING: &str = include_str!("../../../docs/troubleshooting.md");

    /// Changes a healthy report; returns severity, id and text of its findings, after a check that each is printable
    /// and on the page that explains findings.
    pub(super) fn found(change: impl FnOnce(&mut Report)) -> Vec<(Severity, &'static str, String)> {
        let mut report = healthy();
        change(&mut report);
        let found = findings(&report);
        for Finding { id, what, remedy, .. } in &found {
            assert!(id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{id}");
            assert!(!remedy.is_empty(), "{id} has no remedy");
            assert!(TROUBLESHOOTING.contains(&format!("`{id}`")), "{id} is not explained");
            for text in remedy.iter().chain([what]) {
                let whole = !text.ends_with('.') && !text.contains("  ") && !text.contains('\n');
                assert!(whole && text.trim() == text && text.is_ascii(), "{id}: {text}");
            }
        }
        let words = |finding: Finding| [vec![finding.what], finding.remedy].concat().join("\n");
        found.into_iter().map(|finding| (finding.severity, finding.id, words(finding))).collect()
    }

    /// Checks that this is the only finding, and that its text has these words.
    #[track_caller]
    pub(super) fn assert_only(severity: Severity, id: &str, words: &[&str], change: impl FnOnce(&mut Report)) {
        let found = found(change);
        assert_eq!(found.iter().map(|(severity, id, _)| (*severity, *id)).collect::<Vec<_>>(), [(severity, id)]);
        for word in words {
            assert!(found[0].2.contains(word), "{word}\n{}", found[0].2);
        }
    }

    #[test]
    fn a_healthy_machine_has_none() {
        assert_eq!(found(|_| {}), []);
    }

    #[test]
    fn what_could_not_be_found_out_is_no_finding() {
        let unknown = |report: &mut Report| {
            (report.memlock, report.open_files, report.file_size, report.aio_slots) = (None, None, None, None);
            (report.io_uring_disabled, report.kernel, report.dir.free_bytes) = (None, None, None);
        };
        assert_eq!(found(unknown), []);
    }

    #[test]
    fn the_worst_comes_first() {
        // The checks run in an order in which the note comes first.
        let found = found(|report| {
            report.io_uring_disabled = Some(1);
            report.dir.direct_io = None;
            (report.huge_pages.transparent, report.huge_pages.collapse) = (Some("never".to_owned()), false);
        });
        let severities: Vec<_> = found.iter().map(|(severity, ..)| *severity).collect();
        assert_eq!(severities, [Severity::Error, Severity::Warning, Severity::Note]);
    }
}
