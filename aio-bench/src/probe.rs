//! What this machine, and one of its file systems, offer to tensor I/O.

mod report;

use std::io;
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
    let backends: Vec<_> = Backend::COMPILED.iter().map(|&backend| BackendReport::of(backend)).collect();
    let report = Report {
        best: backends.iter().find(|backend| backend.available).map(|backend| backend.backend.clone()),
        backends,
        dir: look_at(&args.dir),
        memlock: limits::memlock(),
        aio_slots: limits::aio_slots(),
        io_uring_disabled: limits::io_uring_disabled(),
        huge_pages: HugePages { transparent: limits::transparent_huge_pages(), size: limits::huge_page_size() },
        page_size: limits::page_size(),
        kernel: limits::kernel_release(),
        cpus: thread::available_parallelism().map_or(1, usize::from),
    };
    if args.json { output::json(&report) } else { output::line(&report.to_string()) }
}

fn look_at(dir: &Path) -> DirReport {
    let (direct_io, reason) = match direct_io(dir) {
        Ok(Alignment { offset: 0, .. }) => (None, Some("this file system has no direct I/O".to_owned())),
        Ok(alignment) => {
            (Some(DirectIo { offset_alignment: alignment.offset, memory_alignment: alignment.memory }), None)
        }
        Err(failure) => (None, Some(failure.to_string())),
    };
    let file_system = disk::file_system(dir).ok();
    DirReport { path: dir.to_owned(), file_system, free_bytes: disk::free_bytes(dir).ok(), direct_io, reason }
}

/// Asks a new file of the engine's own, which is gone again afterwards: only an open file can tell.
fn direct_io(dir: &Path) -> Result<Alignment, Failure> {
    let unusable = |error: io::Error| Failure::Failed(format!("cannot make a file in {}: {error}", dir.display()));
    let folder = Made::folder_in(dir).map_err(unusable)?;
    let handle = AioHandle::builder().build()?;
    let options = OpenOptions::new().read(true).write(true).create_new(true).direct(DirectMode::Auto);
    let alignment = handle.open_with(folder.path().join("probe"), &options)?.alignment();
    handle.close()?;
    Ok(alignment)
}
