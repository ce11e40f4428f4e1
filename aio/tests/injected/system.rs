//! The system under test, and what has to hold of it after each step.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aio::error::OpError;
use aio::{AioConfig, AioFile, AioHandle, Backend, DirectMode, Error, Ticket};
use aio_testkit::fault::{FaultBackend, Gate, Plan};
use proptest_state_machine::StateMachineTest;

use crate::bytes::Bytes;
use crate::machine::{Machine, Model, Setup, Step};
use crate::memory::{Guarded, Yard};
use crate::op::{Expected, FILES, SPANS, SPANS_AT_FIRST, Spec, Way, start_of};
use crate::support::staged::{Seen, Staged};
use crate::support::{self, Folder, pattern, until_idle};

/// What a sequence runs on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) backend: Backend,
    pub(crate) direct: DirectMode,
}

pub(crate) struct System {
    setup: Setup,
    plan: Arc<Plan>,
    backend: Arc<FaultBackend<Plan>>,
    gate: Arc<Gate>,
    config: AioConfig,
    folder: Folder,
    models: Vec<Bytes>,
    /// Of each file: where writes end that may have failed.
    unsure_ends: Vec<Vec<usize>>,
    yard: Arc<Yard>,
    staged: Vec<Arc<Seen>>,
    live: BTreeMap<usize, Live>,
    /// Whose tickets were dropped.
    detached: Vec<Op>,
    /// There while the handle is open.
    open: Option<Open>,
}

struct Open {
    aio: AioHandle,
    files: Vec<AioFile>,
}

/// An op that may be in flight.
struct Op {
    spec: Spec,
    expected: Expected,
}

struct Live {
    op: Op,
    ticket: Held,
}

/// A ticket, by what it gives back.
enum Held {
    Buffers(Ticket<Vec<(u64, Guarded)>>),
    Buffer(Ticket<Guarded>),
    Staged(Ticket<()>, Arc<Seen>),
}

/// A way to wait for a ticket.
type Waits<T> = fn(Ticket<T>) -> Result<T, OpError<T>>;

/// How an op ended, and the memory it had, if that is at hand.
struct Ended {
    error: Option<Error>,
    memory: Option<Vec<Vec<u8>>>,
}

impl StateMachineTest for System {
    type SystemUnderTest = Self;
    type Reference = Machine;

    fn init_test(model: &Model) -> Self {
        let Place { backend, direct } = model.place.expect("set before a sequence is run");
        let setup = model.setup.clone();
        let mut config = support::small(setup.workers, setup.depth, direct);
        config.block_size = setup.block_size;
        config.overlap_events = setup.overlap;
        config.single_submit = setup.single_submit;
        let plan = Arc::new(Plan::new(setup.seed, setup.faults.clone()));
        let backend = FaultBackend::new(backend.implementation().expect("compiled in"), plan.clone());
        let folder = Folder::new();
        let models = (0..FILES).map(|file| {
            let content = pattern(1_000_000 + file as u64, start_of(SPANS_AT_FIRST));
            folder.file(&file.to_string(), &content);
            Bytes::new(&content, start_of(SPANS.len()))
        });
        let models = models.collect();
        let gate = backend.gate();
        let mut system = Self {
            setup,
            plan,
            backend: Arc::new(backend),
            gate,
            config,
            folder,
            models,
            unsure_ends: vec![Vec::new(); FILES],
            yard: Arc::default(),
            staged: Vec::new(),
            live: BTreeMap::new(),
            detached: Vec::new(),
            open: None,
        };
        system.reopen();
        system
    }

