//! Promises: how the end of an op gets to the thread or the task that waits for it.
//!
//! A blocking wait and a `Future` are one mechanism: both leave a [`Waker`] and look again when it fires.
//!
//! Most ops end well before their tickets are waited for. For these one word is enough, [`Promise::phase`]: the end
//! moves it from `RUNNING` to `ENDED_WELL`, and the ticket from there to `TAKEN`. Everything else goes through the
//! lock: a ticket that is waited for, or dropped, leaves that in the state and moves the word from `RUNNING` to
//! `ATTENDED`. Either the end came before that, and the ticket sees it, or it comes after and looks at the state.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use smallvec::SmallVec;

use crate::error::{Error, Failures};
use crate::foreign::log;
use crate::foreign::report_drop;
use crate::op::desc::Outcome;
use crate::sync::{AtomicU8, Mutex, MutexGuard, Ordering, ThreadSync, lock};

/// The engine's side of a ticket or of a scope.
#[derive(Debug)]
pub(crate) struct Promise {
    /// All that a ticket reads when it spins or polls.
    phase: AtomicU8,
    state: Mutex<State>,
    scope: Option<Arc<ScopeSync>>,
}

/// Not ended, and the state says no more than that.
const RUNNING: u8 = 0;
/// Not ended, and the state says what to do then.
const ATTENDED: u8 = 1;
/// Ended well, which the state does not know.
const ENDED_WELL: u8 = 2;
/// As `ENDED_WELL`, and the ticket knows.
const TAKEN: u8 = 3;
/// Ended; the state says how.
const ENDED: u8 = 4;

#[derive(Debug)]
enum State {
    Running(Waiters),
    /// The ticket was dropped: a failure goes to the handle.
    Detached,
    /// The failure is boxed, so that ops that have none are smaller.
    Ended {
        outcome: Result<(), Box<Error>>,
        lost: bool,
    },
    Taken,
}

/// The wakers of the task that polled last, and of any number of threads.
#[derive(Debug, Default)]
struct Waiters {
    task: Option<Waker>,
    threads: SmallVec<[Waker; 1]>,
}

/// What is left to do after [`Promise::fulfil`], with no lock held.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct Notify {
    pub(crate) wakers: SmallVec<[Waker; 2]>,
    /// A failure whose ticket was dropped.
    pub(crate) unreported: Option<Error>,
}

impl Promise {
    /// Whether it is of a scope's op, which no thread waits for alone.
    pub(crate) fn is_of_scope(&self) -> bool {
        self.scope.is_some()
    }

    /// For a ticket, or for a scope.
    pub(crate) fn new(scope: Option<Arc<ScopeSync>>) -> Self {
        Self { phase: AtomicU8::new(RUNNING), state: Mutex::new(State::Running(Waiters::default())), scope }
    }

