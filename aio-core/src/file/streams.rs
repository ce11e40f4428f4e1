//! Whether blocking calls run through a file one after the other.
//!
//! A call alone asks the device for what is its own, and the next call comes when the device has answered: small calls
//! leave it idle most of the time. The page cache does better. The kernel reads ahead of a reader, and writes out behind
//! a writer. So once a few calls have followed each other, those that go on where the last one ended go through the
//! cache, if they are at most [`LARGEST`] bytes long. Others of the same file are as before.
//!
//! What this finds decides about the way alone, so calls on several threads may see each other's half of an update.

use std::os::fd::BorrowedFd;

use crate::file::inode::Inode;
use crate::file::sys::sync_file_range::begin_write_back;
use crate::sync::{AtomicU64, Ordering};

/// A stream's calls are at most so long: larger ones keep the device busy by themselves.
const LARGEST: usize = 256 << 10;
/// So many calls that went on make a stream.
const FEW: u64 = 3;
/// Between two of its calls, a stream outlives about so many calls elsewhere in the file, times [`PLACES`].
const LASTS: u64 = 8;
/// So many streams at once are told apart.
const PLACES: usize = 4;
/// Bytes after which a stream of writes is written out. Larger stretches were no faster.
const STRETCH: u64 = 4 << 20;

/// The streams of an open file.
#[derive(Debug, Default)]
pub(super) struct FileStreams {
    reads: Streams,
    writes: Streams,
}

impl FileStreams {
    /// Whether a read goes on with a stream. One begins only while no write to the inode is in flight, and ends with the
    /// next one that is accepted.
    pub(super) fn goes_on_reading(&self, inode: &Inode, offset: u64, len: usize) -> bool {
        self.reads.end_if_changed(inode.changes());
        is_of_a_size(len) && self.reads.go_on(offset, len, || !inode.write_back.has_writes_in_flight())
    }

    /// Whether a write goes on with a stream.
    pub(super) fn goes_on_writing(&self, offset: u64, len: usize) -> bool {
        is_of_a_size(len) && self.writes.go_on(offset, len, || true)
    }
}

/// Whether a call may be of a stream. An empty write must not be: it makes no file longer.
fn is_of_a_size(len: usize) -> bool {
    (1..=LARGEST).contains(&len)
}

/// The streams of calls in one direction.
#[derive(Debug, Default)]
struct Streams {
    places: [Place; PLACES],
    /// Calls that went on from no place.
    elsewhere: AtomicU64,
    /// The inode's, when the last of these calls was made.
    changes: AtomicU64,
}

/// Where a stream goes on, or may begin.
#[derive(Debug, Default)]
struct Place {
    next: AtomicU64,
    /// How many calls went on from here, at most [`LASTS`]; fewer again as calls go elsewhere.
    calls: AtomicU64,
}

impl Streams {
    /// Whether this call goes on with a stream. `may_begin` is asked before a stream begins.
    fn go_on(&self, offset: u64, len: usize, may_begin: impl FnOnce() -> bool) -> bool {
        let end = offset.saturating_add(len as u64);
        let Some(place) = self.places.iter().find(|place| place.next.load(Ordering::Relaxed) == offset) else {
            let elsewhere = self.elsewhere.fetch_add(1, Ordering::Relaxed);
            let place = &self.places[elsewhere as usize % PLACES];
            match place.calls.load(Ordering::Relaxed) {
                0 => place.next.store(end, Ordering::Relaxed),
                calls => place.calls.store(calls - 1, Ordering::Relaxed),
            }
            return false;
        };
        place.next.store(end, Ordering::Relaxed);
        let calls = place.calls.load(Ordering::Relaxed) + 1;
        if calls == FEW && !may_begin() {
            return false;
        }
        place.calls.store(calls.min(LASTS), Ordering::Relaxed);
        calls >= FEW
    }