    fn apply(mut system: Self, _model: &Model, step: Step) -> Self {
        match step {
            Step::Submit(spec) => system.submit(spec),
            Step::Wait(op) => system.wait(op, Ticket::wait, Ticket::wait, Ticket::wait),
            Step::Await(op) => system.wait(op, support::block_on, support::block_on, support::block_on),
            Step::WaitTimeout(op, milliseconds) => {
                let done = system.live[&op].ticket.wait_timeout(Duration::from_millis(milliseconds));
                assert!(!done || system.live[&op].ticket.is_done());
            }
            Step::Cancel(op) => {
                let live = system.live.get_mut(&op).expect("a live ticket");
                live.op.expected.cancelled = true;
                live.ticket.cancel();
            }
            Step::Drop(op) => system.detached.push(system.live.remove(&op).expect("a live ticket").op),
            Step::Hold => system.gate.close(),
            Step::Release => system.gate.open(),
            Step::WaitAll => {
                let waited = system.aio().wait().map(drop);
                system.all_ended(Some(waited));
                until_idle(system.aio());
            }
            Step::Sync(file) => match system.open().files[file].sync_data().wait() {
                Ok(()) => {}
                // With the last worker goes the handle.
                Err(failed) => assert!(
                    matches!(failed.error(), Error::WorkerDied { .. }) && system.plan.injected().deaths > 0,
                    "{failed}"
                ),
            },
            Step::Blocking(spec) => system.blocking(spec),
            Step::Scope(specs) => system.scope(specs),
            Step::Close => {
                let Open { aio, files } = system.open.take().expect("open");
                drop(files);
                let closed = system.while_it_opens(|| aio.close());
                system.all_ended(Some(closed));
                system.reopen();
            }
            Step::DropAll => {
                let open = system.open.take();
                system.while_it_opens(|| drop(open));
                system.all_ended(None);
                system.reopen();
            }
        }
        system
    }

    fn check_invariants(system: &Self, _model: &Model) {
        assert_eq!(system.gate.offences(), Vec::<String>::new());
    }

    fn teardown(mut system: Self, _model: Model) {
        let Open { aio, files } = system.open.take().expect("open");
        let closed = system.while_it_opens(|| aio.close());
        drop(files);
        system.all_ended(Some(closed));
        for seen in &system.staged {
            let (finished, dropped) = (seen.finished.load(Ordering::SeqCst), seen.dropped.load(Ordering::SeqCst));
            assert_eq!((finished, dropped), (1, 1), "calls of fini, and of drop");
        }
        system.yard.check();
        assert_eq!(system.gate.offences(), Vec::<String>::new());
    }
}

impl Drop for System {
    /// A failed check must not wait for a gate that no thread opens any more.
    fn drop(&mut self) {
        self.gate.open();
    }
}

impl System {
    fn open(&self) -> &Open {
        self.open.as_ref().expect("open between steps")
    }

    fn aio(&self) -> &AioHandle {
        &self.open().aio
    }

    fn path(&self, name: impl ToString) -> PathBuf {
        self.folder.path(&name.to_string())
    }

    fn reopen(&mut self) {
        let aio = AioHandle::with_backend(self.backend.clone(), self.config.clone()).expect("it worked before");
        let files = (0..FILES).map(|file| aio.open(self.path(file)).expect("it is there")).collect();
        self.open = Some(Open { aio, files });
    }

    /// Does what waits for everything in flight, while another thread opens the gate.
    fn while_it_opens<T>(&self, what: impl FnOnce() -> T) -> T {
        std::thread::scope(|scope| {
            scope.spawn(|| self.gate.open());
            what()
        })
    }

    fn file(&self, spec: &Spec) -> AioFile {
        let file = self.open().files[spec.file].validated(spec.validate);
        if spec.background { file.background() } else { file }
    }

    fn memory(&self, spec: &Spec) -> Vec<(u64, Guarded)> {
        let extents = spec.ranges().into_iter().enumerate();
        extents
            .map(|(index, range)| {
                let content = spec.content(index);
                (range.start as u64, Guarded::new(spec.memory, &content, self.aio(), &self.yard))
            })
            .collect()
    }

    fn op(&self, spec: Spec) -> Op {
        let len = self.models[spec.file].len();
        let expected = Expected::new(&spec, &self.plan, &self.setup.faults, len);
        Op { spec, expected }
    }

    fn submit(&mut self, spec: Spec) {
        let ticket = match spec.way {
            Way::Owned => {
                let (file, memory) = (self.file(&spec), self.memory(&spec));
                Held::Buffers(if spec.write { file.write_vectored(memory) } else { file.read_vectored(memory) })
            }
            Way::Staged(panics) => {
                let memory = spec.ranges().into_iter().enumerate();
                let memory = memory.map(|(index, range)| (range, spec.content(index))).collect();
                let target = self.open().files[spec.file].target();
                let (desc, seen) = Staged::new(spec.direction(), target, memory, panics, spec.validate);
                self.staged.push(seen.clone());
                let aio = if spec.background { self.aio().background() } else { self.aio().clone() };
                Held::Staged(aio.submit(desc), seen)
            }
            Way::New => {
                let aio = self.aio().validated(spec.validate);
                let aio = if spec.background { aio.background() } else { aio };
                let (_, memory) = self.memory(&spec).swap_remove(0);
                Held::Buffer(aio.write_new(self.path(format!("new{}", spec.id)), memory))
            }
        };
        let op = self.op(spec);
        self.live.insert(op.spec.id, Live { op, ticket });
    }

