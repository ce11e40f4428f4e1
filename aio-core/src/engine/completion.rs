//! What a completion means: the next step for a piece of an op, by what a queue or a system call reported.
//!
//! Workers and the calls on the caller's thread both ask [`Piece::next_step`], so that retries, short transfers and
//! the way through the page cache follow one policy. Nothing here transfers, waits or copies.

use std::io;
use std::time::Duration;

use crate::backend::Direction;
use crate::stats::Stats;

/// Retries without a pause, before a piece that keeps getting EAGAIN is tried again at intervals.
const QUICK_RETRIES: u32 = 16;
/// The pause before each later retry.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_millis(1);
/// About ten seconds of EAGAIN without a single byte: an error after all.
pub(super) const MAX_RETRIES: u32 = QUICK_RETRIES + 10_000;

/// What is left of a block, and how it is transferred.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) direction: Direction,
    /// In the file, in bytes.
    pub(super) offset: u64,
    /// At least 1 while something is left.
    pub(super) len: usize,
    /// Past the page cache.
    pub(super) direct: bool,
    /// Direct I/O of the file begins and ends at multiples of this many bytes. 0: no direct I/O.
    pub(super) unit: u32,
    /// Through a staging or bounce buffer.
    pub(super) staged: bool,
    /// In memory registered with the kernel.
    pub(super) fixed: bool,
    /// Tries since the last byte moved that ended with EINTR, EAGAIN or EBUSY.
    pub(super) retries: u32,
}

/// What to do with a piece after a completion.
#[derive(Debug)]
pub(super) enum NextStep {
    /// All that was left has moved.
    Done {
        moved: usize,
    },
    /// The transfer was short: the rest follows in the same way.
    Rest {
        moved: usize,
    },
    /// The rest goes through the page cache: direct I/O refused it (`moved` is 0), or stopped inside a unit.
    ThroughCache {
        moved: usize,
    },
    /// The same again, after a pause if there is one.
    Retry {
        pause: Option<Duration>,
    },
    /// A read found nothing here.
    EndOfFile,
    Failed(io::Error),
}

impl Piece {
    /// What follows from `reported`: the bytes moved, or the error of the transfer.
    #[inline]
    pub(super) fn next_step(&self, reported: io::Result<usize>) -> NextStep {
        match reported {
            Ok(moved) if moved == self.len => NextStep::Done { moved },
            Ok(moved) if moved > self.len => {
                let len = self.len;
                NextStep::Failed(io::Error::other(format!("the backend reported {moved} bytes of a block of {len}")))
            }
            Ok(0) => match self.direction {
                Direction::Read => NextStep::EndOfFile,
                Direction::Write => NextStep::Failed(io::ErrorKind::WriteZero.into()),
            },
            // Stopped inside a direct unit, at the end of the file or because the disk is full: the page cache can go
            // on from here, and tells which it is.
            Ok(moved) if self.direct && !self.ends_a_unit(moved) => NextStep::ThroughCache { moved },
            Ok(moved) => NextStep::Rest { moved },
            Err(error) if is_transient(&error) && self.retries < MAX_RETRIES => {
                NextStep::Retry { pause: (self.retries >= QUICK_RETRIES).then_some(RETRY_INTERVAL) }
            }
            // The file system asks for more alignment than it told; the page cache takes anything.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && self.direct => {
                NextStep::ThroughCache { moved: 0 }
            }
            Err(error) => NextStep::Failed(error),
        }
    }

    fn ends_a_unit(&self, moved: usize) -> bool {
        (self.offset + moved as u64).is_multiple_of(self.unit.max(1).into())
    }

    /// Counts what a step tells of this piece, as it was before the step.
    #[inline]
    pub(super) fn count(&self, step: &NextStep, stats: &mut Stats) {
        let moved = step.moved();
        let bytes = moved as u64;
        *(if self.direct { &mut stats.bytes_direct } else { &mut stats.bytes_buffered }) += bytes;
        stats.bytes_staged += if self.staged { bytes } else { 0 };
        stats.bytes_fixed += if self.fixed { bytes } else { 0 };
        stats.short_transfers += u64::from(moved > 0 && moved < self.len);
        stats.retries += u64::from(matches!(step, NextStep::Retry { .. }));
    }

    /// Takes a step's bytes off the front, or counts a retry.
    pub(super) fn advance(&mut self, step: &NextStep) {
        match step {
            NextStep::Retry { .. } => self.retries += 1,
            _ => self.retries = 0,
        }
        self.offset += step.moved() as u64;
        self.len -= step.moved();
        self.direct &= !matches!(step, NextStep::ThroughCache { .. });
    }
}

