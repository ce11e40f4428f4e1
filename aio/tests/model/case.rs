//! What sequences are made of, and how they are drawn.

use proptest::prelude::*;

use crate::support::Kind;

/// One sequence.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) workers: usize,
    pub(crate) depth: usize,
    pub(crate) block_size: usize,
    pub(crate) overlap: bool,
    pub(crate) single_submit: bool,
    pub(crate) preallocate: bool,
    /// Length of the file at first.
    pub(crate) len: usize,
    /// Whether it lies in the page cache at first.
    pub(crate) resident: bool,
    pub(crate) batches: Vec<Batch>,
}

/// What is in flight together, and what comes before it.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) before: Between,
    /// First byte of the first op.
    pub(crate) start: usize,
    pub(crate) ops: Vec<Op>,
    pub(crate) sync: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Between {
    Nothing,
    SetLen(usize),
    PunchHole(usize, usize),
    Allocate(usize, usize),
    Sync,
    Reopen,
}

#[derive(Debug, Clone)]
pub(crate) struct Op {
    pub(crate) write: bool,
    pub(crate) way: Way,
    pub(crate) memory: Kind,
    pub(crate) background: bool,
    pub(crate) validate: bool,
    /// Each with the gap before it; laid out one after the other, so that no two overlap.
    pub(crate) extents: Vec<(usize, usize)>,
    /// The extents of a vectored op are given in this order: as they are, or the other way round.
    pub(crate) reversed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Ticket,
    Dropped,
    Cancelled,
    CancelledAndDropped,
    Scope,
    Blocking,
}

pub(crate) fn cases() -> impl Strategy<Value = Case> {
    let shape = (prop::sample::select(vec![1usize, 3]), prop::sample::select(vec![1usize, 2, 8]));
    let block = prop::sample::select(vec![4096usize, 16384]);
    let flags = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.8));
    let len = prop_oneof![Just(0usize), 1..100_000usize, (0..24usize).prop_map(|pages| pages * 4096)];
    (shape, block, flags, (len, any::<bool>()), prop::collection::vec(batches(), 1..6)).prop_map(
        |((workers, depth), block_size, (overlap, single_submit, preallocate), (len, resident), batches)| Case {
            workers,
            depth,
            block_size,
            overlap,
            single_submit,
            preallocate,
            len,
            resident,
            batches,
        },
    )
}

fn batches() -> impl Strategy<Value = Batch> {
    let before = prop_oneof![
        6 => Just(Between::Nothing),
        1 => (0..200_000usize).prop_map(Between::SetLen),
        1 => (0..150_000usize, 0..50_000usize).prop_map(|(at, len)| Between::PunchHole(at, len)),
        1 => (0..150_000usize, 0..50_000usize).prop_map(|(at, len)| Between::Allocate(at, len)),
        1 => Just(Between::Sync),
        1 => Just(Between::Reopen),
    ];
    let start =
        prop_oneof![3 => 0..20_000usize, 1 => 0..150_000usize, 1 => (0..30usize).prop_map(|page| page * 4096)];
    (before, start, prop::collection::vec(ops(), 1..12), prop::bool::weighted(0.3))
        .prop_map(|(before, start, ops, sync)| Batch { before, start, ops, sync })
}

fn ops() -> impl Strategy<Value = Op> {
    let way = prop_oneof![
        5 => Just(Way::Ticket),
        2 => Just(Way::Dropped),
        2 => Just(Way::Cancelled),
        1 => Just(Way::CancelledAndDropped),
        2 => Just(Way::Scope),
        2 => Just(Way::Blocking),
    ];
    let memory = prop::sample::select(&Kind::ALL);
    let extents = prop_oneof![
        3 => prop::collection::vec((gaps(), lens()), 1..2),
        1 => prop::collection::vec((gaps(), lens()), 2..9),
    ];
    (prop::bool::weighted(0.7), way, memory, any::<bool>(), prop::bool::weighted(0.2), extents, any::<bool>())
        .prop_map(|(write, way, memory, background, validate, extents, reversed)| Op {
            write,
            way,
            memory,
            background,
            validate,
            extents,
            reversed,
        })
}

fn lens() -> impl Strategy<Value = usize> {
    prop_oneof![
        1 => Just(0usize),
        3 => 1..700usize,
        2 => Just(512usize),
        3 => (1..5usize).prop_map(|pages| pages * 4096),
        3 => 4000..4200usize,
        2 => 4096..40_000usize,
        1 => 40_000..90_000usize,
    ]
}

fn gaps() -> impl Strategy<Value = usize> {
    prop_oneof![
        6 => Just(0usize),
        3 => 1..600usize,
        2 => (1..4usize).prop_map(|pages| pages * 4096),
        1 => 600..9000usize,
    ]
}
