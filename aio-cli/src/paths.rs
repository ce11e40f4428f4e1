//! How bytes moved: past the page cache or through it, and through which memory.

use aio::Stats;
use serde::Serialize;

/// Bytes of a stretch of work, as the engine counts them ([`Stats`]): each is direct or buffered, and can also be
/// staged or fixed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Paths {
    pub bytes_direct: u64,
    pub bytes_buffered: u64,
    pub bytes_staged: u64,
    pub bytes_fixed: u64,
}

impl From<Stats> for Paths {
    fn from(stats: Stats) -> Self {
        let Stats { bytes_direct, bytes_buffered, bytes_staged, bytes_fixed, .. } = stats;
        Self { bytes_direct, bytes_buffered, bytes_staged, bytes_fixed }
    }
}

impl std::ops::AddAssign for Paths {
    fn add_assign(&mut self, other: Self) {
        self.bytes_direct += other.bytes_direct;
        self.bytes_buffered += other.bytes_buffered;
        self.bytes_staged += other.bytes_staged;
        self.bytes_fixed += other.bytes_fixed;
    }
}

impl Paths {
    /// The bytes after `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            bytes_direct: self.bytes_direct.saturating_sub(earlier.bytes_direct),
            bytes_buffered: self.bytes_buffered.saturating_sub(earlier.bytes_buffered),
            bytes_staged: self.bytes_staged.saturating_sub(earlier.bytes_staged),
            bytes_fixed: self.bytes_fixed.saturating_sub(earlier.bytes_fixed),
        }
    }

    /// All bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes_direct + self.bytes_buffered
    }

    /// Whether more was buffered than the ends of tensors.
    pub(crate) fn mostly_buffered(&self) -> bool {
        self.bytes_buffered > self.bytes_direct
    }
}
