//! The threads for operations on whole files, and the queue of their tasks.
//!
//! These operations block for long (a sync for as long as the device needs), so they have threads of their own and
//! never hold up the transfers of a worker. The threads are started when needed, stay until the handle goes, and are
//! few.

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
pub(super) const MAX_OPENING: usize = 2;

/// The threads and the tasks that wait for them.
#[derive(Debug, Default)]
pub(crate) struct FileThreads {
    state: ThreadSync<State>,
    /// Durable writes by path whose blocks are done, and which have not ended: each has its file open.
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

    /// Durable writes by path whose blocks are done, and which have not ended: each has its file open.
    pub(crate) fn unsynced(&self) -> usize {
        self.unsynced.load(Ordering::Acquire)
    }

    /// A durable write by path has ended.
    pub(super) fn path_synced(&self) {
        self.unsynced.fetch_sub(1, Ordering::AcqRel);
    }

    /// Takes the durable writes to this file that wait for a thread.
    pub(super) fn take_writes_to_sync(&self, key: usize) -> Vec<Arc<Transfer>> {
        let mut taken = Vec::new();
        self.state.lock().queue.retain(|task| match task {
            Task::SyncWrite { op, file } if *file == Some(key) => {
                taken.push(op.clone());
                false
            }
            _ => true,
        });
        taken
    }
}

impl State {
    fn push(&mut self, task: Task) {
        // While it has a permit nothing is written past the page cache, so it waits for no other.
        if task.has_permit() { self.queue.push_front(task) } else { self.queue.push_back(task) }
    }

    /// A task that no thread would come to, where no more threads can be had: without threads any, and while all of
    /// them open files, which may take for ever, one that does not.
    fn take_stranded(&mut self) -> Option<Task> {
        if self.idle > 0 || self.opening < self.threads.len() {
            return None;
        }
        let index = self.queue.iter().position(|task| self.threads.is_empty() || !task.opens())?;
        self.queue.remove(index)
    }

    /// The first task that may run now.
    fn runnable(&self) -> Option<usize> {
        self.queue.iter().position(|task| !task.opens() || self.opening < MAX_OPENING)
    }
}

impl Shared {
    /// Gives a task to a thread; if none can be had, runs it on the current one.
    pub(crate) fn run_file_task(self: &Arc<Self>, task: Task) {
        if let Task::SyncWrite { file: None, .. } = task {
            self.file_threads.unsynced.fetch_add(1, Ordering::AcqRel);
        }
        let most = MAX_THREADS + usize::from(task.has_permit());
        let mut state = self.file_threads.state.lock();
        state.push(task);
        let mut stranded = None;
        if state.idle < state.queue.len() && state.threads.len() < most {
            let engine = self.clone();
            let run = move || thread_main(|| engine.file_thread());
            match thread::Builder::new().name("aio-file".into()).spawn(run) {
                Ok(thread) => state.threads.push(thread),
                Err(error) => stranded = state.take_stranded().map(|task| (task, error)),
            }
        }
        drop(state);
        self.file_threads.state.notify_one();
        if let Some((task, error)) = stranded {
            log(|| tracing::warn!(%error, "no thread for a file operation: running it on the current one"));
            // A change of length may pass the limit of file sizes, and this may be a user's thread.
            let blocked = NoFileSizeSignal::new();
            self.run_here(task);
            blocked.discard();
        }
    }

    /// Ends a task that waits for a thread, on the current one. The task was cancelled, so it does nothing else.
    pub(crate) fn end_cancelled_task(self: &Arc<Self>, is_it: impl Fn(&Task) -> bool) {
        let task = {
            let mut state = self.file_threads.state.lock();
            let index = state.queue.iter().position(is_it);
            index.and_then(|index| state.queue.remove(index))
        };
        if let Some(task) = task {
            self.run_here(task);
        }
    }

