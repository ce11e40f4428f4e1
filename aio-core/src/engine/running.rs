//! An engine that runs: what its threads share, and the threads.

use std::fmt;
use std::sync::{Arc, PoisonError};

use crate::backend::IoBackend;
use crate::config::AioConfig;
use crate::engine::{Shared, worker};
use crate::error::Result;
use crate::file::OpenFile;
use crate::sync::thread::JoinHandle;
use crate::sync::{Mutex, MutexGuard, lock};
use crate::threads::on_any_worker;

/// Handles and files hold it. The drop of the last one waits for every op that was accepted and ends the threads.
pub(crate) struct Engine {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    /// Starts the workers.
    pub(crate) fn start(backend: Arc<dyn IoBackend>, config: AioConfig) -> Result<Self> {
        let workers = config.intra_op_parallelism;
        // Made first, so that its drop stops the workers that did start.
        let engine = Self { shared: Shared::new(backend, config), threads: Mutex::default() };
        for id in 0..workers {
            let thread = worker::spawn(&engine.shared, id)?;
            engine.threads().push(thread);
        }
        // Not before all of them are there to answer.
        engine.shared.arena.serve(&engine.shared.inboxes);
        Ok(engine)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        lock(&self.threads)
    }

    /// Takes no more ops, and ends the threads when all that were taken have ended.
    pub(crate) fn stop(&self) {
        let shared = &self.shared;
        shared.close();
        if on_any_worker() {
            // It could wait for itself. The threads end by themselves.
            return;
        }
        // Held until all have ended, so that a second call at the same time does not return before.
        let mut threads = self.threads();
        // Panics stay in the threads.
        let join = |thread: JoinHandle<()>| drop(thread.join());
        threads.drain(..).for_each(join);
        // Ops may wait for what another handle has in flight, also when all workers are gone.
        shared.op_queue.drain();
        // Now nothing starts one of these any more.
        shared.copy_threads.take().into_iter().for_each(join);
        shared.file_threads.take_threads().into_iter().for_each(join);
    }
}

impl Shared {
    /// Gives an open file a slot in the queues' tables of registered files, if one is free.
    pub(crate) fn offer_slot(&self, file: &OpenFile) {
        if self.config.register_files
            && let Some(slot) = self.files.register()
        {
            file.set_slot(slot);
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.shared.is_forked() {
            // The threads, and the locks they may have held, stayed with the parent.
            std::mem::forget(self.shared.clone());
            std::mem::forget(std::mem::take(self.threads.get_mut().unwrap_or_else(PoisonError::into_inner)));
            return;
        }
        self.stop();
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("backend", &self.shared.backend.name()).finish_non_exhaustive()
    }
}
