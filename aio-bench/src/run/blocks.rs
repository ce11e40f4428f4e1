//! Memory for the blocks of a job, at an offset from a page boundary.

use std::ops::{Deref, DerefMut};

use aio::buf::{AlignedBuf, IoBufMut};
use aio::{AioFile, AioHandle};

use aio_cli::failure::Failure;
use aio_cli::generate;
use aio_cli::warm_up::{arrived, buffers};

/// What to change so that a job needs less memory.
pub(crate) const LESS: &str = "a smaller --block-size, --queue-depth, --threads or --extents";

/// Memory that an op can own and that this program can fill.
pub(crate) trait Block: IoBufMut + DerefMut<Target = [u8]> + 'static {}

impl<T: IoBufMut + DerefMut<Target = [u8]> + 'static> Block for T {}

/// Allocates a buffer for each of `count` blocks, `offset` bytes past a page boundary, warmed up.
///
/// Each block borrows a buffer that is leaked until the process ends with the job: an op can own such a borrow without
/// unsafe code here. The engine does not know the region of this memory, so it treats it as a user's own.
pub(crate) fn past_page(
    handle: &AioHandle,
    file: &AioFile,
    count: usize,
    bytes: usize,
    offset: usize,
) -> Result<Vec<&'static mut [u8]>, Failure> {
    let whole = buffers(handle, file, (count, offset + bytes), LESS)?;
    let blocks = whole.into_iter().map(|block| {
        let block: &'static mut AlignedBuf = Box::leak(Box::new(block));
        &mut block[offset..]
    });
    // Whole blocks, so that the staging buffers for them exist.
    let tickets: Vec<_> = blocks.map(|block| file.read(block, 0)).collect();
    tickets.into_iter().map(|ticket| arrived(ticket.wait())).collect()
}

/// Fills them with data: devices and file systems have short cuts for zeros.
pub(crate) fn fill<B: DerefMut<Target = [u8]>>(blocks: &mut [B]) {
    blocks.iter_mut().zip(0..).for_each(|(block, seed)| generate::fill(block, seed));
}

/// Bytes of all blocks.
pub(crate) fn bytes_of<B: Deref<Target = [u8]>>(blocks: &[B]) -> u64 {
    blocks.iter().map(|block| block.len() as u64).sum()
}

#[cfg(test)]
mod tests {
    use aio::Backend;

    use super::*;

    #[test]
    fn blocks_begin_where_they_should() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [7; 8192]).unwrap();
        let handle = aio::builder().backend(Backend::Pthread).build().unwrap();
        let file = handle.open(file.path()).unwrap();
        for offset in [1, 512, 4095] {
            let mut blocks = past_page(&handle, &file, 3, 8192, offset).unwrap();
            fill(&mut blocks);
            assert_eq!((blocks.len(), bytes_of(&blocks)), (3, 3 * 8192));
            for block in &blocks {
                assert_eq!(block.as_ptr().addr() % 4096, offset);
                assert!(block.chunks(8).all(|bytes| bytes != [0; 8] && bytes != [7; 8]), "they are filled");
            }
        }
        let blocks = buffers(&handle, &file, (3, 8192), LESS).unwrap();
        assert!(blocks.iter().all(|block| block.as_ptr().addr().is_multiple_of(4096)));
    }
}
