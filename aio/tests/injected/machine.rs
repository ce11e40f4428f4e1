//! What users do, as a state machine: which transitions make sense when.

use std::collections::BTreeSet;

use aio_testkit::fault::Faults;
use proptest::prelude::*;
use proptest::sample::select;
use proptest_state_machine::ReferenceStateMachine;

use crate::op::{FILES, Piece, SPANS, Spec, Way};
use crate::support::Kind;
use crate::support::staged::Panics;
use crate::system::Place;

/// The state as far as it decides what may come next.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) place: Option<Place>,
    pub(crate) setup: Setup,
    /// Spans of files that an op in flight may touch, with the op. No two ops have one in common.
    taken: Vec<(usize, usize, usize)>,
    /// Ops with a live ticket.
    live: BTreeSet<usize>,
    /// Numbers given to ops.
    used: usize,
    /// The gate is closed.
    held: bool,
}

/// How a sequence is set up.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) workers: usize,
    pub(crate) depth: usize,
    pub(crate) block_size: usize,
    pub(crate) overlap: bool,
    pub(crate) single_submit: bool,
    pub(crate) faults: Faults,
}

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Submit(Spec),
    Wait(usize),
    Await(usize),
    WaitTimeout(usize, u64),
    Cancel(usize),
    /// Drops the ticket.
    Drop(usize),
    /// Closes the gate: what is in flight stays there.
    Hold,
    Release,
    WaitAll,
    Sync(usize),
    Blocking(Spec),
    Scope(Vec<Spec>),
    /// Closes the handle, or drops it and its files, with whatever is in flight; and opens another.
    Close,
    DropAll,
}

pub(crate) struct Machine;

impl ReferenceStateMachine for Machine {
    type State = Model;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Model> {
        let shape = (1..4usize, select(vec![1usize, 2, 3, 8]), select(vec![4096usize, 16384]));
        let model =
            |setup| Model { place: None, setup, taken: Vec::new(), live: BTreeSet::new(), used: 0, held: false };
        (any::<u64>(), shape, any::<bool>(), prop::bool::weighted(0.3), faults())
            .prop_map(|(seed, (workers, depth, block_size), overlap, single_submit, faults)| Setup {
                seed,
                workers,
                depth,
                block_size,
                overlap,
                single_submit,
                faults,
            })
            .prop_map(model)
            .boxed()
    }

    fn transitions(state: &Model) -> BoxedStrategy<Step> {
        let mut steps = vec![
            (8, specs(state.used, false).prop_map(Step::Submit).boxed()),
            (2, Just(if state.held { Step::Release } else { Step::Hold }).boxed()),
            (1, prop_oneof![Just(Step::Close), Just(Step::DropAll)].boxed()),
        ];
        if !state.live.is_empty() {
            let live = select(state.live.iter().copied().collect::<Vec<_>>());
            steps.extend([
                (2, (live.clone(), 0..3u64).prop_map(|(op, ms)| Step::WaitTimeout(op, ms)).boxed()),
                (2, live.clone().prop_map(Step::Cancel).boxed()),
                (2, live.clone().prop_map(Step::Drop).boxed()),
            ]);
            if !state.held {
                steps.push((4, live.clone().prop_map(Step::Wait).boxed()));
                steps.push((2, live.prop_map(Step::Await).boxed()));
            }
        }
        if !state.held {
            let used = state.used;
            let scope = prop::collection::vec(specs(0, true), 1..5).prop_map(move |specs| {
                let number = |(index, spec)| Spec { id: used + index, ..spec };
                Step::Scope(specs.into_iter().enumerate().map(number).collect())
            });
            steps.extend([
                (2, Just(Step::WaitAll).boxed()),
                (1, (0..FILES).prop_map(Step::Sync).boxed()),
                (2, specs(used, true).prop_map(Step::Blocking).boxed()),
                (1, scope.boxed()),
            ]);
        }
        prop::strategy::Union::new_weighted(steps).boxed()
    }

