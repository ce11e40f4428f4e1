//! The contenders, and what each has to do.

use aio::Backend;

use super::contenders::{fio, glommio, mmap, ours, rio, safetensors, std_fs};
use super::measure::Measured;
use super::model::Model;
use super::work::Work;
use crate::cli::CompareArgs;
use aio_cli::failure::Failure;
use aio_cli::host::cpu::{Elapsed, Stopwatch};

/// Software that can move blocks, or load and save models.
pub(crate) trait Contender {
    /// A note for the reader.
    fn note(&self) -> Option<&'static str> {
        None
    }

    /// Whether its blocks carry the stamps of [`Work`].
    fn stamps(&self) -> bool {
        true
    }

    /// Does the work once, and returns how long that took. Preparing memory is not timed.
    fn run(&mut self, work: &Work) -> Result<Elapsed, Failure>;

    /// Does the work at least once and at most `most` times. A contender that can repeat it by itself, without files
    /// being prepared in between, makes use of that.
    fn repeat(&mut self, work: &Work, most: u64) -> Result<Measured, Failure> {
        let _ = most;
        Ok(Measured { passes: 1, elapsed: self.run(work)? })
    }

    /// Loads the model into fresh memory, or saves it, once, and returns how long that took. Checks what it loaded,
    /// untimed.
    fn run_model(&mut self, _: &Model) -> Result<Elapsed, Failure> {
        Err(failed("does not take part: it knows no safetensors files"))
    }

    /// As [`repeat`](Self::repeat).
    fn repeat_model(&mut self, model: &Model, most: u64) -> Result<Measured, Failure> {
        let _ = most;
        Ok(Measured { passes: 1, elapsed: self.run_model(model)? })
    }
}

/// A contender, or the reason why it cannot take part.
pub(crate) struct Entrant {
    /// The name in tables.
    pub(crate) name: String,
    pub(crate) contender: Result<Box<dyn Contender>, String>,
}

/// All contenders of this program.
pub(crate) fn field(args: &CompareArgs) -> Vec<Entrant> {
    let depth = usize::from(args.queue_depth);
    let mut field = Vec::new();
    let mut add = |name: String, contender: Result<_, String>| field.push(Entrant { name, contender });
    for &backend in Backend::COMPILED {
        add(ours::name(backend), ours::Engine::new(backend, depth).map(|engine| Box::new(engine) as _));
    }
    for threads in std_fs::counts(args.most_threads()) {
        add(std_fs::name(threads), Ok(Box::new(std_fs::StdFs::new(threads))));
    }
    add(mmap::NAME.to_owned(), Ok(Box::new(mmap::Mmap)));
    add(safetensors::NAME.to_owned(), Ok(Box::new(safetensors::Safetensors)));
    for engine in fio::Engine::ALL {
        add(engine.name().to_owned(), fio::Fio::find(engine, depth).map(|fio| Box::new(fio) as _));
    }
    add(rio::NAME.to_owned(), rio::contender(depth));
    add(glommio::NAME.to_owned(), glommio::contender(depth));
    field
}

/// The note of contenders without direct I/O.
pub(crate) const PAGE_CACHE: &str =
    "through the page cache: what it writes without a sync is only in memory at the end";

/// Times `work`.
pub(crate) fn timed(work: impl FnOnce() -> Result<(), Failure>) -> Result<Elapsed, Failure> {
    let watch = Stopwatch::start();
    work()?;
    Ok(watch.stop())
}

/// An error of a contender that is not this library's.
pub(crate) fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(error.to_string())
}
