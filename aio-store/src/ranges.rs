//! A set of bytes, as ranges.

use std::collections::BTreeMap;
use std::ops::Range;

/// Ranges that neither overlap nor touch.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Ranges {
    /// Ends by beginnings.
    ends: BTreeMap<u64, u64>,
}

impl Ranges {
    /// Whether any of these bytes is in the set.
    pub(crate) fn overlaps(&self, range: &Range<u64>) -> bool {
        let before = self.ends.range(..range.end).next_back();
        !range.is_empty() && before.is_some_and(|(_, end)| *end > range.start)
    }

    /// Adds bytes.
    pub(crate) fn insert(&mut self, range: Range<u64>) {
        let Range { mut start, mut end } = range;
        if start == end {
            return;
        }
        while let Some((&other, &other_end)) = self.ends.range(..=end).next_back().filter(|(_, to)| **to >= start) {
            self.ends.remove(&other);
            start = start.min(other);
            end = end.max(other_end);
        }
        self.ends.insert(start, end);
    }

    /// Whether all of these bytes are in the set.
    pub(crate) fn covers(&self, range: Range<u64>) -> bool {
        let around = self.ends.range(..=range.start).next_back();
        range.is_empty() || around.is_some_and(|(_, end)| *end >= range.end)
    }

    /// The first bytes of `0..len` that are not in the set.
    pub(crate) fn first_gap(&self, len: u64) -> Option<Range<u64>> {
        let begin = self.ends.get(&0).copied().unwrap_or(0);
        let end = self.ends.range(begin..).next().map_or(len, |(next, _)| *next);
        (begin < len).then_some(begin..end.min(len))
    }

    /// In rising order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.ends.iter().map(|(start, end)| *start..*end)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn they_are_the_bytes_that_were_inserted(inserted in prop::collection::vec((0u64..40, 0u64..12), 0..20), probe in (0u64..50, 0u64..12)) {
            let (mut ranges, mut model) = (Ranges::default(), BTreeSet::new());
            let probe = probe.0..probe.0 + probe.1;
            for (start, len) in inserted {
                let range = start..start + len;
                prop_assert_eq!(ranges.overlaps(&range), range.clone().any(|byte| model.contains(&byte)));
                ranges.insert(range.clone());
                model.extend(range);
            }
            prop_assert_eq!(ranges.covers(probe.clone()), probe.clone().all(|byte| model.contains(&byte)));
            prop_assert_eq!(ranges.iter().flatten().collect::<BTreeSet<_>>(), model.clone());
            let neighbours: Vec<_> = ranges.iter().collect();
            prop_assert!(neighbours.windows(2).all(|pair| pair[0].end < pair[1].start));
            let gap = ranges.first_gap(30);
            let missing = (0..30).find(|byte| !model.contains(byte));
            prop_assert_eq!(gap.as_ref().map(|gap| gap.start), missing);
            if let Some(gap) = gap {
                prop_assert!(gap.clone().all(|byte| !model.contains(&byte)));
                prop_assert!(gap.end == 30 || model.contains(&gap.end));
            }
        }
    }
}