    /// Ends all streams if `changes` of the inode have gone on since the last time.
    fn end_if_changed(&self, changes: u64) {
        if self.changes.load(Ordering::Relaxed) != changes {
            self.changes.store(changes, Ordering::Relaxed);
            self.places.iter().for_each(|place| place.calls.store(0, Ordering::Relaxed));
        }
    }
}

/// A stream has written `offset..end`: the device is to write what lies in whole stretches, while the stream goes on.
/// What fails shows in the next sync.
pub(super) fn write_out(inode: &Inode, fd: BorrowedFd<'_>, offset: u64, end: u64) {
    let (from, to) = (offset / STRETCH * STRETCH, end / STRETCH * STRETCH);
    if from < to {
        inode.write_back.unless_syncing(|| begin_write_back(fd, from, to - from));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEN: usize = 4096;

    /// How many of `calls` calls of a stream from `from` on are seen as such; `between` runs before each.
    fn seen(streams: &Streams, from: u64, calls: u64, mut between: impl FnMut(u64)) -> u64 {
        let one = |call| {
            between(call);
            u64::from(streams.go_on(from + call * LEN as u64, LEN, || true))
        };
        (0..calls).map(one).sum()
    }

    #[test]
    fn a_stream_is_seen_after_a_few_calls() {
        let streams = Streams::default();
        assert_eq!(seen(&streams, 1000, 100, |_| ()), 100 - FEW);
        // At the start of the file, the first call goes on already.
        assert_eq!(seen(&Streams::default(), 0, 100, |_| ()), 101 - FEW);
    }

    #[test]
    fn calls_that_go_elsewhere_are_not_of_a_stream_and_do_not_end_it() {
        let streams = Streams::default();
        let (mut at, mut theirs) = (1 << 40, 0);
        let ours = seen(&streams, 0, 1000, |call| {
            for _ in 0..if call < 10 { 0 } else { 2 } {
                at += 10_000;
                theirs += u64::from(streams.go_on(at, LEN, || true));
            }
        });
        assert_eq!((ours, theirs), (1001 - FEW, 0));
    }

    #[test]
    fn several_streams_at_once_are_told_apart_and_old_ones_forgotten() {
        let streams = Streams::default();
        for round in 0..20 {
            let first = round * PLACES as u64;
            let mut found = [0; PLACES];
            for call in 0..200 {
                for (stream, found) in found.iter_mut().enumerate() {
                    let from = (1 + first + stream as u64) << 32;
                    *found += u64::from(streams.go_on(from + call * LEN as u64, LEN, || true));
                }
            }
            assert!(found.iter().all(|found| *found > 100), "round {round}: {found:?}");
        }
    }

    #[test]
    fn calls_of_what_may_not_begin_are_of_no_stream() {
        let streams = Streams::default();
        for call in 0..20 {
            assert!(!streams.go_on(call * LEN as u64, LEN, || false));
        }
        assert!(streams.go_on(20 * LEN as u64, LEN, || true));
    }

    #[test]
    fn a_change_ends_a_stream() {
        let streams = Streams::default();
        let found = seen(&streams, 0, 100, |call| streams.end_if_changed(call / 50));
        assert_eq!(found, 101 - FEW - (FEW - 1));
    }

    proptest! {
        /// Against the simplest model: a call is of a stream only if the calls right before it in the file were made,
        /// each where the one before ended.
        #[test]
        fn what_is_seen_as_a_stream_is_one(calls in prop::collection::vec((0u64..40, 1usize..4), 0..400)) {
            let streams = Streams::default();
            let mut made: Vec<(u64, u64)> = vec![(0, 0)];
            for (offset, len) in calls {
                let goes_on = streams.go_on(offset, len, || true);
                if goes_on {
                    prop_assert!(made.iter().any(|(_, end)| *end == offset), "{offset} after {made:?}");
                    // At least as many calls went on as it takes.
                    let links = made.iter().skip(1).filter(|(from, _)| made.iter().any(|(_, end)| end == from));
                    prop_assert!(links.count() as u64 >= FEW - 1);
                }
                made.push((offset, offset + len as u64));
            }
        }
    }
}
