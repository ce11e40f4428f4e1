//! Blocks that name their file, offset and generation.
//!
//! A block consists of units of 512 bytes, which devices write whole, so a block that arrived in part shows. Each unit
//! begins with a header of little-endian words: magic, file, offset of the unit in the file, generation, length of the
//! block, checksum. Pseudo-random bytes that follow from these fill the rest. The checksum is the XXH3 of the unit
//! without the checksum. The last unit of a block also takes a rest that is too short for a header.

mod fault;

use std::ops::Range;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::generate;
pub use fault::Fault;

const UNIT: usize = 512;
const WORD: usize = 8;
const HEADER: usize = 6 * WORD;
const CHECKSUM: usize = 5;

/// "aiobench" in a hex dump.
const MAGIC: u64 = u64::from_le_bytes(*b"aiobench");

/// What a block says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    /// The number of its file.
    pub file: u64,
    /// Its offset in the file.
    pub offset: u64,
    /// The write it is from; later writes have higher numbers.
    pub generation: u64,
}

/// The smallest block that can carry a label.
pub const SMALLEST: usize = HEADER;

/// Fills `block` with the pattern of `label`.
pub fn fill(block: &mut [u8], label: Label) {
    let block_size = block.len() as u64;
    for range in units(block.len()) {
        let offset = label.offset + range.start as u64;
        let unit = &mut block[range];
        let words = [MAGIC, label.file, offset, label.generation, block_size];
        for (index, word) in words.into_iter().enumerate() {
            put(unit, index, word);
        }
        let seed = xxh3_64(&unit[..CHECKSUM * WORD]);
        generate::fill(&mut unit[HEADER..], seed);
        let checksum = checksum(unit);
        put(unit, CHECKSUM, checksum);
    }
}

/// Checks that `block` is from one write to `file` at `offset`, and returns its generation.
pub fn check(block: &[u8], file: u64, offset: u64) -> Result<u64, Fault> {
    let block_size = block.len() as u64;
    let mut generation = None;
    for range in units(block.len()) {
        let at = offset + range.start as u64;
        let unit = &block[range];
        let label = read_label(unit, at)?;
        if label.file != file {
            return Err(Fault::OtherFile { at, offset: label.offset });
        }
        if label.offset != at {
            return Err(Fault::Misplaced { at, offset: label.offset });
        }
        if word(unit, 4) != block_size {
            return Err(Fault::OtherSize { at, written: word(unit, 4), read: block_size });
        }
        let first = *generation.get_or_insert(label.generation);
        if label.generation != first {
            return Err(Fault::Torn { at, older: label.generation < first });
        }
    }
    generation.ok_or(Fault::Foreign { at: offset })
}

/// The label of an undamaged unit.
fn read_label(unit: &[u8], at: u64) -> Result<Label, Fault> {
    if word(unit, 0) != MAGIC {
        let is_hole = unit.iter().all(|byte| *byte == 0);
        return Err(if is_hole { Fault::Hole { at } } else { Fault::Foreign { at } });
    }
    if word(unit, CHECKSUM) != checksum(unit) {
        return Err(Fault::Damaged { at });
    }
    Ok(Label { file: word(unit, 1), offset: word(unit, 2), generation: word(unit, 3) })
}

fn checksum(unit: &[u8]) -> u64 {
    xxh3_64_with_seed(&unit[HEADER..], xxh3_64(&unit[..CHECKSUM * WORD]))
}

fn word(unit: &[u8], index: usize) -> u64 {
    let mut bytes = [0; WORD];
    bytes.copy_from_slice(&unit[index * WORD..(index + 1) * WORD]);
    u64::from_le_bytes(bytes)
}

fn put(unit: &mut [u8], index: usize, word: u64) {
    unit[index * WORD..(index + 1) * WORD].copy_from_slice(&word.to_le_bytes());
}

/// The ranges of the units in a block of this length.
fn units(block: usize) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let left = block - at;
        let begin = at;
        at += if left < UNIT + HEADER { left } else { UNIT };
        (left > 0).then_some(begin..at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: u64 = 0xf11e;
    const AT: u64 = 1 << 20;

    fn written(len: usize, label: Label) -> Vec<u8> {
        let mut block = vec![0; len];
        fill(&mut block, label);
        block
    }

    fn label(generation: u64) -> Label {
        Label { file: FILE, offset: AT, generation }
    }

    #[test]
    fn blocks_of_every_size_come_back() {
        for len in (SMALLEST..2000).chain([4096, 65536, 100_001]) {
            assert_eq!(check(&written(len, label(7)), FILE, AT), Ok(7), "{len}");
        }
    }

    #[test]
    fn no_byte_is_left_out() {
        for len in [SMALLEST, 511, 559, 560, 1500] {
            let block = written(len, label(7));
            for byte in 0..len {
                let mut block = block.clone();
                block[byte] ^= 1;
                let fault = check(&block, FILE, AT).unwrap_err();
                assert!(matches!(fault, Fault::Damaged { .. } | Fault::Foreign { .. }), "{len}, {byte}: {fault}");
            }
        }
    }

    #[test]
    fn a_block_from_elsewhere_says_where_it_belongs() {
        let elsewhere = Label { offset: AT + 4096, ..label(7) };
        assert_eq!(check(&written(4096, elsewhere), FILE, AT), Err(Fault::Misplaced { at: AT, offset: AT + 4096 }));
        // A block of one unit.
        let mut block = written(4096, label(7));
        block.copy_within(512..1024, 1024);
        assert_eq!(check(&block, FILE, AT), Err(Fault::Misplaced { at: AT + 1024, offset: AT + 512 }));
        let other = Label { file: FILE + 1, ..label(7) };
        assert_eq!(check(&written(4096, other), FILE, AT), Err(Fault::OtherFile { at: AT, offset: AT }));
    }

    #[test]
    fn holes_tears_and_damage_are_told_apart() {
        assert_eq!(check(&[0; 4096], FILE, AT), Err(Fault::Hole { at: AT }));
        assert_eq!(check(&[7; 4096], FILE, AT), Err(Fault::Foreign { at: AT }));
        let mut block = written(4096, label(7));
        block[2048..].copy_from_slice(&written(4096, label(6))[2048..]);
        assert_eq!(check(&block, FILE, AT), Err(Fault::Torn { at: AT + 2048, older: true }));
        block[2048..].copy_from_slice(&written(4096, label(8))[2048..]);
        assert_eq!(check(&block, FILE, AT), Err(Fault::Torn { at: AT + 2048, older: false }));
        block[2048..].fill(0);
        assert_eq!(check(&block, FILE, AT), Err(Fault::Hole { at: AT + 2048 }));
        let mut block = written(4096, label(7));
        block[2000] ^= 0x10;
        assert_eq!(check(&block, FILE, AT), Err(Fault::Damaged { at: AT + 1536 }));
    }

    #[test]
    fn blocks_of_another_size_are_no_damage() {
        let block = written(8192, label(7));
        assert_eq!(check(&block[..4096], FILE, AT), Err(Fault::OtherSize { at: AT, written: 8192, read: 4096 }));
    }
}
