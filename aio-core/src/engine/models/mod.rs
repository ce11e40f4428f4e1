//! Models of the engine's own synchronisation: loom runs each of them under every order of its threads' steps that its
//! bounds allow, with every value that the memory model lets an atomic load see.
//!
//! The types under test are the engine's own; what stands in is the kernel ([`still`]) and, where a model is about the
//! shared queues alone, the I/O that a worker does between a claim and the end of an op ([`Bench::work_once`]). One
//! protocol per file. How to run them, and what each was seen to catch: `.ci/models` and docs/reliability.md.

mod claims;
mod copies;
mod engine;
mod flags;
mod meeting;
mod memory;
mod parking;
mod routes;
mod still;
mod syncs;
mod tickets;
mod waker;

use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use self::still::Still;
use crate::api::ticket::Ticket;
use crate::backend::Direction;
use crate::config::{AioConfig, DirectMode};
use crate::engine::Shared;
use crate::engine::in_flight::Run;
use crate::engine::op_queue::{Claimed, Found, Wanted, WhenFull};
use crate::engine::op_state::OpState;
use crate::engine::promise::Promise;
use crate::engine::transfer::{Op, OpOptions, Transfer};
use crate::error::Error;
use crate::op::desc::{Extent, ExtentMemory, IoOpDesc, Outcome, PathMode, Target};
use crate::op::owned::Custom;
use crate::op::plan::{Alignment, Plan};

/// Bytes of a block.
const BLOCK: usize = 4096;

/// Runs `body` in every order with at most so many preemptions (switches away from a thread that could go on); `None`
/// for all there are. Fails on a panic, and where every thread that is left waits.
fn explore(what: &str, preemptions: impl Into<Option<usize>>, body: impl Fn() + Send + Sync + 'static) {
    let preemptions = preemptions.into();
    let executions = Arc::new(AtomicUsize::new(0));
    let mut model = loom::model::Builder::new();
    model.preemption_bound = preemptions;
    model.max_branches = 20_000;
    let count = executions.clone();
    model.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        body();
    });
    let bound = preemptions.map_or("any number of".to_owned(), |most| format!("at most {most}"));
    println!("model {what}: {} executions, {bound} preemptions", executions.load(Ordering::Relaxed));
}

/// An engine's settings with nothing in them that depends on time or on the machine.
fn config(workers: usize, depth: usize) -> AioConfig {
    AioConfig {
        block_size: BLOCK,
        queue_depth: depth,
        intra_op_parallelism: workers,
        copy_threads: 0,
        arena_limit: Some(1 << 20),
        direct: DirectMode::Off,
        register_files: false,
        spin: Duration::ZERO,
        ..AioConfig::default()
    }
}

/// An engine without worker threads: the model's threads do what they would do.
#[derive(Clone)]
struct Bench {
    shared: Arc<Shared>,
    /// How often an op ended.
    ends: Arc<AtomicUsize>,
}

/// An op of whole blocks on memory that nothing touches; it is planned like one on an open file.
struct Blocks {
    target: Target,
    extents: [Extent; 1],
    ends: Arc<AtomicUsize>,
}

// SAFETY: the getters are constant, and no queue of a model touches memory.
#[allow(unsafe_code)]
unsafe impl IoOpDesc for Blocks {
    fn direction(&self) -> Direction {
        Direction::Read
    }

    fn target(&self) -> &Target {
        &self.target
    }

    fn extents(&self) -> &[Extent] {
        &self.extents
    }

    fn fini(&self, _outcome: &Outcome) {
        self.ends.fetch_add(1, Ordering::Relaxed);
    }
}

impl Bench {
    fn new(config: AioConfig) -> Self {
        Self { shared: Shared::new(Arc::new(Still), config), ends: Arc::default() }
    }

    fn op(&self, blocks: usize) -> Arc<Op<Custom<Blocks>>> {
        self.planned(blocks, false)
    }

    /// An op that copiers do.
    fn copy(&self, blocks: usize) -> Arc<Op<Custom<Blocks>>> {
        self.planned(blocks, true)
    }

    fn planned(&self, blocks: usize, is_copy: bool) -> Arc<Op<Custom<Blocks>>> {
        let memory = ExtentMemory { ptr: NonNull::dangling(), region: None };
        let extents = [Extent { offset: 0, len: blocks * BLOCK, memory: Some(memory) }];
        let mut plan = Plan::new(Direction::Read, &extents, Alignment::NONE, BLOCK);
        plan.is_copy = is_copy;
        let target = Target::Path(PathBuf::new(), PathMode::Read);
        let options = OpOptions { has_callbacks: true, ..OpOptions::default() };
        let state = OpState::new(Promise::new(None), options, Some(plan));
        Arc::new(Op { state, desc: Custom(Blocks { target, extents, ends: self.ends.clone() }) })
    }

    /// Submits an op of so many blocks.
    fn submit(&self, blocks: usize) -> Ticket<()> {
        let op = self.op(blocks);
        self.shared.submit(&op, WhenFull::Wait).unwrap();
        Ticket::new(op, self.shared.clone())
    }

    /// Does what a worker does once: claims up to `room` blocks, lets `each` see the runs, accounts for them, and ends
    /// ops that are over. False if there was nothing to do; with `sleep`, the worker counts as sleeping then.
    fn work_once(&self, worker: usize, room: usize, sleep: bool, mut each: impl FnMut(&Run)) -> bool {
        let mut claimed = Claimed::default();
        let found = self.shared.claim(Wanted { worker, room, background: room, sleep }, &mut claimed);
        let Claimed { runs, mut ended, .. } = claimed;
        for mut run in runs {
            each(&run);
            let blocks = run.blocks();
            run.progress.next = run.progress.end;
            run.progress.done_with(blocks, blocks * BLOCK);
            let (op, finished, bytes) = run.into_account();
            if op.state.account(finished, bytes) {
                ended.push(op);
            }
        }
        let did_something = match found {
            Found::Asleep => false,
            // Ops that were stopped, if the worker wanted to sleep.
            Found::Nothing => sleep || !ended.is_empty(),
            Found::Blocks => true,
            Found::Unprepared(..) => panic!("a model's ops are planned"),
        };
        self.shared.end(ended);
        did_something
    }

    /// Works until nothing is left to claim.
    fn work(&self, worker: usize, room: usize) {
        while self.work_once(worker, room, false, |_| {}) {}
    }

    fn ends(&self) -> usize {
        self.ends.load(Ordering::Relaxed)
    }
}

/// A failure that a model gives an op.
fn failure() -> Error {
    Error::InvalidInput("as the model has it".to_owned())
}

/// Fails an op before its block was begun.
fn fail(op: &Transfer) {
    op.state.fail(0, failure());
}
