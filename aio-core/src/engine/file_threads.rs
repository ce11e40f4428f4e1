//! The threads for operations on whole files, and the queue of their tasks.
//!
//! These operations block for long (a sync for as long as the device needs), so they have threads of their own and never
//! hold up the transfers of a worker. The threads are started when needed, stay until the handle goes, and are few.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::engine::Shared;
use crate::engine::file_tasks::Task;
use crate::engine::transfer::Transfer;
use crate::foreign::log;
use crate::sync::{AtomicUsize, Ordering, ThreadSync, thread};
use crate::threads::{NoFileSizeSignal, block_signals, thread_main};

/// Most threads; enough for the syncs of several files to share a journal commit. One more may come for a
/// task with a permit.
const MAX_THREADS: usize = 4;
/// Most threads that open files, which may take for ever; the others are for syncs and the like.
const MAX_OPENING: usize = 2;

/// The threads and the tasks that wait for them.
#[derive(Debug, Default)]
pub(crate) struct FileThreads {
    state: ThreadSync<State>,
    /// Durable writes whose blocks are done, and which have not ended.
    unsynced: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Task>,
    idle: usize,
    /// Threads that open files.
    opening: usize,
    threads: Vec<thread::JoinHandle<()>>,
}

impl FileThreads {
    /// Makes all threads look whether they can go.
    pub(crate) fn wake_all(&self) {
        drop(self.state.lock());
        self.state.notify_all();
    }

    /// The threads, to be joined.
    pub(crate) fn take_threads(&self) -> Vec<thread::JoinHandle<()>> {
        std::mem::take(&mut self.state.lock().threads)
    }

    /// Durable writes whose blocks are done, and which have not ended.
    pub(crate) fn unsynced(&self) -> usize {
        self.unsynced.load(Ordering::Acquire)
    }

    /// So many durable writes have ended.
    pub(super) fn writes_synced(&self, writes: usize) {
        self.unsynced.fetch_sub(writes, Ordering::AcqRel);
    }

    /// Takes the durable writes to this file that wait for a thread.
    pub(super) fn take_writes_to_sync(&self, key: usize) -> Vec<Arc<Transfer>> {
        let mut taken = Vec::new();
        let mut state = self.state.lock();
        let tasks = std::mem::take(&mut state.queue).into_iter();
        state.queue = tasks
            .filter_map(|task| match task {
                Task::SyncWrite { op, file } if file == Some(key) => {
                    taken.push(op);
                    None
                }
                other => Some(other),
            })
            .collect();
        taken
    }
}

impl State {
    fn push(&mut self, task: Task) {
        // While it has a permit nothing is written past the page cache, so it waits for no other.
        if task.has_permit() { self.queue.push_front(task) } else { self.queue.push_back(task) }
    }

    /// The first task that may run now.
    fn runnable(&self) -> Option<usize> {
        self.queue.iter().position(|task| !task.opens() || self.opening < MAX_OPENING)
    }
}

impl Shared {
    /// Gives a task to a thread; if none can be had, runs it on the current one.
    pub(crate) fn run_file_task(self: &Arc<Self>, task: Task) {
        if let Task::SyncWrite { .. } = task {
            self.file_threads.unsynced.fetch_add(1, Ordering::AcqRel);
        }
        let most = MAX_THREADS + usize::from(task.has_permit());
        let mut state = self.file_threads.state.lock();
        state.push(task);
        if state.idle >= state.queue.len() || state.threads.len() >= most {
            drop(state);
            self.file_threads.state.notify_one();
            return;
        }
        let engine = self.clone();
        let run = move || thread_main(|| engine.file_thread());
        match thread::Builder::new().name("aio-file".into()).spawn(run) {
            Ok(thread) => state.threads.push(thread),
            Err(_) if !state.threads.is_empty() => {}
            Err(error) => {
                // Without a thread nothing else waits.
                let task = state.queue.pop_front();
                drop(state);
                log(|| tracing::warn!(%error, "no thread for a file operation: running it on the current one"));
                if let Some(task) = task {
                    // A change of length may pass the limit of file sizes, and this may be a user's thread.
                    let blocked = NoFileSizeSignal::new();
                    task.run(self);
                    blocked.discard();
                }
            }
        }
    }

    fn file_thread(self: &Arc<Self>) {
        block_signals();
        let _on_worker = self.enter_worker();
        let tasks = &self.file_threads.state;
        let mut state = tasks.lock();
        loop {
            state.idle += 1;
            let is_ready = |state: &mut State| state.runnable().is_some() || self.op_queue.is_finished();
            state = tasks.wait_until(state, None, is_ready).0;
            state.idle -= 1;
            let Some(task) = state.runnable().and_then(|index| state.queue.remove(index)) else { return };
            let opening = usize::from(task.opens());
            state.opening += opening;
            drop(state);
            task.run(self);
            state = tasks.lock();
            state.opening -= opening;
        }
    }
}
