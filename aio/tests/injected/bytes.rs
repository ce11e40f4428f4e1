//! What a file should hold.

use std::ops::Range;

/// The model of a file. Past its length it is zeros, which is what a file that grows shows there.
#[derive(Debug)]
pub(crate) struct Bytes {
    /// `None`: a write that failed was here, and any byte will do.
    bytes: Vec<Option<u8>>,
    len: usize,
}

impl Bytes {
    /// A file with this content, which may grow to `most` bytes.
    pub(crate) fn new(content: &[u8], most: usize) -> Self {
        let mut bytes: Vec<_> = content.iter().copied().map(Some).collect();
        bytes.resize(most, Some(0));
        Self { bytes, len: content.len() }
    }

    /// Of which it is certain.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn write(&mut self, range: &Range<usize>, content: &[u8]) {
        for (place, byte) in self.bytes[range.clone()].iter_mut().zip(content) {
            *place = Some(*byte);
        }
        self.len = self.len.max(range.end);
    }

    /// What is here is not known.
    pub(crate) fn forget(&mut self, range: &Range<usize>) {
        self.bytes[range.clone()].fill(None);
    }

    /// The first place where `found`, which begins at `offset`, differs.
    pub(crate) fn differs(&self, offset: usize, found: &[u8]) -> Option<usize> {
        let mut pairs = self.bytes[offset..].iter().zip(found);
        pairs.position(|(expected, found)| expected.is_some_and(|expected| expected != *found)).map(|at| offset + at)
    }

    /// Nothing is in flight, and this is the file: of the lengths in `ends`, or as long as is certain. Bytes that
    /// anything goes for are what they are from now on.
    pub(crate) fn settle(&mut self, found: &[u8], ends: &[usize]) {
        assert!(
            found.len() == self.len || found.len() > self.len && ends.contains(&found.len()),
            "the file has {} bytes, not {} or, of those that may have failed, {ends:?}",
            found.len(),
            self.len
        );
        assert_eq!(self.differs(0, found), None, "first wrong byte of the file");
        *self = Self::new(found, self.bytes.len());
    }
}
