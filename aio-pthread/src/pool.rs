//! The threads, and the mutex that blocks and completions pass through.
//!
//! Which side may sleep when, in one place:
//!
//! - While blocks are pending, a thread is on its way to look for them (`waking`), or all threads there can be are busy
//!   and look for them before they sleep. `State::summon` sees to that whenever blocks arrive or are left behind.
//! - The reaper announces how many completions it `wanted`; the thread that puts the last of them back notifies it.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use aio_core::backend::parts::log;
use aio_core::backend::{Completion, IoBlock, QueueConfig};

use crate::request;
use crate::signals::with_signals_blocked;

/// Most threads of one queue.
///
/// Enough to keep one NVMe drive busy with large blocks; a process has a pool per worker of the engine, so a machine
/// that needs more parallelism has it from there.
pub const MAX_THREADS: usize = 16;

/// A pool thread calls `preadv`, and logs at worst.
pub(crate) const STACK_SIZE: usize = 256 << 10;

/// The state that a queue shares with its threads and wakers.
#[derive(Debug)]
pub(crate) struct Pool {
    state: Mutex<State>,
    /// For pool threads: there are blocks, or it is over.
    work: Condvar,
    /// For the reaper: there are as many completions as it wanted, or it was woken.
    pub(crate) news: Condvar,
    /// Whether blocks may share a system call.
    pub(crate) merging: bool,
}

#[derive(Debug)]
pub(crate) struct State {
    /// Accepted, and not yet taken by a thread.
    pub(crate) pending: VecDeque<IoBlock>,
    /// Transferred, and not yet reaped.
    pub(crate) done: Vec<Completion>,
    /// The number of completions that the reaper sleeps for; `usize::MAX` when it does not.
    pub(crate) wanted: usize,
    /// The waker was used since the last reap returned.
    pub(crate) woken: bool,
    /// The queue is being dropped.
    closing: bool,
    /// Threads that run or are being started.
    pub(crate) threads: usize,
    /// Most of them.
    pub(crate) limit: usize,
    /// Threads that sleep.
    idle: usize,
    /// A thread was notified or is being started, and has not looked for blocks yet.
    waking: bool,
    handles: Vec<JoinHandle<()>>,
    pub(crate) stack_size: usize,
}

/// What `State::summon` decided, to be done without the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Summons {
    None,
    Sleeper,
    NewThread,
}

impl Pool {
    /// A pool for a queue with this config. Starts no thread.
    pub(crate) fn new(config: &QueueConfig) -> Arc<Self> {
        Self::with_limits(config, config.clamped_depth().min(MAX_THREADS), STACK_SIZE)
    }

    pub(crate) fn with_limits(config: &QueueConfig, limit: usize, stack_size: usize) -> Arc<Self> {
        let state = State {
            pending: VecDeque::new(),
            done: Vec::new(),
            wanted: usize::MAX,
            woken: false,
            closing: false,
            threads: 0,
            limit,
            idle: 0,
            waking: false,
            handles: Vec::new(),
            stack_size,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            work: Condvar::new(),
            news: Condvar::new(),
            merging: !config.single_submit,
        })
    }

    /// How many threads there are, or were when the pool was closed.
    pub(crate) fn threads(&self) -> usize {
        self.lock().threads
    }

    /// Hands blocks to the threads.
    ///
    /// # Safety
    ///
    /// The memory of the blocks is valid and theirs until their completions came back from [`wait`](Self::wait), or
    /// [`discard`](Self::discard) and a `wait` for all the others returned.
    pub(crate) unsafe fn push(self: &Arc<Self>, blocks: &[IoBlock]) {
        let mut state = self.lock();
        state.pending.extend(blocks);
        let summons = state.summon();
        drop(state);
        self.carry_out(summons);
    }

    /// Forgets the blocks that no thread has taken, and returns how many.
    pub(crate) fn discard(&self) -> usize {
        let mut state = self.lock();
        let discarded = state.pending.len();
        state.pending.clear();
        discarded
    }

    /// Ends the threads and waits for them. They finish what is pending first.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.work.notify_all();
        // A thread that started another one put its handle here before it ended itself, so none is missed.
        loop {
            let Some(handle) = self.lock().handles.pop() else { break };
            // An error is a panic, and `work` lets none out.
            let _ = handle.join();
        }
    }

    /// The life of a pool thread.
    fn work(self: &Arc<Self>) {
        let mut run = Vec::with_capacity(request::MAX_RUN);
        let mut done = Vec::with_capacity(request::MAX_RUN);
        let mut state = self.lock();
        state.waking = false;
        loop {
            state.take(self.merging, &mut run);
            if !run.is_empty() {
                let summons = state.summon();
                drop(state);
                self.carry_out(summons);
                transfer(&run, &mut done);
                run.clear();
                state = self.lock();
                state.done.append(&mut done);
                if state.done.len() >= state.wanted {
                    self.news.notify_one();
                }
            } else if state.closing {
                break;
            } else {
                state.idle += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
                state.waking = false;
            }
        }
    }

    fn carry_out(self: &Arc<Self>, summons: Summons) {
        match summons {
            Summons::None => {}
            Summons::Sleeper => self.work.notify_one(),
            Summons::NewThread => self.start(),
        }
    }

    /// Starts a thread that is counted already, or takes it off the count again.
    fn start(self: &Arc<Self>) {
        let stack_size = self.lock().stack_size;
        let pool = Arc::clone(self);
        let builder = thread::Builder::new().name("aio-pthread".into()).stack_size(stack_size);
        let started = with_signals_blocked(|| builder.spawn(move || pool.work()));
        let mut state = self.lock();
        match started {
            Ok(handle) => state.handles.push(handle),
            Err(error) => {
                state.threads -= 1;
                state.waking = false;
                // Make do with those there are; if there is none, the next `push` tries again.
                state.limit = state.threads.max(1);
                // One that became idle since then was not woken for what arrived since then.
                let summons = if state.idle > 0 { state.summon() } else { Summons::None };
                let threads = state.threads;
                drop(state);
                log(|| tracing::warn!(%error, threads, "cannot start another I/O thread"));
                self.carry_out(summons);
            }
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs with the lock held, and each change of the state is complete in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Moves what belongs in one system call to `run`, which is empty.
    pub(crate) fn take(&mut self, merging: bool, run: &mut Vec<IoBlock>) {
        let length = if merging { request::run_length(&self.pending) } else { self.pending.len().min(1) };
        run.extend(self.pending.drain(..length));
    }

    /// Decides which thread comes to take pending blocks, and counts on it.
    fn summon(&mut self) -> Summons {
        if self.waking || self.pending.is_empty() {
            Summons::None
        } else if self.idle > 0 {
            self.waking = true;
            Summons::Sleeper
        } else if self.threads < self.limit {
            self.waking = true;
            self.threads += 1;
            Summons::NewThread
        } else {
            Summons::None
        }
    }
}

/// Transfers a run and appends a completion for each of its blocks, whatever happens.
pub(crate) fn transfer(run: &[IoBlock], done: &mut Vec<Completion>) {
    // SAFETY: the blocks came through `Pool::push`, whose caller vouches for their memory until their completions were
    // handed out, and that happens after this.
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| unsafe { request::transfer(run, done) }));
    if outcome.is_err() {
        // Completions are appended in order.
        let lost = run.iter().skip(done.len());
        let lost: Vec<_> = lost.map(|block| Completion::from_kernel(block.token, -i64::from(libc::EIO))).collect();
        done.extend(lost);
    }
}
