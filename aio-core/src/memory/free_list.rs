//! Sets of ranges: what is free in which region, and what of a region has been faulted in.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::backend::RegionId;

/// Before every other region.
const FIRST: RegionId = RegionId { slot: 0, generation: 0 };

/// The free ranges of all regions. Neighbours are one range: all that is free side by side can be had in one piece.
#[derive(Debug, Default)]
pub(super) struct FreeList {
    /// Where a range starts, to how long it is.
    by_place: BTreeMap<(RegionId, usize), usize>,
    /// The same as (length, region, start).
    by_size: BTreeSet<(usize, RegionId, usize)>,
    bytes: usize,
}

impl FreeList {
    /// Free bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether `len` bytes are free in one piece.
    pub(super) fn fits(&self, len: usize) -> bool {
        self.by_size.last().is_some_and(|&(largest, ..)| len <= largest)
    }

    /// Takes `len` bytes, more than 0, from the smallest range that has them: from its start or its far end.
    pub(super) fn take(&mut self, len: usize, far_end: bool) -> Option<(RegionId, usize)> {
        let &(found, region, start) = self.by_size.range((len, FIRST, 0)..).next()?;
        self.remove(region, start, found);
        let rest = found - len;
        let (taken, left) = if far_end { (start + rest, start) } else { (start, start + len) };
        self.insert(region, left, rest);
        Some((region, taken))
    }

    /// Takes the start of the largest range, at most `most` bytes: region, start and length.
    pub(super) fn take_largest(&mut self, most: usize) -> Option<(RegionId, usize, usize)> {
        let &(found, region, start) = self.by_size.last()?;
        let len = found.min(most);
        self.remove(region, start, found);
        self.insert(region, start + len, found - len);
        Some((region, start, len))
    }

    /// Adds a range that is not free yet.
    pub(super) fn give(&mut self, region: RegionId, mut start: usize, mut len: usize) {
        if let Some(after) = self.by_place.get(&(region, start + len)).copied() {
            self.remove(region, start + len, after);
            len += after;
        }
        let before = self.by_place.range((region, 0)..(region, start)).next_back().map(|(&(_, at), &len)| (at, len));
        if let Some((at, before)) = before.filter(|(at, len)| at + len == start) {
            self.remove(region, at, before);
            start = at;
            len += before;
        }
        self.insert(region, start, len);
    }

    /// Free bytes of one region.
    pub(super) fn bytes_in(&self, region: RegionId) -> usize {
        self.by_place.range((region, 0)..=(region, usize::MAX)).map(|(_, len)| len).sum()
    }

    /// Removes the ranges that lie at the ends of a part of a region.
    pub(super) fn forget_ends(&mut self, region: RegionId, part: &Range<usize>) -> Vec<Range<usize>> {
        let ranges = || self.by_place.range((region, 0)..=(region, usize::MAX)).map(|(&(_, at), &len)| at..at + len);
        let first = ranges().next().filter(|range| range.start == part.start);
        let last = ranges().next_back().filter(|range| range.end == part.end && first.as_ref() != Some(range));
        let ends: Vec<_> = first.into_iter().chain(last).collect();
        ends.iter().for_each(|range| self.remove(region, range.start, range.len()));
        ends
    }

    /// Removes all ranges of a region.
    pub(super) fn forget(&mut self, region: RegionId) -> Vec<Range<usize>> {
        let ranges = self.by_place.range((region, 0)..=(region, usize::MAX));
        let ranges: Vec<_> = ranges.map(|(&(_, start), &len)| start..start + len).collect();
        ranges.iter().for_each(|range| self.remove(region, range.start, range.len()));
        ranges
    }

    fn insert(&mut self, region: RegionId, start: usize, len: usize) {
        if len > 0 {
            self.by_place.insert((region, start), len);
            self.by_size.insert((len, region, start));
            self.bytes += len;
        }
    }

    fn remove(&mut self, region: RegionId, start: usize, len: usize) {
        self.by_place.remove(&(region, start));
        self.by_size.remove(&(len, region, start));
        self.bytes -= len;
    }

    /// All ranges, by place.
    #[cfg(test)]
    pub(super) fn ranges(&self) -> Vec<(RegionId, Range<usize>)> {
        let by_size = self.by_size.iter().map(|&(len, region, start)| ((region, start), len));
        assert_eq!(self.by_place, by_size.collect());
        assert_eq!(self.bytes, self.by_place.values().sum::<usize>());
        self.by_place.iter().map(|(&(region, start), len)| (region, start..start + len)).collect()
    }
}

/// A set of numbers as ranges that do not touch.
#[derive(Debug, Default)]
pub(super) struct RangeSet(BTreeMap<usize, usize>);