    /// Its callbacks must no more wait for the engine than on a worker.
    pub(super) fn run_here(self: &Arc<Self>, task: Task) {
        let _on_worker = self.enter_worker();
        task.run(self);
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::backend::Direction;
    use crate::config::{AioConfig, DirectMode};
    use crate::engine::file_jobs::Job;
    use crate::engine::no_queues::NoQueues;
    use crate::engine::op_queue::{Claimed, Found, Wanted, WhenFull};
    use crate::engine::prepare::Prepared;
    use crate::engine::promise::Promise;
    use crate::engine::transfer::OpOptions;
    use crate::file::write_back::Sync;
    use crate::file::{OpenFile, OpenOptions};
    use crate::op::desc::{PathMode, Target};
    use crate::op::owned::Owned;

    #[derive(Debug)]
    struct Opens(bool);

    impl Job for Opens {
        fn run(self: Arc<Self>, _: &Arc<Shared>) {}

        fn opens(&self) -> bool {
            self.0
        }
    }

    /// Where no more threads can be had, the caller runs what none of them would come to.
    #[test]
    fn tasks_are_stranded_only_behind_threads_that_open() {
        let job = |opens| Task::Job(Arc::new(Opens(opens)));
        let mut state = State::default();
        state.push(job(true));
        assert!(state.take_stranded().is_some(), "there is no thread");
        state.push(job(true));
        state.push(job(false));
        state.threads.push(thread::Builder::new().spawn(|| {}).unwrap());
        assert!(state.take_stranded().is_none(), "the thread is busy, and will come");
        state.opening = 1;
        assert!(state.take_stranded().is_some_and(|task| !task.opens()));
        assert!(state.take_stranded().is_none(), "what is left opens files");
        state.push(job(false));
        (state.opening, state.idle) = (0, 1);
        assert!(state.take_stranded().is_none(), "a thread is idle");
        state.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }

    /// Submits a durable op without bytes, and prepares it as a worker does.
    fn begin(shared: &Arc<Shared>, direction: Direction, target: Target) -> Prepared {
        let desc = match direction {
            Direction::Read => Owned::read(target, Vec::<u8>::new(), 0),
            Direction::Write => Owned::write(target, Vec::<u8>::new(), 0),
        };
        let options = OpOptions { durable: true, ..OpOptions::default() };
        let op: Arc<Transfer> = shared.op(desc, Promise::new(None), options);
        shared.submit_transfer(op, WhenFull::Refuse).unwrap();
        prepare_first(shared)
    }

    fn prepare_first(shared: &Arc<Shared>) -> Prepared {
        let wanted = Wanted { worker: 0, room: 1, background: 1, sleep: false };
        let Found::Unprepared(op, pass) = shared.claim(wanted, &mut Claimed::default()) else { panic!("planned") };
        shared.prepare(op, pass)
    }

    fn write(shared: &Arc<Shared>, target: Target) {
        let Prepared::Ended(op) = begin(shared, Direction::Write, target) else { panic!("no bytes") };
        shared.end([op]);
    }

    /// Runs `check` while no sync of the file comes to an end.
    fn with_syncs_held_back(file: &OpenFile, check: impl FnOnce()) {
        let run = || {
            check();
            Ok(())
        };
        file.inode().unwrap().write_back.sync_by(-1, Sync::Data, run).unwrap();
    }

    fn setup(path: &Path) -> (Arc<Shared>, OpenFile) {
        let shared = Shared::new(Arc::new(NoQueues), AioConfig { copy_threads: 0, ..AioConfig::default() });
        (shared, OpenFile::open(path, &OpenOptions::new().read(true).write(true), DirectMode::Off).unwrap())
    }

    #[test]
    fn few_files_are_open_only_to_be_synced() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let (shared, file) = setup(&path);
        let by_path = |mode| Target::at(&path, mode);
        with_syncs_held_back(&file, || {
            for _ in 0..128 {
                // What is written to an open file does not count.
                write(&shared, Target::File(file.clone()));
                write(&shared, by_path(PathMode::Write));
            }
            let read = begin(&shared, Direction::Read, by_path(PathMode::Read));
            let Prepared::Ended(read) = read else { panic!("{read:?}") };
            shared.end([read]);
            let refused = begin(&shared, Direction::Write, by_path(PathMode::Write));
            assert!(matches!(refused, Prepared::TooManyOpen), "{refused:?}");
        });
        while shared.file_threads.unsynced() > 0 {
            std::thread::yield_now();
        }
        // It went back to the queue.
        let refused = prepare_first(&shared);
        let Prepared::Ended(refused) = refused else { panic!("{refused:?}") };
        shared.end([refused]);
        shared.op_queue.drain();
        shared.close();
    }

    #[test]
    fn writes_of_one_file_that_wait_for_a_thread_share_a_sync() {
        let paths = [(); 2].map(|()| tempfile::NamedTempFile::new().unwrap().into_temp_path());
        let (shared, held) = setup(&paths[0]);
        let (_, file) = setup(&paths[1]);
        with_syncs_held_back(&held, || {
            // Every thread has a write that it cannot sync.
            (0..MAX_THREADS).for_each(|_| write(&shared, Target::at(&paths[0], PathMode::Write)));
            while !shared.file_threads.state.lock().queue.is_empty() {
                std::thread::yield_now();
            }
            (0..100).for_each(|_| write(&shared, Target::File(file.clone())));
        });
        shared.op_queue.drain();
        // Without that, a call is for one write per thread at most.
        let calls = file.inode().unwrap().write_back.calls();
        assert!((1..=MAX_THREADS as u64).contains(&calls), "{calls} calls");
        shared.close();
    }
}