    /// Whether it moved from one phase to another; it may have been in a third.
    fn step(&self, from: u8, to: u8) -> bool {
        self.phase.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// With the state locked: makes the end look at it. False if the end was before that.
    fn attend(&self) -> bool {
        self.step(RUNNING, ATTENDED) || self.phase.load(Ordering::Acquire) == ATTENDED
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The op has ended. `lost`: the kernel may still use its memory, which must never be given back.
    ///
    /// For an op of a scope this is the last touch of anything that the scope borrowed.
    pub(crate) fn fulfil(&self, outcome: Outcome, lost: bool) -> Notify {
        if let Some(scope) = &self.scope {
            if lost {
                // The borrow ends when the scope returns, so it must not; and it would wait for ever.
                log(|| {
                    tracing::error!(
                        "a broken I/O queue may still use borrowed memory: aborting rather than corrupting it"
                    );
                });
                std::process::abort();
            }
            scope.ended(outcome);
            return Notify::default();
        }
        if !lost && outcome.is_ok() && self.step(RUNNING, ENDED_WELL) {
            return Notify::default();
        }
        let mut state = self.state();
        if self.is_done() {
            // An op ends once; the first end stands.
            return Notify::default();
        }
        let notify = match &mut *state {
            State::Running(waiters) => {
                let Waiters { task, threads } = std::mem::take(waiters);
                *state = State::Ended { outcome: outcome.map(drop).map_err(Box::new), lost };
                Notify { wakers: threads.into_iter().chain(task).collect(), unreported: None }
            }
            State::Detached => {
                *state = State::Taken;
                Notify { wakers: SmallVec::new(), unreported: outcome.err().and_then(unreported) }
            }
            State::Ended { .. } | State::Taken => Notify::default(),
        };
        self.phase.store(ENDED, Ordering::Release);
        drop(state);
        notify
    }

    /// Whether the op has ended.
    pub(crate) fn is_done(&self) -> bool {
        self.phase.load(Ordering::Acquire) >= ENDED_WELL
    }

    /// How it ended, once; `Err` with the failure of a second taking. And whether its memory is lost.
    pub(crate) fn take(&self) -> (Result<(), Error>, bool) {
        if self.step(ENDED_WELL, TAKEN) {
            return (Ok(()), false);
        }
        let mut state = self.state();
        match std::mem::replace(&mut *state, State::Taken) {
            State::Ended { outcome, lost } => (outcome.map_err(|error| *error), lost),
            other => {
                *state = other;
                (Err(Error::ResultTaken), false)
            }
        }
    }

    /// Ready if the op has ended; else `context`'s waker fires when it does. The latest waker counts.
    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<()> {
        if self.is_done() {
            return Poll::Ready(());
        }
        // Foreign code: cloned before, and the one it replaces dropped after, the lock.
        let mut waker = Some(context.waker().clone());
        let poll = match &mut *self.state() {
            State::Running(waiters) if self.attend() => {
                std::mem::swap(&mut waiters.task, &mut waker);
                Poll::Pending
            }
            _ => Poll::Ready(()),
        };
        drop(waker);
        poll
    }

    /// Adds a waiting thread; false if the op has ended. It leaves with [`remove_thread`](Self::remove_thread).
    pub(crate) fn add_thread(&self, waker: &Waker) -> bool {
        match &mut *self.state() {
            State::Running(waiters) if self.attend() => {
                waiters.threads.push(waker.clone());
                true
            }
            _ => false,
        }
    }

    /// The thread does not wait any more.
    pub(crate) fn remove_thread(&self, waker: &Waker) {
        if let State::Running(waiters) = &mut *self.state()
            && let Some(index) = waiters.threads.iter().position(|thread| thread.will_wake(waker))
        {
            waiters.threads.swap_remove(index);
        }
    }

    /// The ticket is dropped. Returns a failure that it did not take.
    pub(crate) fn detach(&self) -> Option<Error> {
        if self.step(ENDED_WELL, TAKEN) {
            return None;
        }
        let mut state = self.state();
        let before = std::mem::replace(&mut *state, State::Taken);
        if let State::Running(_) = before
            && self.attend()
        {
            *state = State::Detached;
        }
        drop(state);
        match before {
            State::Ended { outcome, .. } => outcome.err().and_then(|error| unreported(*error)),
            State::Running(waiters) => {
                report_drop(waiters);
                None
            }
            State::Detached | State::Taken => None,
        }
    }
}

/// The failure of an op whose ticket was dropped. A cancelled op ended as its owner asked.
fn unreported(failure: Error) -> Option<Error> {
    if let Error::Cancelled { .. } = failure { None } else { Some(failure) }
}

/// The ops of one scope.
#[derive(Debug, Default)]
pub(crate) struct ScopeSync {
    state: ThreadSync<ScopeState>,
}

#[derive(Debug)]
struct ScopeState {
    running: usize,
    ended: Failures,
}

impl Default for ScopeState {
    fn default() -> Self {
        Self { running: 0, ended: Failures::none() }
    }
}

impl ScopeSync {
    /// An op joins, before it is submitted.
    pub(crate) fn started(&self) {
        self.state.lock().running += 1;
    }

    fn ended(&self, outcome: Outcome) {
        let mut state = self.state.lock();
        match outcome {
            Ok(_) => state.ended.completed += 1,
            Err(error) => state.ended.add(error),
        }
        state.running -= 1;
        if state.running == 0 {
            self.state.notify_all();
        }
    }

    /// Waits for all of them.
    pub(crate) fn wait(&self) -> Result<(), Failures> {
        let (mut state, _) = self.state.wait_until(self.state.lock(), None, |state| state.running == 0);
        state.ended.take().map(|_completed| ())
    }
}