    fn wait(&mut self, op: usize, buffers: Waits<Vec<(u64, Guarded)>>, buffer: Waits<Guarded>, staged: Waits<()>) {
        let Live { op, ticket } = self.live.remove(&op).expect("a live ticket");
        let ended = match ticket {
            Held::Buffers(ticket) => owned(buffers(ticket), |memory| memory.into_iter().map(|(_, it)| it).collect()),
            Held::Buffer(ticket) => owned(buffer(ticket), |memory| vec![memory]),
            Held::Staged(ticket, seen) => {
                let error = staged(ticket).err().map(OpError::into_error);
                assert_eq!(seen.finished.load(Ordering::SeqCst), 1, "fini comes before the result");
                Ended { error, memory: Some(seen.memory.lock().unwrap().clone()) }
            }
        };
        self.ended(&op, ended);
    }

    fn blocking(&mut self, spec: Spec) {
        let file = self.file(&spec);
        // Each extent is a call of its own.
        for (index, (offset, mut memory)) in self.memory(&spec).into_iter().enumerate() {
            let call = Spec { pieces: vec![spec.pieces[index].clone()], ..spec.clone() };
            // What the whole op would write to this extent.
            memory.bytes_mut().copy_from_slice(&call.content(0));
            let op = self.op(call);
            let result = match op.spec.write {
                true => file.write_at(memory.bytes(), offset),
                false => file.read_at(memory.bytes_mut(), offset),
            };
            self.ended(&op, Ended { error: result.err(), memory: Some(vec![memory.bytes().to_vec()]) });
        }
    }

    fn scope(&mut self, specs: Vec<Spec>) {
        let ops: Vec<_> = specs.into_iter().map(|spec| self.op(spec)).collect();
        let mut memory: Vec<_> = ops.iter().map(|op| self.memory(&op.spec)).collect();
        let result = self.aio().scope(|scope| {
            for (op, memory) in ops.iter().zip(&mut memory) {
                let file = self.file(&op.spec);
                if op.spec.write {
                    let extents = memory.iter().map(|(offset, memory)| (*offset, memory.bytes())).collect();
                    scope.write_vectored(&file, extents);
                } else {
                    let extents = memory.iter_mut().map(|(offset, memory)| (*offset, memory.bytes_mut())).collect();
                    scope.read_vectored(&file, extents);
                }
            }
        });
        explain(&ops, failures(result));
        for (op, memory) in ops.iter().zip(memory) {
            if op.expected.may_fail() {
                self.ended_somehow(op);
            } else {
                let memory = memory.iter().map(|(_, memory)| memory.bytes().to_vec()).collect();
                self.ended(op, Ended { error: None, memory: Some(memory) });
            }
        }
    }

    /// Checks the end of one op, and brings the model up to date.
    fn ended(&mut self, op: &Op, ended: Ended) {
        let Op { spec, expected } = op;
        let ranges = spec.ranges();
        if let Some(error) = &ended.error {
            assert!(expected.allows(error), "{error}: {spec:?}, {expected:?}");
        } else {
            assert!(!expected.must_fail(), "Ok: {spec:?}, {expected:?}");
        }
        if spec.way == Way::New {
            self.new_file(op, ended.error.is_none());
            return;
        }
        // By the time of `fini` all bytes have moved.
        let moved = matches!(ended.error, None | Some(Error::Panicked { callback: "fini", .. }));
        let model = &mut self.models[spec.file];
        for (index, range) in ranges.iter().enumerate() {
            match (spec.write, moved) {
                (true, true) => model.write(range, &spec.content(index)),
                (true, false) => model.forget(range),
                (false, true) => {
                    if let Some(memory) = &ended.memory {
                        let differs = model.differs(range.start, &memory[index]);
                        assert_eq!(differs, None, "a wrong byte was read: {spec:?}");
                    }
                }
                (false, false) => {}
            }
        }
    }

