//! What can be wrong with a block.

use std::fmt;

/// The first fault of a block, and the offset in the file at which it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Only zeros.
    Hole { at: u64 },
    /// No pattern at all.
    Foreign { at: u64 },
    /// A pattern with a wrong checksum.
    Damaged { at: u64 },
    /// From another file, where it belongs at `offset`.
    OtherFile { at: u64, offset: u64 },
    /// From this file, but from `offset`.
    Misplaced { at: u64, offset: u64 },
    /// At the right place, but from blocks of another size.
    OtherSize { at: u64, written: u64, read: u64 },
    /// From here on, the block is from another write than before.
    Torn { at: u64, older: bool },
    /// Whole, but not from the last write: `behind` writes too old, or from an earlier run (`None`).
    Older { at: u64, behind: Option<u64> },
    /// Whole, but from a write that the job has not made.
    Newer { at: u64 },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hole { at } => write!(f, "offset {at} holds zeros: never written, or the write was lost"),
            Self::Foreign { at } => {
                write!(f, "offset {at} holds no pattern: damaged, or written without --verify")
            }
            Self::Damaged { at } => write!(f, "offset {at} is damaged: its checksum does not match"),
            Self::OtherFile { at, offset } => {
                write!(f, "offset {at} holds a block of another file, which belongs at {offset} there")
            }
            Self::Misplaced { at, offset } => write!(f, "offset {at} holds what belongs at {offset}"),
            Self::OtherSize { at, written, read } => {
                write!(f, "offset {at} was written in blocks of {written} bytes and is read in blocks of {read}")
            }
            Self::Torn { at, older } => {
                let age = if *older { "an older" } else { "a newer" };
                write!(f, "the block is torn: from offset {at} on it is of {age} write than before")
            }
            Self::Older { at, behind: Some(1) } => {
                write!(f, "offset {at} holds what was there before the last write: that write was lost")
            }
            Self::Older { at, behind: Some(behind) } => {
                write!(f, "offset {at} holds what was there {behind} writes ago: these writes were lost")
            }
            Self::Older { at, behind: None } => {
                write!(f, "offset {at} holds what an earlier run wrote: the writes of this one were lost")
            }
            Self::Newer { at } => {
                write!(f, "offset {at} holds a write that is not of this run: something else writes to the file")
            }
        }
    }
}
