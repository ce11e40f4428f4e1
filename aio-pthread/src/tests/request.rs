//! Which blocks share a call, and which result is whose.

use std::io;
use std::ptr;

use aio_core::backend::{Direction, IoBlock};

use crate::request::{MAX_RUN, MAX_RUN_BYTES, distribute, run_length, uninterrupted};

const KIB: usize = 1 << 10;

/// Blocks of these lengths, one behind the other.
fn neighbouring(lengths: &[usize]) -> Vec<IoBlock> {
    let mut offset = 0;
    let mut blocks = Vec::new();
    for (token, &len) in (0..).zip(lengths) {
        blocks.push(IoBlock { token, ..IoBlock::new(Direction::Read, 3, ptr::null_mut(), len, offset) });
        offset += len as u64;
    }
    blocks
}

#[test]
fn small_neighbours_are_one_run() {
    assert_eq!(run_length(&neighbouring(&[])), 0);
    assert_eq!(run_length(&neighbouring(&[4 * KIB])), 1);
    assert_eq!(run_length(&neighbouring(&[4 * KIB, 1, 32 * KIB, 4 * KIB])), 4);
}

#[test]
fn whatever_separates_blocks_ends_a_run() {
    let spoil: [fn(&mut IoBlock); 5] = [
        |block| block.fd = 4,
        |block| block.direction = Direction::Write,
        |block| block.offset += 1,
        |block| block.offset -= 1,
        |block| block.offset = 0,
    ];
    for spoil in spoil {
        let mut blocks = neighbouring(&[4 * KIB; 6]);
        spoil(&mut blocks[3]);
        assert_eq!(run_length(&blocks), 3, "{:?}", blocks[3]);
    }
}

#[test]
fn large_blocks_stay_alone() {
    assert_eq!(run_length(&neighbouring(&[1 << 20, 1 << 20])), 1);
    assert_eq!(run_length(&neighbouring(&[33 * KIB, 4 * KIB])), 1);
    assert_eq!(run_length(&neighbouring(&[4 * KIB, 4 * KIB, 33 * KIB])), 2);
}

#[test]
fn runs_are_limited() {
    assert_eq!(run_length(&neighbouring(&[32 * KIB; 9])), MAX_RUN_BYTES / (32 * KIB));
    assert_eq!(run_length(&neighbouring(&[512; 100])), MAX_RUN);
}

#[test]
fn offsets_at_the_end_of_the_range_do_not_overflow() {
    let mut blocks = neighbouring(&[4 * KIB, 4 * KIB]);
    blocks[0].offset = u64::MAX - 1;
    blocks[1].offset = 4 * KIB as u64 - 2;
    assert_eq!(run_length(&blocks), 1);
}

/// Where a fake file stops to take bytes, and how.
#[derive(Clone, Copy)]
struct Fake {
    /// End of file, in bytes.
    end: u64,
    /// Token of the block whose memory is bad.
    bad: u64,
    /// Most bytes that a call of several blocks moves.
    most: usize,
}

impl Fake {
    fn one(&self, block: &IoBlock) -> io::Result<usize> {
        if block.token == self.bad {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        }
        Ok(self.end.saturating_sub(block.offset).min(block.len as u64) as usize)
    }

    /// Stops in front of a bad block, and fails if that is the first.
    fn many(&self, run: &[IoBlock]) -> io::Result<usize> {
        let mut moved = 0;
        for block in run {
            match self.one(block) {
                Ok(part) => moved += part,
                Err(error) if moved == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(moved.min(self.most))
    }

    /// What is expected of each block.
    fn check(&self, run: &[IoBlock]) {
        let mut done = Vec::new();
        distribute(run, |run| self.many(run), |block| self.one(block), &mut done);
        assert_eq!(done.len(), run.len());
        for (block, completion) in run.iter().zip(done) {
            assert_eq!(completion.token, block.token);
            match (completion.result, self.one(block)) {
                // A part is right where the call of several stopped inside the block. Nothing is only right at the end.
                (Ok(part), Ok(alone)) => assert!(part == alone || (0 < part && part < alone), "{part} of {alone}"),
                (Err(_), Err(_)) => {}
                (found, alone) => panic!("{found:?} instead of {alone:?} for {block:?}"),
            }
        }
    }
}

#[test]
fn short_transfers_and_errors_reach_the_blocks_they_belong_to() {
    let run = neighbouring(&[8, 4, 4, 16, 8]);
    let total = 40;
    for end in 0..=total as u64 + 1 {
        for bad in 0..=run.len() as u64 {
            for most in 0..=total {
                Fake { end, bad, most }.check(&run);
            }
        }
    }
}

#[test]
fn a_short_transfer_is_not_repeated() {
    let run = neighbouring(&[8, 4, 4, 16, 8]);
    let mut alone = Vec::new();
    let mut done = Vec::new();
    let one = |block: &IoBlock| {
        alone.push(block.token);
        Ok(block.len)
    };
    distribute(&run, |_| Ok(14), one, &mut done);
    let results: Vec<_> = done.into_iter().map(|completion| completion.result.unwrap()).collect();
    assert_eq!(results, [8, 4, 2, 16, 8]);
    assert_eq!(alone, [3, 4], "transferred on their own");
}

#[test]
fn one_block_is_never_a_call_of_several() {
    let run = neighbouring(&[8]);
    let mut done = Vec::new();
    distribute(&run, |_| panic!("a call of several"), |_| Ok(8), &mut done);
    assert_eq!(done.len(), 1);
}

#[test]
fn interrupted_calls_are_repeated() {
    let mut interruptions = 3;
    let outcome = uninterrupted(|| {
        interruptions -= 1;
        if interruptions > 0 { Err(io::Error::from_raw_os_error(libc::EINTR)) } else { Ok(5) }
    });
    assert_eq!((outcome.unwrap(), interruptions), (5, 0));
}
