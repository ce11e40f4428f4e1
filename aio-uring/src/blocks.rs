//! From a completion to its block, which is needed again where the ring did not do it.

use aio_core::backend::IoBlock;

/// Blocks by number, which is the `user_data` of their request.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    blocks: Vec<IoBlock>,
    free: Vec<u32>,
}

impl Blocks {
    /// Keeps `block` and returns its number: below 2^32, and one that no other block has until it is taken.
    pub(crate) fn insert(&mut self, block: &IoBlock) -> u64 {
        match self.free.pop() {
            Some(number) => {
                self.blocks[number as usize] = *block;
                number.into()
            }
            None => {
                self.blocks.push(*block);
                self.blocks.len() as u64 - 1
            }
        }
    }

    /// The block of this number, which becomes free.
    pub(crate) fn take(&mut self, number: u64) -> &IoBlock {
        // The kernel gives back what `insert` returned, and a queue holds at most 32768 blocks.
        self.free.push(number as u32);
        &self.blocks[number as usize]
    }
}
