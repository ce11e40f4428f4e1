//! Ops that are picked one by one, and blocks that are checked.

use aio::{AioFile, Ticket};

use super::blocks::Block;
use super::drive::{Call, Note, Work};
use super::offsets::Offsets;
use super::verify::Verifier;
use crate::cli::WeightedOp;
use aio_cli::generate::SplitMix64;

/// The ops of a job, and their state.
#[derive(Debug)]
pub(crate) struct Mix<'a> {
    file: &'a AioFile,
    kinds: Vec<Kind>,
    weights: Weights,
    verifier: Option<&'a mut Verifier>,
}

#[derive(Debug)]
struct Kind {
    writes: bool,
    offsets: Offsets,
}

/// The op of a block: its kind and offset.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    kind: usize,
    offset: u64,
}

impl<'a> Mix<'a> {
    /// Each of `ops` goes through the first `blocks` of the file on its own, with its own random sequence.
    pub(crate) fn new(
        file: &'a AioFile,
        ops: &[WeightedOp],
        blocks: u64,
        block_size: u64,
        verifier: Option<&'a mut Verifier>,
    ) -> Self {
        let kind = |(op, seed): (&WeightedOp, u64)| Kind {
            writes: op.op.writes(),
            offsets: Offsets::new(op.op.is_random(), blocks, block_size, seed),
        };
        let weights = Weights::new(ops.iter().map(|op| op.weight));
        Self { file, kinds: ops.iter().zip(0..).map(kind).collect(), weights, verifier }
    }

    /// Reads at these offsets, for reading back.
    pub(crate) fn reads_of(file: &'a AioFile, offsets: Vec<u64>, verifier: &'a mut Verifier) -> Self {
        let kinds = vec![Kind { writes: false, offsets: Offsets::listed(offsets) }];
        Self { file, kinds, weights: Weights::new([1].into_iter()), verifier: Some(verifier) }
    }

    /// Picks the next op, of one block, and prepares the block.
    fn next(&mut self, block: &mut [u8]) -> Place {
        let kind = self.weights.pick();
        let offset = self.place(kind);
        self.fill(kind, block, offset);
        Place { kind, offset }
    }

    /// The offset of the next op of this kind, chosen so that no conflicting op is in flight there.
    fn place(&mut self, kind: usize) -> u64 {
        let Kind { writes, offsets } = &mut self.kinds[kind];
        let offset = offsets.next();
        self.verifier.as_mut().map_or(offset, |verifier| verifier.claim(offset, *writes))
    }

    /// Fills `block` for a write.
    fn fill(&mut self, kind: usize, block: &mut [u8], offset: u64) {
        if let Some(verifier) = &mut self.verifier
            && self.kinds[kind].writes
        {
            verifier.fill(block, offset);
        }
    }

    /// Checks what was read.
    fn ended(&mut self, kind: usize, block: &[u8], offset: u64) -> Result<(), String> {
        let Some(verifier) = &mut self.verifier else { return Ok(()) };
        verifier.release(offset);
        if self.kinds[kind].writes { Ok(()) } else { verifier.check(block, offset) }
    }
}

/// Picks among several things by weight.
#[derive(Debug)]
struct Weights {
    /// Sum of each weight and those before it.
    sums: Vec<u64>,
    numbers: SplitMix64,
}

impl Weights {
    /// Distinct from the seeds of offsets, which count from 0.
    const SEED: u64 = u64::MAX;

    fn new(weights: impl Iterator<Item = u32>) -> Self {
        let sums = weights.scan(0, |sum, weight| {
            *sum += u64::from(weight);
            Some(*sum)
        });
        Self { sums: sums.collect(), numbers: SplitMix64::new(Self::SEED) }
    }

    /// The next pick; the sequence is the same in every run.
    fn pick(&mut self) -> usize {
        match self.sums.as_slice() {
            [] | [_] => 0,
            [.., all] => {
                let number = self.numbers.below(*all);
                self.sums.iter().take_while(|sum| **sum <= number).count()
            }
        }
    }
}

