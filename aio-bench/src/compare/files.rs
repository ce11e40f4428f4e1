//! The files of a workload, and what the page cache holds of them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use aio_core::shown;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::unistd::syncfs;

use super::plan::Start;
use aio_cli::failure::Failure;
use aio_cli::host::limits;
use aio_cli::host::page_cache::PageCache;
use aio_cli::interrupt::Made;

/// Files in a folder of their own, which drop removes.
#[derive(Debug)]
pub(crate) struct Files {
    folder: Made,
    paths: Vec<PathBuf>,
    /// Whether the kernel counts what the page cache holds of these files.
    counted: bool,
}

impl Files {
    /// Makes a new folder in `dir`, for files of these names.
    pub(crate) fn make(dir: &Path, names: impl IntoIterator<Item = String>) -> Result<Self, Failure> {
        let folder = Made::folder_in(dir)?;
        let paths = names.into_iter().map(|name| folder.path().join(name)).collect();
        let counted = PageCache::counts_files_in(folder.path());
        Ok(Self { folder, paths, counted })
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Brings files and page cache into the state from which a contender is to start.
    pub(crate) fn prepare(&self, start: Start) -> Result<(), Failure> {
        let prepared = self.reset(start).and_then(|()| self.pages(start));
        let (cached, all) = prepared.map_err(|error| self.cannot("prepare", &error))?;
        if self.counted { require(start, cached, all) } else { Ok(()) }
    }

    /// Pages of the files that are in the page cache, as far as the kernel tells, and all of them.
    fn pages(&self, start: Start) -> io::Result<(u64, u64)> {
        let existing = self.paths.iter().filter(|_| start != Start::New);
        existing.map(File::open).try_fold((0, 0), |(cached, all), file| {
            let file = file?;
            let pages = file.metadata()?.len().div_ceil(limits::page_size());
            Ok((cached + PageCache::of(&file).map_or(0, |pages| pages.cached), all + pages))
        })
    }

    fn reset(&self, start: Start) -> io::Result<()> {
        let folder = File::open(self.folder())?;
        match start {
            Start::New => {
                for file in &self.paths {
                    match fs::remove_file(file) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                        _ => {}
                    }
                }
                // Otherwise freed space is discarded in the background, while the next contender is timed.
                syncfs(folder)?;
            }
            Start::Cold => {
                syncfs(folder)?;
                for file in &self.paths {
                    posix_fadvise(File::open(file)?, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
                }
            }
            Start::Cached => {
                for file in &self.paths {
                    io::copy(&mut File::open(file)?, &mut io::sink())?;
                }
            }
        }
        Ok(())
    }

    /// The error of a system call.
    pub(crate) fn cannot(&self, what: &str, error: &io::Error) -> Failure {
        Failure::Failed(format!("cannot {what} the files of a workload in {}: {error}", shown(self.folder())))
    }
}

/// Fails if files that should be cold are in the page cache, or the other way round.
fn require(start: Start, cached: u64, pages: u64) -> Result<(), Failure> {
    let (want, right) = match start {
        Start::New => return Ok(()),
        Start::Cold => ("not be in the page cache", cached == 0),
        Start::Cached => ("be in the page cache", cached >= pages),
    };
    if right {
        return Ok(());
    }
    Err(Failure::Failed(format!("the files should {want}, where {cached} of their {pages} pages are")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aio_cli::host::disk;

    #[test]
    fn what_the_page_cache_holds_is_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let prepared = |start, dir: &Path| {
            let files = Files::make(dir, (0..4).map(|number| number.to_string())).unwrap();
            files.paths().iter().for_each(|file| fs::write(file, [1; 64]).unwrap());
            files.prepare(start).map(|()| files)
        };
        let cold = prepared(Start::Cold, dir.path()).unwrap();
        if !cold.counted {
            return println!(
                "SKIPPED: the kernel does not tell what is cached (cachestat, Linux 6.5), or it is an overlay"
            );
        }
        assert_eq!(cold.pages(Start::Cold).unwrap(), (0, 4));
        // Another reader.
        fs::read(&cold.paths()[1]).unwrap();
        let (cached, all) = cold.pages(Start::Cold).unwrap();
        let warm = require(Start::Cold, cached, all).unwrap_err().to_string();
        assert_eq!(warm, "the files should not be in the page cache, where 1 of their 4 pages are");

        let cached = prepared(Start::Cached, dir.path()).unwrap();
        assert_eq!(cached.pages(Start::Cached).unwrap(), (4, 4));
        let cold = require(Start::Cached, 3, 4).unwrap_err().to_string();
        assert_eq!(cold, "the files should be in the page cache, where 3 of their 4 pages are");

        // A file system that is nothing but page cache.
        if disk::file_system(Path::new("/dev/shm")).is_ok_and(|name| name == "tmpfs") {
            assert!(prepared(Start::Cold, Path::new("/dev/shm")).is_err());
            prepared(Start::Cached, Path::new("/dev/shm")).unwrap();
        } else {
            println!("SKIPPED: /dev/shm is no tmpfs");
        }
    }
}
