//! fio, run as fast as it can: huge pages, batches, registered memory and files.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;

use crate::compare::contender::{Contender, failed};
use crate::compare::measure::Measured;
use crate::compare::model::Model;
use crate::compare::plan::{LARGE, Start};
use crate::compare::work::Work;
use aio_cli::failure::Failure;
use aio_cli::host::cpu::Elapsed;
use aio_cli::host::disk;
use aio_cli::interrupt;

/// fio's way of doing I/O.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Engine {
    IoUring,
    Libaio,
}

impl Engine {
    pub(crate) const ALL: [Self; 2] = [Self::IoUring, Self::Libaio];

    /// The name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::IoUring => "fio io_uring",
            Self::Libaio => "fio libaio",
        }
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            Self::IoUring => &["--ioengine=io_uring", "--fixedbufs=1"],
            Self::Libaio => &["--ioengine=libaio", "--userspace_reap=1"],
        }
    }
}

/// The most passes over new files that one fio makes; it has the files of all of them open.
const NEW_PASSES: u64 = 64;
/// What direct I/O takes anywhere.
const PAGE: usize = 4 << 10;

/// The fio on PATH.
pub(crate) struct Fio {
    engine: Engine,
    depth: usize,
}

impl Fio {
    /// Finds fio.
    pub(crate) fn find(engine: Engine, depth: usize) -> Result<Self, String> {
        match Command::new("fio").arg("--version").output() {
            Ok(output) if output.status.success() => Ok(Self { engine, depth }),
            Ok(output) => Err(format!("fio --version ended with {}", output.status)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(format!("no fio on PATH: {error}")),
            Err(error) => Err(format!("cannot start fio: {error}")),
        }
    }

    /// fio doing the work this often. It makes each new file once, so more passes are more files.
    fn command(&self, work: &Work, passes: u64) -> Command {
        let spec = &work.spec;
        let times = if spec.start == Start::New { passes } else { 1 };
        let mut fio = self.command_in(work.folder());
        fio.arg("--filename_format=$filenum");
        fio.arg(format!("--nrfiles={}", spec.files() * times)).arg("--file_service_type=sequential");
        if spec.files() > 1 {
            // fio opens, makes and closes these files as it goes, so it cannot register them.
            fio.arg(format!("--openfiles={}", self.depth)).arg("--create_on_open=1");
        } else if let Engine::IoUring = self.engine {
            fio.arg("--registerfiles=1");
        }
        fio.arg(format!("--filesize={}", work.file_len())).arg(format!("--size={}", spec.bytes_on_disk() * times));
        match (spec.start, spec.random) {
            (Start::New, _) => fio.arg(format!("--number_ios={}", spec.moved * passes)).arg("--unlink=1"),
            // Its loops begin at a new place, and may end before all reads are done.
            (_, true) => fio.arg(format!("--io_size={}", spec.bytes() * passes)),
            (_, false) => fio.arg(format!("--loops={passes}")),
        };
        fio.arg(format!("--bs={}", spec.block));
        let batch = (self.depth / 2).max(1);
        if spec.block < 1 << 20 {
            fio.arg(format!("--iodepth_batch_submit={batch}"));
            fio.args(["--iodepth_batch_complete_min=1".to_owned(), format!("--iodepth_batch_complete_max={batch}")]);
        }
        let random = if spec.random { "rand" } else { "" };
        fio.arg(format!("--rw={random}{}", if spec.writes { "write" } else { "read" }));
        match spec.start {
            Start::New if spec.files() == 1 => fio.arg("--fallocate=posix"),
            Start::New => &mut fio,
            Start::Cold if spec.writes => fio.arg("--overwrite=1"),
            Start::Cold => &mut fio,
            Start::Cached => fio.arg("--invalidate=0"),
        };
        fio.arg(if spec.start == Start::Cached { "--direct=0" } else { "--direct=1" });
        if spec.durable {
            fio.arg("--end_fsync=1");
        }
        fio
    }

    /// fio with what is the same for all work.
    fn command_in(&self, folder: &Path) -> Command {
        let mut fio = Command::new("fio");
        // With this malloc uses huge pages, and fio's buffers come from malloc.
        fio.env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1").env_remove("RUST_LOG").stdin(Stdio::null());
        fio.args(["--name=compare", "--output-format=json", "--group_reporting=1", "--gtod_reduce=1"]);
        fio.args(["--norandommap=1", "--random_generator=lfsr", "--iomem_align=2m"]);
        // As an option, a path ends at a colon and has to be UTF-8.
        fio.args(self.engine.options()).arg(format!("--iodepth={}", self.depth)).current_dir(folder);
        fio
    }

    /// fio reading the files of a model this often, or writing new ones of their lengths, in whole blocks; and how many
    /// bytes these are.
    fn command_for(&self, model: &Model, passes: u64) -> (Command, u64) {
        let mut fio = self.command_in(model.folder());
        // Files of a model of 1 MiB are smaller.
        let shortest = model.lens().iter().min().map_or(0, |len| len / PAGE * PAGE);
        let block = LARGE.min(shortest).max(PAGE);
        let blocks = model.lens().iter().map(|len| (len / block) as u64);
        fio.arg(format!("--bs={block}")).arg("--file_service_type=sequential");
        if let Engine::IoUring = self.engine {
            fio.arg("--registerfiles=1");
        }
        if model.saves() {
            let (files, blocks) = (model.lens().len() as u64 * passes, blocks.max().unwrap_or(0));
            let len = blocks * block as u64;
            fio.args(["--filename_format=fio.$filenum", "--rw=write", "--direct=1", "--unlink=1"]);
            fio.args(["--fallocate=posix", "--end_fsync=1"]).arg(format!("--nrfiles={files}"));
            fio.arg(format!("--filesize={len}")).arg(format!("--size={}", len * files));
            return (fio, len * files);
        }
        let names = model.shards().iter().filter_map(|path| Some(path.file_name()?.to_string_lossy()));
        fio.arg(format!("--filename={}", names.collect::<Vec<_>>().join(":")));
        fio.arg("--rw=read").arg(format!("--loops={passes}"));
        match model.spec.start {
            Start::Cached => fio.args(["--direct=0", "--invalidate=0"]),
            _ => fio.arg("--direct=1"),
        };
        (fio, blocks.sum::<u64>() * block as u64 * passes)
    }

    /// Runs it, and requires that it moved these bytes. The time is that which `worth` bytes take at its rate.
    fn measured(fio: Command, writes: bool, bytes: u64, worth: u64) -> Result<Elapsed, Failure> {
        let (status, stdout, stderr) = run_to_the_end(fio)?;
        if !status.success() {
            let last = stderr.lines().rfind(|line| !line.is_empty()).unwrap_or("without a word");
            return Err(failed(format!("fio ended with {status}: {last}")));
        }
        // Notes can precede the object.
        let object = stdout.find('{').map_or("", |at| &stdout[at..]);
        let report: Report =
            serde_json::from_str(object).map_err(|error| failed(format!("fio's output: {error}")))?;
        report.elapsed(writes, bytes, worth)
    }
}

impl Contender for Fio {
    fn note(&self) -> Option<&'static str> {
        Some(
            "its own figures: they leave out opening and allocating a large file, and the CPU time of the kernel's workers; \
             blocks are not checked",
        )
    }