impl NextStep {
    /// The bytes that moved; never more than were left.
    #[inline]
    pub(super) fn moved(&self) -> usize {
        match *self {
            Self::Done { moved } | Self::Rest { moved } | Self::ThroughCache { moved } => moved,
            Self::Retry { .. } | Self::EndOfFile | Self::Failed(_) => 0,
        }
    }
}

/// Errors that mean "again, later".
pub(super) fn is_transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UNIT: u32 = 4096;
    const LEN: usize = 16384;
    const BOTH: [Direction; 2] = [Direction::Read, Direction::Write];

    fn piece(direction: Direction, direct: bool) -> Piece {
        let (offset, len) = (8192, LEN);
        Piece { direction, offset, len, direct, unit: UNIT, staged: false, fixed: false, retries: 0 }
    }

    fn errno(error: i32) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(error))
    }

    /// The piece after each of these reports, and the step that the last one that was needed gave.
    fn follow(mut piece: Piece, reports: impl IntoIterator<Item = io::Result<usize>>) -> (Piece, Option<NextStep>) {
        let mut last = None;
        for report in reports {
            let step = piece.next_step(report);
            piece.advance(&step);
            let is_over = matches!(step, NextStep::Done { .. } | NextStep::EndOfFile | NextStep::Failed(_));
            last = Some(step);
            if is_over {
                break;
            }
        }
        (piece, last)
    }

    #[test]
    fn each_report_has_one_next_step() {
        use Direction::{Read, Write};
        let again = "Retry { pause: None }";
        let table: &[(Direction, bool, io::Result<usize>, &str)] = &[
            (Read, true, Ok(LEN), "Done { moved: 16384 }"),
            (Write, false, Ok(LEN), "Done { moved: 16384 }"),
            (Read, true, Ok(4096), "Rest { moved: 4096 }"),
            (Write, true, Ok(4096), "Rest { moved: 4096 }"),
            (Read, false, Ok(100), "Rest { moved: 100 }"),
            (Write, false, Ok(100), "Rest { moved: 100 }"),
            (Read, true, Ok(4097), "ThroughCache { moved: 4097 }"),
            (Write, true, Ok(512), "ThroughCache { moved: 512 }"),
            (Read, true, errno(libc::EINVAL), "ThroughCache { moved: 0 }"),
            (Write, true, errno(libc::EINVAL), "ThroughCache { moved: 0 }"),
            (Read, false, errno(libc::EINVAL), "Failed(Os { code: 22,"),
            (Write, false, errno(libc::EINVAL), "Failed(Os { code: 22,"),
            (Read, true, Ok(0), "EndOfFile"),
            (Read, false, Ok(0), "EndOfFile"),
            (Write, true, Ok(0), "Failed(Kind(WriteZero))"),
            (Write, false, Ok(0), "Failed(Kind(WriteZero))"),
            (Read, true, errno(libc::EINTR), again),
            (Write, false, errno(libc::EAGAIN), again),
            (Write, true, errno(libc::EBUSY), again),
            (Read, true, errno(libc::EIO), "Failed(Os { code: 5,"),
            (Write, false, errno(libc::ENOSPC), "Failed(Os { code: 28,"),
            (Read, true, Err(io::ErrorKind::WouldBlock.into()), "Failed(Kind(WouldBlock))"),
            (Read, true, Ok(LEN + 1), "Failed(Custom { kind: Other, error: \"the backend reported 16385 bytes"),
            (Write, false, Ok(usize::MAX), "Failed(Custom { kind: Other,"),
        ];
        for (direction, direct, reported, expected) in table {
            let report = match reported {
                Ok(moved) => Ok(*moved),
                Err(error) => error.raw_os_error().map_or_else(|| Err(error.kind().into()), errno),
            };
            let step = format!("{:?}", piece(*direction, *direct).next_step(report));
            assert!(step.starts_with(expected), "{direction:?}, direct: {direct}, {reported:?}: {step}");
        }
    }

    #[test]
    fn retries_are_quick_at_first_then_spaced_and_end_with_the_error() {
        for error in [libc::EINTR, libc::EAGAIN, libc::EBUSY] {
            let mut piece = piece(Direction::Read, true);
            for retry in 0..MAX_RETRIES {
                let step = piece.next_step(errno(error));
                let NextStep::Retry { pause } = step else { panic!("{step:?} after {retry} retries") };
                assert_eq!(pause, (retry >= QUICK_RETRIES).then_some(RETRY_INTERVAL), "{retry}");
                piece.advance(&step);
            }
            let last = piece.next_step(errno(error));
            assert!(matches!(&last, NextStep::Failed(e) if e.raw_os_error() == Some(error)), "{last:?}");
        }
    }

    #[test]
    fn a_byte_that_moves_sets_the_retries_back() {
        let busy = (0..MAX_RETRIES).map(|_| errno(libc::EBUSY));
        let (after, last) = follow(piece(Direction::Write, false), busy.chain([Ok(1), errno(libc::EBUSY)]));
        assert!(matches!(last, Some(NextStep::Retry { pause: None })), "{last:?}");
        assert_eq!((after.retries, after.len), (1, LEN - 1));
    }

    #[test]
    fn a_piece_goes_through_the_cache_once() {
        for direction in BOTH {
            let (after, last) = follow(piece(direction, true), [errno(libc::EINVAL), errno(libc::EINVAL)]);
            assert!(matches!(last, Some(NextStep::Failed(_))), "{last:?}");
            assert!(!after.direct);
        }
    }

    #[test]
    fn bytes_are_counted_by_the_way_they_went() {
        let mut stats = Stats::default();
        let mut piece = Piece { staged: true, fixed: true, ..piece(Direction::Read, true) };
        for report in [errno(libc::EAGAIN), Ok(4096), Ok(100), Ok(LEN - 4196)] {
            let step = piece.next_step(report);
            piece.count(&step, &mut stats);
            piece.advance(&step);
        }
        let (direct, buffered) = (4196, LEN as u64 - 4196);
        let expected = Stats {
            bytes_direct: direct,
            bytes_buffered: buffered,
            bytes_staged: LEN as u64,
            bytes_fixed: LEN as u64,
            retries: 1,
            short_transfers: 2,
            ..Stats::default()
        };
        assert_eq!(stats, expected);
    }

    fn any_report() -> impl Strategy<Value = Result<usize, i32>> {
        let errors = [libc::EINTR, libc::EAGAIN, libc::EBUSY, libc::EINVAL, libc::EIO];
        prop_oneof![
            4 => (0..=LEN + 1).prop_map(Ok),
            2 => (0..=LEN / 4096).prop_map(|pages| Ok(pages * 4096)),
            1 => prop::sample::select(errors.to_vec()).prop_map(Err),
        ]
    }

    proptest! {
        #[test]
        fn the_bytes_of_all_steps_are_those_that_are_not_left(
            reports in prop::collection::vec(any_report(), 0..40),
            write in any::<bool>(),
            direct in any::<bool>(),
        ) {
            let whole = piece(BOTH[usize::from(write)], direct);
            let mut left = whole;
            let mut moved = 0;
            for report in reports {
                let step = left.next_step(report.or_else(errno));
                // A count is believed if it can be true, and then as a whole.
                let counted = report.ok().filter(|count| *count <= left.len).unwrap_or(0);
                prop_assert_eq!(step.moved(), counted);
                let is_done = matches!(step, NextStep::Done { .. });
                prop_assert_eq!(is_done, report == Ok(left.len));
                moved += step.moved();
                left.advance(&step);
                prop_assert_eq!(left.len + moved, whole.len);
                prop_assert_eq!(left.offset, whole.offset + moved as u64);
                match step {
                    NextStep::Done { .. } => {
                        prop_assert_eq!(left.len, 0);
                        break;
                    }
                    NextStep::EndOfFile | NextStep::Failed(_) => break,
                    _ => prop_assert!(left.len > 0),
                }
                // What goes on past the cache begins where a unit does.
                prop_assert!(!left.direct || left.offset.is_multiple_of(UNIT.into()));
            }
        }

        #[test]
        fn short_transfers_end_with_every_byte(
            parts in prop::collection::vec(1..=LEN, LEN..LEN + 1),
            write in any::<bool>(),
            direct in any::<bool>(),
        ) {
            let mut left = piece(BOTH[usize::from(write)], direct);
            let mut moved = 0;
            for part in parts {
                let step = left.next_step(Ok(part.min(left.len)));
                moved += step.moved();
                left.advance(&step);
                if let NextStep::Done { .. } = step {
                    break;
                }
            }
            prop_assert_eq!((moved, left.len), (LEN, 0));
        }

        #[test]
        fn a_count_that_is_too_large_fails(
            len in 1..=LEN,
            more in 1usize..1 << 40,
            write in any::<bool>(),
            direct in any::<bool>(),
        ) {
            let piece = Piece { len, ..piece(BOTH[usize::from(write)], direct) };
            prop_assert!(matches!(piece.next_step(Ok(len + more)), NextStep::Failed(_)));
        }
    }
}
