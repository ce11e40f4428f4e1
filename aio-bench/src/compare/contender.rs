//! Who takes part, and what is asked of them.

use aio::Backend;

use super::contenders::{fio, glommio, mmap, ours, rio, std_fs};
use super::work::Work;
use crate::cli::CompareArgs;
use aio_cli::failure::Failure;
use aio_cli::host::cpu::{Elapsed, Stopwatch};

/// Somebody who can move blocks.
pub(crate) trait Contender {
    /// What a reader should know about it.
    fn note(&self) -> Option<&'static str> {
        None
    }

    /// Whether its blocks carry the stamps of [`Work`].
    fn stamps(&self) -> bool {
        true
    }

    /// Does the work once, and says how long that took. Memory is got ready before the clock starts.
    fn run(&mut self, work: &Work) -> Result<Elapsed, Failure>;
}

/// One of those this program knows, who takes part or cannot, for the reason given.
pub(crate) struct Entrant {
    /// As in tables.
    pub(crate) name: String,
    pub(crate) contender: Result<Box<dyn Contender>, String>,
}

/// Everybody this program knows.
pub(crate) fn field(args: &CompareArgs) -> Vec<Entrant> {
    let depth = usize::from(args.queue_depth);
    let mut field = Vec::new();
    let mut add = |name: String, contender: Result<_, String>| field.push(Entrant { name, contender });
    for &backend in Backend::COMPILED {
        add(ours::name(backend), ours::Engine::new(backend, depth).map(|engine| Box::new(engine) as _));
    }
    for threads in [1, usize::from(args.threads)] {
        add(std_fs::name(threads), Ok(Box::new(std_fs::StdFs::new(threads))));
    }
    add(mmap::NAME.to_owned(), Ok(Box::new(mmap::Mmap)));
    for engine in fio::Engine::ALL {
        add(engine.name().to_owned(), fio::Fio::find(engine, depth).map(|fio| Box::new(fio) as _));
    }
    add(rio::NAME.to_owned(), rio::contender(depth));
    add(glommio::NAME.to_owned(), glommio::contender(depth));
    field
}

/// A note on those who have no direct I/O.
pub(crate) const PAGE_CACHE: &str =
    "through the page cache: what it writes without a sync is only in memory at the end";

/// Times what `work` does.
pub(crate) fn timed(work: impl FnOnce() -> Result<(), Failure>) -> Result<Elapsed, Failure> {
    let watch = Stopwatch::start();
    work()?;
    Ok(watch.stop())
}

/// An error of something other than the library, as a failure of the contender.
pub(crate) fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(error.to_string())
}