    /// A new file is there as a whole, or not at all.
    fn new_file(&self, op: &Op, is_there: bool) {
        let found = std::fs::read(self.path(format!("new{}", op.spec.id)));
        match found {
            Ok(found) => {
                assert!(is_there && found == op.spec.content(0), "a file of {} bytes: {:?}", found.len(), op.spec)
            }
            Err(_) => assert!(!is_there, "no file: {:?}", op.spec),
        }
    }

    /// All that was in flight has ended; with what that gave, if it was asked.
    fn all_ended(&mut self, result: Option<aio::Result<()>>) {
        let ids: Vec<_> = self.live.keys().copied().collect();
        for id in ids {
            assert!(self.live[&id].ticket.is_done(), "op {id} has not ended");
            self.wait(id, Ticket::wait, Ticket::wait, Ticket::wait);
        }
        let detached = std::mem::take(&mut self.detached);
        if let Some(result) = result {
            explain(&detached, failures(result));
        }
        detached.iter().for_each(|op| self.ended_somehow(op));
        self.settle();
    }

    /// An op that ended without telling how.
    fn ended_somehow(&mut self, op: &Op) {
        let Op { spec, expected } = op;
        if !expected.may_fail() {
            self.ended(op, Ended { error: None, memory: None });
        } else if spec.way == Way::New {
            let is_there = self.path(format!("new{}", spec.id)).exists();
            assert!(!is_there || !expected.must_fail(), "{spec:?}, {expected:?}");
            self.new_file(op, is_there);
        } else if spec.write {
            for range in spec.ranges() {
                self.models[spec.file].forget(&range);
                self.unsure_ends[spec.file].push(range.end);
            }
        }
    }

    /// Nothing is in flight: holds the files against their models.
    fn settle(&mut self) {
        for (file, model) in self.models.iter_mut().enumerate() {
            let found = std::fs::read(self.folder.path(&file.to_string())).expect("it is there");
            model.settle(&found, &std::mem::take(&mut self.unsure_ends[file]));
        }
    }
}

impl Held {
    fn wait_timeout(&self, timeout: Duration) -> bool {
        let waited = match self {
            Self::Buffers(ticket) => ticket.wait_timeout(timeout),
            Self::Buffer(ticket) => ticket.wait_timeout(timeout),
            Self::Staged(ticket, _) => ticket.wait_timeout(timeout),
        };
        waited.expect("not on a worker")
    }

    fn is_done(&self) -> bool {
        match self {
            Self::Buffers(ticket) => ticket.is_done(),
            Self::Buffer(ticket) => ticket.is_done(),
            Self::Staged(ticket, _) => ticket.is_done(),
        }
    }

    fn cancel(&self) {
        match self {
            Self::Buffers(ticket) => ticket.cancel(),
            Self::Buffer(ticket) => ticket.cancel(),
            Self::Staged(ticket, _) => ticket.cancel(),
        }
    }
}

/// The memory that came back, and the error.
fn owned<T>(result: Result<T, OpError<T>>, memory: impl FnOnce(T) -> Vec<Guarded>) -> Ended {
    let (error, owned) = match result {
        Ok(owned) => (None, Some(owned)),
        Err(failed) => {
            let (error, owned) = failed.into_parts();
            (Some(error), owned)
        }
    };
    assert!(owned.is_some(), "no memory came back: {error:?}");
    let memory = owned.map(memory).map(|memory| memory.iter().map(|it| it.bytes().to_vec()).collect());
    Ended { error, memory }
}

fn failures<T>(result: aio::Result<T>) -> Vec<Error> {
    match result {
        Ok(_) => Vec::new(),
        Err(Error::Failures(failures)) => failures.errors,
        Err(error) => panic!("{error}"),
    }
}

/// Holds the failures of several ops against what each may do.
fn explain(ops: &[Op], errors: Vec<Error>) {
    let count = |may: fn(&Expected) -> bool| ops.iter().filter(|op| may(&op.expected)).count();
    // Cancelled and dropped, an op has not failed.
    let (least, most) = (count(|op| op.must_fail() && !op.cancelled), count(Expected::may_fail));
    assert!((least..=most).contains(&errors.len()), "not {least} to {most} failures: {errors:?}");
    for error in errors {
        assert!(ops.iter().any(|op| op.expected.allows(&error)), "{error}");
    }
}
