//! Where tensors lie that share a file or a buffer.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::op::plan::Alignment;

/// The smallest unit of a layout: a page, and what disks and GPUDirect Storage ask for at most.
const PAGE: u64 = 4096;
/// `off_t` ends there.
const MOST: u64 = i64::MAX as u64;

/// Lays tensors out in one file, or in one buffer, so that each begins at a multiple of what direct I/O asks for.
///
/// Tensors that are packed end to end, as in most file formats, begin anywhere. Read one by one, each into aligned
/// memory of its own, nearly all their bytes may be copied on their way (see
/// [`Stats::bytes_staged`](crate::Stats::bytes_staged)). A layout leaves a gap of less than one [`unit`](Self::unit)
/// after each instead: 2 KiB on average where the unit is a page.
///
/// It is of use with memory that is aligned too, as that of [`AioHandle::alloc`](crate::AioHandle::alloc) is; a `Vec`
/// begins anywhere. And a file with gaps is in a format of its own: safetensors, for one, allows none. A packed file
/// is read without copies in long ranges that begin at units, into buffers of which the tensors are slices.
///
/// ```
/// use aio::op::AlignedLayout;
///
/// # fn main() -> aio::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("layer0");
/// let aio = aio::builder().build()?;
/// let file = aio.create(&path)?;
///
/// let mut layout = AlignedLayout::new(file.alignment());
/// let weights = layout.push(400_000)?; // bytes
/// let bias = layout.push(3_000)?;
/// assert_eq!(bias.start % layout.unit(), 0);
///
/// // In one buffer, and one op for both. All of it is whole units, so all of it can be direct.
/// let mut tensors = aio.alloc(layout.end() as usize)?;
/// tensors.fill(0);
/// tensors[bias.start as usize..bias.end as usize].fill(1);
/// let tensors = file.write(tensors, 0).wait()?;
///
/// // Or each in memory of its own.
/// let mut norm = aio.alloc(3_000)?;
/// norm = file.read(norm, bias.start).wait()?;
/// assert!(norm.iter().all(|byte| *byte == 1));
/// # drop((tensors, weights));
/// # Ok(())
/// # }
/// ```
///
/// To transfer whole units only, make a tensor's memory `len.next_multiple_of(layout.unit())` bytes long: the gap
/// after it has room for that. Fill what is past the tensor, for memory of the arena holds what an earlier buffer
/// held, and give the file the length [`end`](Self::end) ([`AioFile::set_len`](crate::AioFile::set_len), or
/// `allocate`), or the last tensor cannot be read in whole units. Otherwise the bytes past a tensor's last whole unit
/// go through the page cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlignedLayout {
    unit: u64,
    /// A multiple of the unit.
    end: u64,
}

impl AlignedLayout {
    /// An empty layout for a file of this [`alignment`](crate::AioFile::alignment).
    ///
    /// The unit is what direct I/O asks for, and 4096 at least. More is of no use to a disk: 2 MiB, a huge page,
    /// would cost a checkpoint of 1000 tensors 1 GB of gaps.
    ///
    /// Another device may ask for another unit. A file that is read elsewhere says where its tensors lie, or is laid
    /// out by [`AlignedLayout::default`], whose unit is always the same; all is right there, and nearly everywhere
    /// direct.
    pub fn new(alignment: Alignment) -> Self {
        // Of powers of two the largest is a multiple of the others.
        Self { unit: PAGE.max(alignment.offset.into()).max(alignment.memory.into()).next_power_of_two(), end: 0 }
    }

    /// Bytes of which every tensor begins at a multiple; a power of two, 4096 or more.
    pub fn unit(&self) -> u64 {
        self.unit
    }

    /// Appends a tensor of `len` bytes, and gives the bytes that are its own.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] if it would end, in whole units, past 2^63 - 1, the longest that a file can be;
    /// nothing changes then.
    pub fn push(&mut self, len: u64) -> Result<Range<u64>> {
        let start = self.end;
        let next = start.checked_add(len).and_then(|end| end.checked_next_multiple_of(self.unit));
        let Some(next) = next.filter(|next| *next <= MOST) else {
            return Err(Error::InvalidInput(format!(
                "{len} bytes at {start}, in whole units, end past 2^63 - 1, the longest file"
            )));
        };
        self.end = next;
        Ok(start..start + len)
    }

    /// Bytes that all of them take, in whole units: the length of the file or buffer, and where the next begins.
    pub fn end(&self) -> u64 {
        self.end
    }
}

impl Default for AlignedLayout {
    /// An empty layout with a unit of 4096, whatever the file: for a format, or for a buffer.
    fn default() -> Self {
        Self::new(Alignment::NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_unit_is_what_both_sides_ask_for() {
        let unit = |offset, memory| AlignedLayout::new(Alignment { offset, memory }).unit();
        assert_eq!([unit(0, 1), unit(512, 512), unit(4096, 4)], [4096; 3]);
        assert_eq!([unit(65_536, 512), unit(4096, 65_536), unit(0, 40_000)], [65_536; 3]);
        assert_eq!(AlignedLayout::default().unit(), 4096);
    }

    #[test]
    fn what_no_file_can_hold_is_refused() {
        let mut layout = AlignedLayout::default();
        let last = MOST - MOST % PAGE;
        for len in [u64::MAX, MOST, last + 1] {
            layout.push(len).unwrap_err();
            assert_eq!(layout, AlignedLayout::default());
        }
        assert_eq!(layout.push(last).unwrap(), 0..last);
        assert_eq!(layout.push(0).unwrap(), last..last);
        let message = layout.push(1).unwrap_err().to_string();
        assert!(message.contains(&format!("1 bytes at {last},")), "{message}");
        assert_eq!(layout.end(), last);
    }

    proptest! {
        #[test]
        fn tensors_begin_at_units_with_the_smallest_gaps(
            lens in prop::collection::vec(prop_oneof![0u64..20_000, any::<u64>()], 0..20),
            offset in prop::sample::select(vec![0u32, 512, 4096, 16_384]),
        ) {
            let mut layout = AlignedLayout::new(Alignment { offset, memory: 512 });
            let unit = layout.unit();
            let mut before = 0;
            for len in lens {
                match layout.push(len) {
                    Ok(range) => {
                        prop_assert!(range.start.is_multiple_of(unit) && range.end - range.start == len);
                        prop_assert!(range.start >= before && range.start - before < unit);
                        before = range.end;
                    }
                    Err(_) => prop_assert!(u128::from(layout.end()) + u128::from(len) > u128::from(MOST - unit)),
                }
                prop_assert!(layout.end().is_multiple_of(unit));
                prop_assert!(layout.end() >= before && layout.end() - before < unit);
            }
        }
    }
}
