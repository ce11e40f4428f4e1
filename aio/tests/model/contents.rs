//! What the file should hold.

use std::ops::Range;

/// What the file should hold. `None`: a cancelled write was here, and any byte will do.
#[derive(Debug, Default)]
pub(crate) struct Model(pub(crate) Vec<Option<u8>>);

impl Model {
    pub(crate) fn set_len(&mut self, len: usize) {
        self.0.resize(len, Some(0));
    }

    pub(crate) fn at_least(&mut self, len: usize) {
        self.set_len(len.max(self.0.len()));
    }

    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.at_least(offset + bytes.len());
        }
        for (place, byte) in self.0.iter_mut().skip(offset).zip(bytes) {
            *place = Some(*byte);
        }
    }

    /// Of a range, as far as it is in the file.
    pub(crate) fn forget(&mut self, range: Range<usize>) {
        let end = range.end.min(self.0.len());
        self.0[range.start.min(end)..end].fill(None);
    }

    /// The first place where `bytes`, found at `offset`, differ.
    pub(crate) fn differs(&self, offset: usize, bytes: &[u8]) -> Option<usize> {
        let expected = &self.0[offset.min(self.0.len())..];
        let mut pairs = expected.iter().zip(bytes);
        pairs.position(|(expected, found)| expected.is_some_and(|expected| expected != *found)).map(|at| offset + at)
    }

    /// All of the file. Bytes that anything goes for are what they are from now on.
    pub(crate) fn settle(&mut self, found: &[u8], what: &str) {
        assert_eq!(found.len(), self.0.len(), "length, {what}");
        assert_eq!(self.differs(0, found), None, "first wrong byte, {what}");
        self.0 = found.iter().copied().map(Some).collect();
    }
}