impl Note for Place {
    fn kind(&self) -> usize {
        self.kind
    }
}

/// The note of a vectored op, which knows its offsets.
impl Note for usize {
    fn kind(&self) -> usize {
        *self
    }
}

/// An op and a ticket per block.
pub(crate) struct Singles<'a>(pub(crate) Mix<'a>);

impl<B: Block> Work<B> for Singles<'_> {
    type Note = Place;

    fn checks(&self) -> bool {
        self.0.verifier.is_some()
    }

    fn prepare(&mut self, block: &mut B, _: usize) -> Place {
        self.0.next(block)
    }

    fn submit(&mut self, block: B, _: usize, place: &Place) -> Ticket<B> {
        let mix = &self.0;
        match mix.kinds[place.kind].writes {
            true => mix.file.write(block, place.offset),
            false => mix.file.read(block, place.offset),
        }
    }

    fn ended(&mut self, block: &mut B, place: Place) -> Result<(), String> {
        self.0.ended(place.kind, block, place.offset)
    }
}

/// Ops of several blocks, each of one kind.
pub(crate) struct Vectored<'a>(pub(crate) Mix<'a>);

impl<B: Block> Work<Vec<(u64, B)>> for Vectored<'_> {
    type Note = usize;

    fn checks(&self) -> bool {
        self.0.verifier.is_some()
    }

    fn prepare(&mut self, op: &mut Vec<(u64, B)>, blocks: usize) -> usize {
        let mix = &mut self.0;
        let kind = mix.weights.pick();
        op.truncate(blocks);
        for (offset, block) in op {
            *offset = mix.place(kind);
            mix.fill(kind, block, *offset);
        }
        kind
    }

    fn submit(&mut self, op: Vec<(u64, B)>, _: usize, kind: &usize) -> Ticket<Vec<(u64, B)>> {
        let mix = &self.0;
        match mix.kinds[*kind].writes {
            true => mix.file.write_vectored(op),
            false => mix.file.read_vectored(op),
        }
    }

    fn ended(&mut self, op: &mut Vec<(u64, B)>, kind: usize) -> Result<(), String> {
        op.iter().try_for_each(|(offset, block)| self.0.ended(kind, block, *offset))
    }
}

/// Blocking calls.
pub(crate) struct Calls<'a, 'b> {
    pub(crate) mix: Mix<'a>,
    pub(crate) block: &'b mut [u8],
}

impl Call for Calls<'_, '_> {
    type Note = Place;
    type Error = aio::Error;

    fn checks(&self) -> bool {
        self.mix.verifier.is_some()
    }

    fn prepare(&mut self) -> Place {
        self.mix.next(self.block)
    }

    fn call(&mut self, place: &Place) -> aio::Result<()> {
        match self.mix.kinds[place.kind].writes {
            true => self.mix.file.write_at(self.block, place.offset),
            false => self.mix.file.read_at(self.block, place.offset),
        }
    }

    fn ended(&mut self, place: Place) -> Result<(), String> {
        self.mix.ended(place.kind, self.block, place.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_follow_the_weights() {
        let mut weights = Weights::new([70, 30, 900].into_iter());
        let mut seen = [0_u32; 3];
        (0..100_000).for_each(|_| seen[weights.pick()] += 1);
        // 380 is four standard deviations of the largest.
        for (seen, expected) in seen.into_iter().zip([7_000_u32, 3_000, 90_000]) {
            assert!(seen.abs_diff(expected) < 400, "{seen} of {expected}");
        }
    }

    #[test]
    fn picks_are_the_same_in_every_run() {
        let picks = || {
            let mut weights = Weights::new([1, 1].into_iter());
            [0; 64].map(|_| weights.pick())
        };
        assert_eq!(picks(), picks());
        assert!(picks().contains(&0) && picks().contains(&1));
        assert_eq!(Weights::new([5].into_iter()).pick(), 0);
    }
}
