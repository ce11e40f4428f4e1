//! How an op may end.

use aio::Error;
use aio::op::Direction;
use aio_testkit::fault::Plan;

/// How an op may end, by the planned faults and what the test did to it.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    /// Errors of the bad pages that it touches; it has to fail with one of them.
    bad_pages: Vec<i32>,
    cancelled: bool,
}

/// How an op ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It succeeded.
    Done,
    /// It failed with the error of a bad page.
    Planned,
    Cancelled,
    /// It ended in a way it must not, as this sentence says.
    Wrong(String),
}

impl Expected {
    /// The expectation for an op on these (offset, length) ranges of a file.
    pub(crate) fn new(
        plan: Option<&Plan>,
        write: bool,
        validate: bool,
        stretches: impl IntoIterator<Item = (u64, usize)>,
    ) -> Self {
        let Some(plan) = plan else { return Self::default() };
        let mut bad_pages = Vec::new();
        for (offset, len) in stretches {
            let mut errors = |direction| bad_pages.extend(plan.errors(direction, offset, len as u64));
            if write {
                errors(Direction::Write);
            }
            if !write || validate {
                errors(Direction::Read);
            }
        }
        Self { bad_pages, cancelled: false }
    }

    pub(crate) fn cancel(&mut self) {
        self.cancelled = true;
    }

    pub(crate) fn may_fail(&self) -> bool {
        self.must_fail() || self.cancelled
    }

    pub(crate) fn must_fail(&self) -> bool {
        !self.bad_pages.is_empty()
    }

    pub(crate) fn judge(&self, error: Option<&Error>) -> Verdict {
        match error {
            None if self.must_fail() => {
                Verdict::Wrong("an op on pages that cannot be transferred ended well".to_owned())
            }
            None => Verdict::Done,
            Some(Error::Cancelled { .. }) if self.cancelled => Verdict::Cancelled,
            Some(error) if error.raw_os_error().is_some_and(|errno| self.bad_pages.contains(&errno)) => {
                Verdict::Planned
            }
            Some(error) => Verdict::Wrong(error.to_string()),
        }
    }

    /// Checks failures that do not name their op against all these ops; returns a sentence if they do not fit.
    pub(crate) fn explain(ops: &[&Self], errors: &[Error]) -> Option<String> {
        let least = ops.iter().filter(|op| op.must_fail() && !op.cancelled).count();
        let most = ops.iter().filter(|op| op.may_fail()).count();
        let is_wrong = |error: &&Error| ops.iter().all(|op| matches!(op.judge(Some(error)), Verdict::Wrong(_)));
        if let Some(error) = errors.iter().find(is_wrong) {
            return Some(error.to_string());
        }
        let fits = (least..=most).contains(&errors.len());
        (!fits).then(|| format!("{} ops failed, and not {least} to {most}", errors.len()))
    }
}

#[cfg(test)]
mod tests {
    use aio::error::OpKind;
    use aio_testkit::fault::Faults;

    use super::*;

    fn cancelled() -> Error {
        Error::Cancelled { op: OpKind::Read, path: "t".into(), bytes: 0 }
    }

    #[test]
    fn only_what_was_provoked_may_fail() {
        let plain = Expected::default();
        assert_eq!(plain.judge(None), Verdict::Done);
        assert!(matches!(plain.judge(Some(&cancelled())), Verdict::Wrong(_)));
        let mut asked = Expected::default();
        asked.cancel();
        assert_eq!((asked.judge(None), asked.judge(Some(&cancelled()))), (Verdict::Done, Verdict::Cancelled));
        assert!(matches!(asked.judge(Some(&Error::Closed)), Verdict::Wrong(_)));
    }

    #[test]
    fn what_touches_a_bad_page_must_fail() {
        let plan = Plan::new(1, Faults { bad_pages: 1000, ..Faults::default() });
        let expected = Expected::new(Some(&plan), false, false, [(0, 100)]);
        assert!(matches!(expected.judge(None), Verdict::Wrong(_)));
        assert!(matches!(expected.judge(Some(&Error::Closed)), Verdict::Wrong(_)));
        assert!(Expected::new(Some(&plan), false, false, [(0, 0)]).bad_pages.is_empty());
    }

    #[test]
    fn failures_without_a_name_are_counted() {
        let plan = Plan::new(1, Faults { bad_pages: 1000, ..Faults::default() });
        let (plain, bad) = (Expected::default(), Expected::new(Some(&plan), false, false, [(0, 100)]));
        let mut asked = Expected::default();
        asked.cancel();
        assert_eq!(Expected::explain(&[&plain, &asked], &[]), None);
        assert_eq!(Expected::explain(&[&plain, &asked], &[cancelled()]), None);
        assert!(Expected::explain(&[&plain], &[cancelled()]).is_some());
        assert!(Expected::explain(&[&asked], &[cancelled(), cancelled()]).unwrap().contains("2 ops failed"));
        assert!(Expected::explain(&[&bad], &[]).unwrap().contains("0 ops failed, and not 1 to 1"));
    }
}