impl RangeSet {
    /// What of `range` is not in the set.
    pub(super) fn gaps(&self, range: Range<usize>) -> Vec<Range<usize>> {
        let mut gaps = Vec::new();
        let mut at = self.end_of_range_at(range.start).map_or(range.start, |(_, end)| end.max(range.start));
        for (&start, &end) in self.0.range(range.start + 1..) {
            if start >= range.end {
                break;
            }
            gaps.push(at..start);
            at = end;
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }

    /// Adds all of `range`.
    pub(super) fn add(&mut self, mut range: Range<usize>) {
        if let Some((start, end)) = self.end_of_range_at(range.start).filter(|&(_, end)| end >= range.start) {
            range = start..end.max(range.end);
        }
        while let Some((&start, &end)) = self.0.range(range.start..=range.end).next() {
            self.0.remove(&start);
            range.end = end.max(range.end);
        }
        self.0.insert(range.start, range.end);
    }

    /// The last range that starts at `at` or before.
    fn end_of_range_at(&self, at: usize) -> Option<(usize, usize)> {
        self.0.range(..=at).next_back().map(|(&start, &end)| (start, end))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Ranges of the numbers that `has` accepts, per region.
    fn runs(has: impl Fn(usize) -> bool, below: usize) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for at in (0..below).filter(|&at| has(at)) {
            match runs.last_mut() {
                Some(run) if run.end == at => run.end += 1,
                _ => runs.push(at..at + 1),
            }
        }
        runs
    }

    const REGIONS: usize = 3;
    const SIZE: usize = 40;

    fn id(slot: usize) -> RegionId {
        RegionId { slot: slot as u32, generation: 5 }
    }

    proptest! {
        #[test]
        fn the_free_list_agrees_with_a_map_of_pages(
            steps in prop::collection::vec((0..6_u8, 1..24_usize, any::<prop::sample::Index>()), 1..120),
        ) {
            let mut list = FreeList::default();
            let mut free = [[false; SIZE]; REGIONS];
            let mut taken = Vec::new();
            for region in 0..REGIONS {
                taken.push((region, 0, SIZE));
            }
            for (what, len, index) in steps {
                let longest = (0..REGIONS).flat_map(|r| runs(|at| free[r][at], SIZE)).map(|run| run.len()).max();
                let cut = match what {
                    0 | 1 => list.take(len, what == 1).map(|(region, start)| (region, start, len)),
                    2 => list.take_largest(len),
                    3 => {
                        let region = index.index(REGIONS);
                        let forgotten = list.forget(id(region));
                        prop_assert_eq!(&forgotten, &runs(|at| free[region][at], SIZE));
                        prop_assert_eq!(list.bytes_in(id(region)), 0);
                        for range in forgotten {
                            free[region][range.clone()].fill(false);
                            taken.push((region, range.start, range.len()));
                        }
                        None
                    }
                    4 => {
                        let region = index.index(REGIONS);
                        let part = len / 2..SIZE - len / 3;
                        let mut ends = runs(|at| free[region][at], SIZE);
                        let last = ends.len().saturating_sub(1);
                        let mut at = 0..;
                        ends.retain(|run| {
                            let at = at.next();
                            at == Some(0) && run.start == part.start || at == Some(last) && run.end == part.end
                        });
                        prop_assert_eq!(&list.forget_ends(id(region), &part), &ends);
                        for range in ends {
                            free[region][range.clone()].fill(false);
                            taken.push((region, range.start, range.len()));
                        }
                        None
                    }
                    _ if taken.is_empty() => continue,
                    _ => {
                        let (region, start, len) = taken.swap_remove(index.index(taken.len()));
                        free[region][start..start + len].fill(true);
                        list.give(id(region), start, len);
                        None
                    }
                };
                match cut {
                    Some((RegionId { slot: region, .. }, start, len)) => {
                        let pages = &mut free[region as usize][start..start + len];
                        prop_assert!(len > 0 && pages.iter().all(|&free| free), "handed out twice");
                        pages.fill(false);
                        taken.push((region as usize, start, len));
                    }
                    None if what < 2 => prop_assert!(longest.is_none_or(|longest| longest < len)),
                    None if what == 2 => prop_assert_eq!(longest, None),
                    None => {}
                }
                let expected: Vec<_> = (0..REGIONS)
                    .flat_map(|r| runs(|at| free[r][at], SIZE).into_iter().map(move |run| (id(r), run)))
                    .collect();
                prop_assert_eq!(list.ranges(), expected);
                prop_assert_eq!(list.bytes(), free.as_flattened().iter().filter(|&&free| free).count());
            }
        }

        #[test]
        fn a_range_set_agrees_with_a_set_of_numbers(ranges in prop::collection::vec((0..60_usize, 1..20_usize), 1..30)) {
            let (mut set, mut model) = (RangeSet::default(), BTreeSet::new());
            for (start, len) in ranges {
                let range = start..start + len;
                let gaps = runs(|at| range.contains(&at) && !model.contains(&at), 80);
                prop_assert_eq!(set.gaps(range.clone()), gaps);
                set.add(range.clone());
                model.extend(range);
                let all: Vec<_> = set.0.iter().map(|(&start, &end)| start..end).collect();
                prop_assert_eq!(all, runs(|at| model.contains(&at), 80));
            }
        }
    }
}
