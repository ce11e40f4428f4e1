//! What this machine, and one of its file systems, offer to tensor I/O.

mod findings;
mod report;
mod text;

use std::path::Path;
use std::thread;

use aio::op::Alignment;
use aio::{AioConfig, AioHandle, Backend, DirectMode, OpenOptions};
use aio_core::shown;

use crate::cli::{FailOn, ProbeArgs};
use crate::failure::Failure;
use crate::host::{disk, limits};
use crate::interrupt::Made;
use crate::output;
use findings::Severity;
use report::{BackendReport, Defaults, DirReport, DirectIo, HugePages, Report, SCHEMA};

/// Examines the machine, prints the report, and fails as `--fail-on` says.
pub(crate) fn probe(args: &ProbeArgs) -> Result<(), Failure> {
    disk::require_folder(&args.dir)?;
    let auto = match aio::builder().build() {
        Ok(engine) => Some(engine),
        // The probe of each backend gives the reason.
        Err(aio::Error::Unavailable(_)) => None,
        Err(error) => return Err(error.into()),
    };
    // Any backend can examine the folder, also when AIO_BACKEND names one that does not work.
    let other = || Backend::COMPILED.iter().find_map(|&backend| aio::builder().backend(backend).build().ok());
    let dir = look_at(&args.dir, auto.clone().or_else(other).as_ref());
    let mut report = Report {
        schema: SCHEMA,
        findings: Vec::new(),
        backends: Backend::COMPILED.iter().map(|&backend| BackendReport::of(backend)).collect(),
        auto: auto.as_ref().map(|engine| engine.backend_name()),
        aio_backend: std::env::var(Backend::VARIABLE).ok().filter(|name| !name.is_empty()),
        defaults: Defaults::of(&AioConfig::default()),
        dir,
        memlock: limits::memlock(),
        open_files: limits::open_files(),
        file_size: limits::file_size(),
        aio_slots: limits::aio_slots(),
        io_uring_disabled: limits::io_uring_disabled(),
        huge_pages: HugePages {
            transparent: limits::transparent_huge_pages(),
            size: limits::huge_page_size(),
            collapse: aio_core::can_collapse(),
        },
        page_size: limits::page_size(),
        kernel: limits::kernel_release(),
        cpus: thread::available_parallelism().map_or(1, usize::from),
    };
    report.findings = findings::findings(&report);
    output::result(&report, args.json)?;
    verdict(&report, args.fail_on)
}

fn verdict(report: &Report, fail_on: FailOn) -> Result<(), Failure> {
    let (worst, what) = match fail_on {
        FailOn::Error => (Severity::Error, "of severity error"),
        FailOn::Warning => (Severity::Warning, "of severity warning or error"),
        FailOn::Never => return Ok(()),
    };
    let bad: Vec<_> = report.findings.iter().filter(|found| found.severity <= worst).map(|found| found.id).collect();
    match bad.len() {
        0 => Ok(()),
        1 => Err(Failure::Found(format!("1 finding is {what}: {}", bad[0]))),
        count => Err(Failure::Found(format!("{count} findings are {what}: {}", bad.join(", ")))),
    }
}

fn look_at(dir: &Path, engine: Option<&AioHandle>) -> DirReport {
    let mut report = DirReport {
        path: dir.to_owned(),
        file_system: disk::file_system(dir).ok(),
        free_bytes: disk::free_bytes(dir),
        writable: false,
        direct_io: None,
        reason: None,
        errno: None,
    };
    let folder = match Made::try_folder_in(dir) {
        Ok(folder) => folder,
        Err(error) => {
            report.reason = Some(format!("cannot make a file in {}: {error}", shown(dir)));
            report.errno = error.raw_os_error();
            return report;
        }
    };
    report.writable = true;
    let Some(engine) = engine else {
        report.reason = Some("no backend works here".to_owned());
        return report;
    };
    match direct_io(folder.path(), engine) {
        Ok(Alignment { offset: 0, .. }) => report.reason = Some("this file system has no direct I/O".to_owned()),
        Ok(Alignment { offset, memory, .. }) => {
            report.direct_io = Some(DirectIo { offset_alignment: offset, memory_alignment: memory });
        }
        Err(error) => {
            (report.writable, report.errno) = (false, error.raw_os_error());
            report.reason = Some(error.to_string());
        }
    }
    report
}

/// Makes a file to ask: only an open file can tell.
fn direct_io(folder: &Path, engine: &AioHandle) -> Result<Alignment, aio::Error> {
    let options = OpenOptions::new().read(true).write(true).create_new(true).direct(DirectMode::Auto);
    Ok(engine.open_with(folder.join("probe"), &options)?.alignment())
}