    fn stamps(&self) -> bool {
        false
    }

    fn run(&mut self, work: &Work) -> Result<Elapsed, Failure> {
        Ok(self.repeat(work, 1)?.elapsed)
    }

    /// Its clock counts milliseconds, so it has to run for many of them at a time.
    fn repeat(&mut self, work: &Work, most: u64) -> Result<Measured, Failure> {
        let spec = &work.spec;
        let passes = if spec.start == Start::New { most.min(NEW_PASSES) } else { most };
        if passes > 1 && spec.start == Start::New {
            let len = work.file_len();
            disk::require_room(work.folder(), (0..spec.files() * passes).map(|_| len))?;
        }
        let bytes = spec.bytes() * passes;
        Ok(Measured { passes, elapsed: Self::measured(self.command(work, passes), spec.writes, bytes, bytes)? })
    }

    fn run_model(&mut self, model: &Model) -> Result<Elapsed, Failure> {
        Ok(self.repeat_model(model, 1)?.elapsed)
    }

    fn repeat_model(&mut self, model: &Model, most: u64) -> Result<Measured, Failure> {
        let passes = if model.saves() { most.min(NEW_PASSES / model.lens().len() as u64) } else { most };
        if model.saves() {
            let lens = model.lens().iter().map(|len| *len as u64);
            disk::require_room(model.folder(), (0..passes).flat_map(|_| lens.clone()))?;
        }
        let (fio, bytes) = self.command_for(model, passes);
        let worth = model.spec.bytes * passes;
        Ok(Measured { passes, elapsed: Self::measured(fio, model.saves(), bytes, worth)? })
    }
}

