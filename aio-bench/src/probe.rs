//! What this machine, and one of its file systems, offer to tensor I/O.

mod report;

use std::path::Path;
use std::thread;

use aio::{AioHandle, Alignment, Backend, DirectMode, OpenOptions};

use crate::cli::ProbeArgs;
use crate::failure::Failure;
use crate::host::{disk, limits};
use crate::interrupt::Made;
use crate::output;
use report::{BackendReport, DirReport, DirectIo, HugePages, Report};

/// Looks, and prints what was found. Finding that something does not work is no failure.
pub(crate) fn probe(args: &ProbeArgs) -> Result<(), Failure> {
    disk::require_folder(&args.dir)?;
    let engine = match AioHandle::builder().build() {
        Ok(engine) => Some(engine),
        // Each backend's own probe says why.
        Err(aio::Error::Unavailable(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let report = Report {
        backends: Backend::COMPILED.iter().map(|&backend| BackendReport::of(backend)).collect(),
        auto: engine.as_ref().map(|engine| engine.backend_name()),
        dir: look_at(&args.dir, engine.as_ref()),
        memlock: limits::memlock(),
        aio_slots: limits::aio_slots(),
        io_uring_disabled: limits::io_uring_disabled(),
        huge_pages: HugePages { transparent: limits::transparent_huge_pages(), size: limits::huge_page_size() },
        page_size: limits::page_size(),
        kernel: limits::kernel_release(),
        cpus: thread::available_parallelism().map_or(1, usize::from),
    };
    output::result(&report, args.json)
}

fn look_at(dir: &Path, engine: Option<&AioHandle>) -> DirReport {
    let found = engine.map_or_else(|| Err("no backend works here".to_owned()), |engine| direct_io(dir, engine));
    let (direct_io, reason) = match found {
        Ok(Alignment { offset: 0, .. }) => (None, Some("this file system has no direct I/O".to_owned())),
        Ok(Alignment { offset, memory, .. }) => {
            (Some(DirectIo { offset_alignment: offset, memory_alignment: memory }), None)
        }
        Err(reason) => (None, Some(reason)),
    };
    let file_system = disk::file_system(dir).ok();
    DirReport { path: dir.to_owned(), file_system, free_bytes: disk::free_bytes(dir), direct_io, reason }
}

/// Asks a new file, which is gone again afterwards: only an open file can tell.
fn direct_io(dir: &Path, engine: &AioHandle) -> Result<Alignment, String> {
    let folder = Made::folder_in(dir).map_err(|error| format!("cannot make a file: {error}"))?;
    let options = OpenOptions::new().read(true).write(true).create_new(true).direct(DirectMode::Auto);
    let file = engine.open_with(folder.path().join("probe"), &options).map_err(|error| error.to_string())?;
    Ok(file.alignment())
}
