//! The file of a job: examined before anything changes, then opened or made.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use aio::{AioFile, AioHandle, DirectMode, OpenOptions};
use aio_core::shown;

use crate::cli::RunArgs;
use aio_cli::failure::Failure;
use aio_cli::host::disk;
use aio_cli::interrupt::Made;
use aio_cli::size;

/// A file that the job can use.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    path: &'a Path,
    writes: bool,
    direct: DirectMode,
    /// Length of the file; `None` if the job makes it.
    existing: Option<u64>,
    blocks: u64,
    block_size: u64,
    lays_out: bool,
}

impl<'a> Target<'a> {
    /// Refuses, with the reason, a file that the job cannot use or must not touch.
    pub(crate) fn look(args: &'a RunArgs) -> Result<Self, Failure> {
        let (path, writes, block_size) = (args.file.as_path(), args.writes(), args.block_size as u64);
        let existing = length(path, writes)?;
        let size = match (existing, args.size) {
            (Some(_), _) if writes && !args.overwrite => {
                return Err(Failure::Failed(format!(
                    "{} exists: writing would destroy what it holds; add --overwrite to allow that",
                    shown(path)
                )));
            }
            (Some(len), Some(size)) if size > len && !writes => {
                return Err(Failure::Failed(format!(
                    "{} has {len} bytes, and --size asks to read {size} of them",
                    shown(path)
                )));
            }
            (Some(0), None) => {
                let remedy = if writes { "--size says how much to write" } else { "there is nothing to read" };
                return Err(Failure::Failed(format!("{} is empty: {remedy}", shown(path))));
            }
            (Some(len), None) => len,
            (_, Some(size)) => size,
            (None, None) => {
                return Err(Failure::Usage(format!(
                    "{} does not exist yet: --size says how large to make it",
                    shown(path)
                )));
            }
        };
        let blocks = size / block_size;
        if blocks == 0 {
            let what = match args.size {
                Some(_) => format!("--size is {size} bytes"),
                None => format!("{} has {size} bytes", shown(path)),
            };
            let block = size::exact(block_size);
            let words = "ask for smaller blocks with --block-size";
            return Err(Failure::Failed(format!("{what}, less than one block of {block}: {words}")));
        }
        let grows = existing.is_none_or(|len| len < blocks * block_size);
        let lays_out = writes && args.reads() && (grows || args.verify);
        let target = Self { path, writes, direct: args.direct, existing, blocks, block_size, lays_out };
        if writes {
            let growth = target.bytes().saturating_sub(existing.unwrap_or(0));
            disk::require_room(disk::folder_of(path), (growth > 0).then_some(growth).into_iter())?;
        }
        Ok(target)
    }

    /// Whole blocks that the job uses, from the start of the file.
    pub(crate) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Their bytes.
    fn bytes(&self) -> u64 {
        self.blocks * self.block_size
    }

    /// The path.
    pub(crate) fn path(&self) -> &Path {
        self.path
    }

    /// Whether the job reads blocks that do not exist yet, so that all of the file has to be written first.
    pub(crate) fn lays_out(&self) -> bool {
        self.lays_out
    }

    /// Opens the file after it was made and written.
    pub(crate) fn reopen(&self, handle: &AioHandle) -> Result<AioFile, Failure> {
        let options = OpenOptions::new().direct(self.direct).read(true).write(self.writes);
        Ok(handle.open_with(self.path, &options)?)
    }

    /// Opens the file. Allocates disk space for writes beyond its end now, so that this is not measured.
    pub(crate) fn open(&self, handle: &AioHandle) -> Result<(AioFile, Option<New>), Failure> {
        match self.existing {
            Some(len) => {
                let file = self.reopen(handle)?;
                if self.writes && len < self.bytes() {
                    disk::allocate(&file, self.bytes())?;
                }
                Ok((file, None))
            }
            None => {
                let started = Instant::now();
                let options = OpenOptions::new().direct(self.direct).read(true).write(true).create_new(true);
                let make = || handle.open_with(self.path, &options).map(|file| (self.path.to_owned(), file));
                let (made, file) = Made::by(make)?;
                let create = started.elapsed();
                disk::allocate(&file, self.bytes())?;
                let allocate = started.elapsed().saturating_sub(create);
                Ok((file, Some(New { made, create, allocate })))
            }
        }
    }
}

/// A file that the job made, and how long that took.
#[derive(Debug)]
pub(crate) struct New {
    pub(crate) made: Made,
    pub(crate) create: Duration,
    /// The time to allocate disk space.
    pub(crate) allocate: Duration,
}

/// The length of the file; `None` if it does not exist and the job may make it.
fn length(path: &Path, writes: bool) -> Result<Option<u64>, Failure> {
    let cannot = |reason: String| {
        let verb = if writes { "write" } else { "read" };
        Err(Failure::Failed(format!("cannot {verb} {}: {reason}", shown(path))))
    };
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => cannot("it is a folder, not a file".to_owned()),
        Ok(metadata) if !metadata.is_file() => cannot("it is not a regular file".to_owned()),
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if writes && error.kind() == io::ErrorKind::NotFound => {
            disk::require_folder(disk::folder_of(path))?;
            Ok(None)
        }
        Err(error) => cannot(error.to_string()),
    }
}