    fn preconditions(state: &Model, step: &Step) -> bool {
        match step {
            Step::Submit(spec) => state.may_start(spec),
            Step::Blocking(spec) => !state.held && state.may_start(spec),
            Step::Scope(specs) => {
                let mut state = state.clone();
                !state.held
                    && specs.iter().all(|spec| {
                        let may = state.may_start(spec);
                        state.start(spec);
                        may
                    })
            }
            Step::Wait(op) | Step::Await(op) => !state.held && state.live.contains(op),
            Step::WaitTimeout(op, _) | Step::Cancel(op) | Step::Drop(op) => state.live.contains(op),
            Step::Hold => !state.held,
            Step::Release => state.held,
            Step::WaitAll | Step::Sync(_) => !state.held,
            Step::Close | Step::DropAll => true,
        }
    }

    fn apply(mut state: Model, step: &Step) -> Model {
        match step {
            Step::Submit(spec) => {
                state.start(spec);
                state.live.insert(spec.id);
            }
            Step::Blocking(spec) => state.used = state.used.max(spec.id + 1),
            Step::Scope(specs) => state.used = specs.iter().map(|spec| spec.id + 1).fold(state.used, usize::max),
            Step::Wait(op) | Step::Await(op) => {
                state.live.remove(op);
                state.taken.retain(|(taker, ..)| taker != op);
            }
            Step::Drop(op) => {
                state.live.remove(op);
            }
            Step::Hold => state.held = true,
            Step::Release => state.held = false,
            Step::WaitAll => state.all_ended(),
            Step::Close | Step::DropAll => {
                state.held = false;
                state.all_ended();
            }
            Step::WaitTimeout(..) | Step::Cancel(_) | Step::Sync(_) => {}
        }
        state
    }
}

impl Model {
    pub(crate) fn on(self, place: Place) -> Self {
        Self { place: Some(place), ..self }
    }

    fn may_start(&self, spec: &Spec) -> bool {
        let is_free =
            |piece: &Piece| !self.taken.iter().any(|(_, file, span)| (*file, *span) == (spec.file, piece.span));
        spec.id >= self.used && (spec.way == Way::New || spec.pieces.iter().all(is_free))
    }

    fn start(&mut self, spec: &Spec) {
        self.used = spec.id + 1;
        if spec.way != Way::New {
            self.taken.extend(spec.pieces.iter().map(|piece| (spec.id, spec.file, piece.span)));
        }
    }

    fn all_ended(&mut self) {
        self.live.clear();
        self.taken.clear();
    }
}

fn faults() -> impl Strategy<Value = Faults> {
    let death = (0..4usize, 1..40u64);
    prop_oneof![
        1 => Just(Faults::default()),
        4 => Just(Faults::survivable()),
        3 => (1..60u32).prop_map(|bad_pages| Faults { bad_pages, ..Faults::survivable() }),
        1 => (1..60u32).prop_map(|bad_pages| Faults { bad_pages, ..Faults::default() }),
        3 => prop::collection::vec(death, 1..4).prop_map(|deaths| Faults { deaths, ..Faults::survivable() }),
    ]
}

/// An op with the number `id`; only reads and writes of a file on memory that is lent, if `borrowed`.
fn specs(id: usize, borrowed: bool) -> impl Strategy<Value = Spec> {
    let trim = || prop_oneof![3 => Just(0usize), 2 => 1..600usize, 1 => Just(4096usize)];
    let piece = (0..SPANS.len(), trim(), trim()).prop_map(|(span, front, back)| Piece { span, front, back });
    let pieces = prop::collection::vec(piece, 1..4).prop_map(|mut pieces| {
        let mut spans = BTreeSet::new();
        pieces.retain(|piece| spans.insert(piece.span));
        pieces
    });
    let panics = prop_oneof![
        3 => Just(Panics::Never),
        1 => Just(Panics::Gather),
        1 => Just(Panics::Scatter),
        1 => Just(Panics::Fini)
    ];
    let way = prop_oneof![
        6 => Just(Way::Owned),
        3 => panics.prop_map(Way::Staged),
        1 => Just(Way::New),
    ];
    let memory = select(&Kind::ALL);
    (any::<bool>(), 0..FILES, way, pieces, memory, any::<bool>(), prop::bool::weighted(0.2)).prop_map(
        move |(write, file, way, pieces, memory, background, validate)| {
            let way = if borrowed { Way::Owned } else { way };
            Spec { id, write: write || way == Way::New, file, way, pieces, memory, background, validate }
        },
    )
}
