//! Plain `pread(2)` and `pwrite(2)`, to compare blocking calls with.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::Duration;

use aio::DirectMode;
use aio_core::shown;
use nix::fcntl::OFlag;

use crate::cli::RunArgs;
use aio_cli::failure::Failure;

/// How long each side runs before the other: short against changes of the machine, long against the cost of switching.
pub(crate) const TURN: Duration = Duration::from_millis(50);

/// A separate descriptor for the file of a job.
#[derive(Debug)]
pub(crate) struct Bare {
    file: File,
    direct: bool,
    name: String,
}

impl Bare {
    /// Refuses jobs with more than one block in flight, which do not use blocking calls, and jobs that do more than the
    /// bare calls do.
    pub(crate) fn check(args: &RunArgs, threads: usize) -> Result<(), Failure> {
        let more = [("several --op", args.is_mixed()), ("--verify", args.verify), ("--log", args.log.is_some())];
        if let Some((what, _)) = more.iter().find(|(_, asked)| *asked) {
            return Err(Failure::Usage(format!(
                "--bare compares calls that all do the same and nothing else: it does not go with {what}"
            )));
        }
        if (args.queue_depth, threads, args.extents) == (1, 1, 1) {
            return Ok(());
        }
        Err(Failure::Usage(format!(
            "--bare measures blocking calls, which a job makes with --queue-depth 1, --threads 1 and --extents 1: \
             this one has {}, {threads} and {}",
            args.queue_depth, args.extents
        )))
    }

    /// Opens the file, and reads once to find out whether direct I/O accepts memory and blocks like `block`.
    pub(crate) fn open(args: &RunArgs, block: &mut [u8]) -> Result<Self, Failure> {
        let direct = args.direct == DirectMode::On;
        let flags = if direct { OFlag::O_DIRECT } else { OFlag::empty() };
        let name = shown(&args.file).to_string();
        let file = OpenOptions::new()
            .read(true)
            .write(args.writes())
            .custom_flags(flags.bits())
            .open(&args.file)
            .map_err(|error| Failure::Failed(format!("cannot open {name} for --bare: {error}")))?;
        // The file may be empty if its space could not be allocated, so reading nothing is no failure.
        file.read_at(block, 0).map_err(|error| {
            let why = if direct { ": O_DIRECT takes aligned memory and blocks only" } else { "" };
            Failure::Failed(format!("--bare cannot read {} bytes of {name}: {error}{why}", block.len()))
        })?;
        Ok(Self { file, direct, name })
    }

    /// Whether it bypasses the page cache.
    pub(crate) fn is_direct(&self) -> bool {
        self.direct
    }

    /// One `pread(2)`, unless it comes out short.
    #[inline]
    pub(crate) fn read_at(&self, block: &mut [u8], offset: u64) -> Result<(), String> {
        self.file.read_exact_at(block, offset).map_err(|error| self.failed("pread", offset, &error))
    }

    /// One `pwrite(2)`, unless it comes out short.
    #[inline]
    pub(crate) fn write_at(&self, block: &[u8], offset: u64) -> Result<(), String> {
        self.file.write_all_at(block, offset).map_err(|error| self.failed("pwrite", offset, &error))
    }

    #[cold]
    fn failed(&self, call: &str, offset: u64, error: &std::io::Error) -> String {
        format!("bare {call} of {} at {offset} failed: {error}", self.name)
    }
}