/// Its status, stdout and stderr. A signal to this process ends it, too.
fn run_to_the_end(mut fio: Command) -> Result<(ExitStatus, String, String), Failure> {
    let cannot_start = |error| failed(format!("cannot start fio: {error}"));
    let capture = || -> io::Result<(File, Stdio)> {
        let file = tempfile::tempfile()?;
        Ok((file.try_clone()?, file.into()))
    };
    let [(stdout, to_stdout), (stderr, to_stderr)] =
        [capture().map_err(cannot_start)?, capture().map_err(cannot_start)?];
    // A fio that cannot start a thread sends SIGTERM to its whole process group.
    let mut child = fio.stdout(to_stdout).stderr(to_stderr).process_group(0).spawn().map_err(cannot_start)?;
    let pid = i32::try_from(child.id()).map(Pid::from_raw).map_err(failed)?;
    let mut ending = false;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        if !ending && interrupt::check().is_err() {
            ending = true;
            // Its jobs are processes in sessions of their own, which only fio ends: SIGKILL would leave them running.
            let _ = kill(pid, Signal::SIGTERM);
        }
        thread::sleep(Duration::from_millis(5));
    };
    interrupt::check()?;
    let text = |mut file: File| -> io::Result<String> {
        let mut bytes = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    Ok((status, text(stdout).map_err(failed)?, text(stderr).map_err(failed)?))
}

/// What is read of fio's JSON.
#[derive(Debug, Deserialize)]
struct Report {
    jobs: Vec<Job>,
}

#[derive(Debug, Deserialize)]
struct Job {
    error: i64,
    read: Side,
    write: Side,
    usr_cpu: f64,
    sys_cpu: f64,
}

#[derive(Debug, Deserialize)]
struct Side {
    io_bytes: u64,
    /// Bytes per second.
    bw_bytes: f64,
}

impl Report {
    fn elapsed(&self, writes: bool, bytes: u64, worth: u64) -> Result<Elapsed, Failure> {
        let [job] = self.jobs.as_slice() else { return Err(failed("fio reports no single job")) };
        let side = if writes { &job.write } else { &job.read };
        if job.error != 0 || side.io_bytes != bytes || side.bw_bytes <= 0.0 {
            let moved = side.io_bytes;
            return Err(failed(format!("fio moved {moved} of {bytes} bytes, with error {}", job.error)));
        }
        // fio's run time is in whole milliseconds; the rate is exact.
        let seconds = worth as f64 / side.bw_bytes;
        let cpu = seconds * (job.usr_cpu + job.sys_cpu) / 100.0;
        Ok(Elapsed { wall: Duration::from_secs_f64(seconds), cpu: Duration::from_secs_f64(cpu.max(0.0)) })
    }
}
