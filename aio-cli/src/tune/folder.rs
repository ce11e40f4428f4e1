//! One folder: its data file, and measuring a candidate on it.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aio::buf::AlignedBuf;
use aio::{AioFile, AioHandle, DirectMode, OpenOptions};
use aio_core::shown;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::candidate::Candidate;
use super::sample::{Pair, Sample};
use super::search::{Effort, Outcome};
use super::workload::{Direction, Pass, Shape, pass};
use crate::failure::Failure;
use crate::host::disk;
use crate::interrupt::{self, Made};

/// A folder to tune for, before anything is made in it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
    pub(crate) file_system: Option<String>,
    /// `st_dev`: the same for folders that share a device.
    pub(crate) device: u64,
}

impl Place {
    /// Examines `dir`, and refuses an unusable one with the reason.
    pub(crate) fn look(dir: &Path) -> Result<Self, Failure> {
        let dir = disk::require_folder(dir)?;
        let metadata = fs::metadata(&dir)
            .map_err(|error| Failure::Failed(format!("cannot look at {}: {error}", shown(&dir))))?;
        Ok(Self { file_system: disk::file_system(&dir).ok(), device: metadata.dev(), dir })
    }
}

/// A data file in a new folder; drop removes both.
#[derive(Debug)]
pub(crate) struct DataFile {
    path: PathBuf,
    /// A descriptor to ask about the page cache.
    cached: File,
    pub(crate) shape: Shape,
    /// Its length, in whole ops. All of it is allocated and written.
    pub(crate) bytes: u64,
    /// Whether the file system does direct I/O.
    pub(crate) direct: bool,
    /// The backend of the defaults.
    pub(crate) auto_backend: &'static str,
    pattern: Vec<u8>,
    _folder: Made,
}

impl DataFile {
    /// Makes a file of `bytes`, or of as much as can be written in `at_most`.
    pub(crate) fn make(
        place: &Place,
        bytes: u64,
        shape: Shape,
        pattern: Vec<u8>,
        at_most: Duration,
    ) -> Result<Self, Failure> {
        let folder = Made::folder_in(&place.dir)?;
        let path = folder.path().join("data");
        let handle = aio::builder().config(Candidate::defaults().config()).build()?;
        let file = handle.open_with(&path, &OpenOptions::new().read(true).write(true).create_new(true))?;
        disk::allocate(&file, bytes)?;
        let buffers = shape.buffers(&handle, &file, &pattern)?;
        let filled = pass(&file, Direction::Write, buffers, bytes, at_most)
            .map_err(|failure| explain(failure, "the data file could not be written"))?;
        if filled.whole_ops == 0 {
            let needed = "not one op of the data file was written in its share of the time";
            return Err(Failure::Failed(format!("{needed}: give a longer --runtime, or a smaller --size")));
        }
        let bytes = filled.whole_ops * shape.op_bytes as u64;
        file.set_len(bytes).wait()?;
        file.sync_all().wait()?;
        let (direct, auto_backend) = (file.is_direct(), handle.backend_name());
        drop(filled);
        file.close()?;
        handle.close()?;
        let cached =
            File::open(&path).map_err(|error| Failure::Failed(format!("cannot open {}: {error}", shown(&path))))?;
        Ok(Self { path, cached, shape, bytes, direct, auto_backend, pattern, _folder: folder })
    }

    /// Measures a candidate once, with a new engine. Fails only if a signal asked for the end.
    pub(crate) fn look(&self, candidate: &Candidate, effort: Effort) -> Result<Outcome, Failure> {
        match self.both(candidate, effort, pass) {
            Ok(pair) => Ok(Outcome::Measured(pair)),
            Err(interrupted @ Failure::Interrupted(_)) => Err(interrupted),
            Err(failure) => {
                interrupt::check()?;
                Ok(Outcome::Refused(failure.to_string()))
            }
        }
    }

    /// Measures both directions, each by `pass`.
    fn both(
        &self,
        candidate: &Candidate,
        effort: Effort,
        mut pass: impl FnMut(&AioFile, Direction, Vec<AlignedBuf>, u64, Duration) -> Result<Pass, Failure>,
    ) -> Result<Pair, Failure> {
        let open = self.open(candidate)?;
        let mut buffers = self.shape.buffers(&open.handle, &open.file, &self.pattern)?;
        let bytes = effort.bytes.min(self.bytes);
        let (mut read, mut write) = (None, None);
        let order = [Direction::Read, Direction::Write];
        for place in 0..2 {
            let direction = order[(place + usize::from(!effort.reads_first)) % 2];
            let (at_most, sample) = match direction {
                Direction::Read => (effort.read_at_most, &mut read),
                Direction::Write => (effort.write_at_most, &mut write),
            };
            self.cool(&open)?;
            let done = pass(&open.file, direction, buffers, bytes, at_most)?;
            (*sample, buffers) = (Some(done.sample), done.buffers);
            if buffers.len() < self.shape.ops_in_flight {
                // Cancelled ops took some of them.
                buffers = self.shape.buffers(&open.handle, &open.file, &self.pattern)?;
            }
        }
        drop(buffers);
        open.close()?;
        let both: Option<(Sample, Sample)> = read.zip(write);
        both.map(|(read, write)| Pair { read, write })
            .ok_or_else(|| Failure::Failed("a direction was not measured".to_owned()))
    }

    /// Opens the file with an engine for this candidate.
    pub(crate) fn open(&self, candidate: &Candidate) -> Result<Open, Failure> {
        let handle = aio::builder().config(candidate.config()).build()?;
        let options = OpenOptions::new().read(true).write(true);
        let file = handle.open_with(&self.path, &options.direct(candidate.direct))?;
        let watched = self.direct.then(|| handle.open_with(&self.path, &OpenOptions::new().direct(DirectMode::Auto)));
        let watched = watched.transpose()?;
        Ok(Open { handle, file, watched })
    }

    /// Buffers for an open data file.
    pub(crate) fn buffers(&self, open: &Open) -> Result<Vec<AlignedBuf>, Failure> {
        self.shape.buffers(&open.handle, &open.file, &self.pattern)
    }

    /// Drops the file from the page cache, so that reads come from the device.
    ///
    /// `posix_fadvise(2)` drops only clean and unused pages, so a read checks the result: in direct mode `auto` the
    /// engine reads a cached file from the cache, and counts that in its statistics. A file system without direct I/O
    /// does not tell; figures there are only good for comparisons.
    pub(crate) fn cool(&self, open: &Open) -> Result<(), Failure> {
        const TRIES: usize = 3;
        for _ in 0..TRIES {
            interrupt::check()?;
            self.cached
                .sync_data()
                .and_then(|()| Ok(posix_fadvise(&self.cached, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?))
                .map_err(|error| Failure::Failed(format!("cannot empty the page cache of the data file: {error}")))?;
            if !open.is_cached()? {
                return Ok(());
            }
        }
        Err(Failure::Failed("the data file stays in the page cache, so that reads of it say nothing".to_owned()))
    }
}

/// The data file, open with a candidate's engine.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) handle: AioHandle,
    pub(crate) file: AioFile,
    /// The same file in mode `auto`, if there is direct I/O.
    watched: Option<AioFile>,
}

impl Open {
    fn is_cached(&self) -> Result<bool, Failure> {
        let Some(watched) = &self.watched else { return Ok(false) };
        let mut page = [0; 4096];
        let before = self.handle.stats().bytes_buffered;
        watched.read_at(&mut page, 0)?;
        Ok(self.handle.stats().bytes_buffered > before)
    }

    /// Closes the engine.
    pub(crate) fn close(self) -> Result<(), Failure> {
        drop(self.watched);
        self.file.close()?;
        Ok(self.handle.close()?)
    }
}

fn explain(failure: Failure, what: &str) -> Failure {
    match failure {
        Failure::Failed(reason) => Failure::Failed(format!("{what}: {reason}")),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::page_cache::PageCache;
    use crate::tune::workload::pattern;

    const HOUR: Duration = Duration::from_secs(3600);

    fn data(dir: &Path) -> DataFile {
        let place = Place::look(dir).unwrap();
        DataFile::make(&place, 1 << 20, Shape::of(1 << 20, 1), pattern(1), HOUR).unwrap()
    }

    fn effort(bytes: u64) -> Effort {
        Effort { bytes, read_at_most: HOUR, write_at_most: HOUR, reads_first: false }
    }

    #[test]
    fn it_is_written_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let data = data(dir.path());
        assert_eq!(data.bytes, 1 << 20);
        let contents = fs::read(&data.path).unwrap();
        assert!(contents.len() == 1 << 20 && contents.chunks(4096).all(|page| page.iter().any(|byte| *byte != 0)));
        drop(data);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn direct_and_buffered_are_measured_in_both_directions() {
        let dir = tempfile::tempdir().unwrap();
        let data = data(dir.path());
        for direct in [DirectMode::Auto, DirectMode::Off] {
            let candidate = Candidate { direct, ..Candidate::defaults() };
            let outcome = data.look(&candidate, effort(u64::MAX)).unwrap();
            assert!(
                matches!(outcome, Outcome::Measured(pair) if pair.read.gb_per_s > 0.0 && pair.write.gb_per_s > 0.0),
                "{outcome:?}"
            );
        }
        assert_eq!(fs::metadata(&data.path).unwrap().len(), 1 << 20, "it neither grows nor shrinks");
    }

    #[test]
    fn a_cached_file_is_noticed_and_cooled() {
        let dir = tempfile::tempdir().unwrap();
        let data = data(dir.path());
        if !data.direct {
            println!("SKIPPED: {} has no direct I/O", dir.path().display());
            return;
        }
        fs::read(&data.path).unwrap();
        let open = data.open(&Candidate::defaults()).unwrap();
        if !open.is_cached().unwrap() {
            println!("SKIPPED: the kernel does not tell what is cached (cachestat, Linux 6.5)");
            return;
        }
        data.cool(&open).unwrap();
        assert!(!data.open(&Candidate::defaults()).unwrap().is_cached().unwrap());
    }

    #[test]
    fn buffered_reads_come_from_the_device() {
        let dir = tempfile::tempdir().unwrap();
        let data = data(dir.path());
        let cached = || PageCache::of(&data.cached).map(|pages| pages.cached);
        fs::read(&data.path).unwrap();
        let all = cached();
        data.cached.sync_data().unwrap();
        posix_fadvise(&data.cached, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
        if all.is_none_or(|all| all == 0) || cached() == all {
            return println!(
                "SKIPPED: the kernel does not tell what is cached, or {} has no device",
                dir.path().display()
            );
        }
        for reads_first in [false, true] {
            fs::read(&data.path).unwrap();
            let mut found = Vec::new();
            let looking = |file: &AioFile, direction, buffers, bytes, at_most| {
                found.push((direction, cached()));
                pass(file, direction, buffers, bytes, at_most)
            };
            let candidate = Candidate { direct: DirectMode::Off, ..Candidate::defaults() };
            data.both(&candidate, Effort { reads_first, ..effort(1 << 20) }, looking).unwrap();
            found.sort_by_key(|(direction, _)| *direction == Direction::Write);
            assert_eq!(found, [(Direction::Read, Some(0)), (Direction::Write, Some(0))], "{reads_first}");
        }
    }

    #[test]
    fn what_cannot_be_had_is_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let data = data(dir.path());
        let candidate = Candidate { backend: Some("tape"), ..Candidate::defaults() };
        let outcome = data.look(&candidate, effort(1 << 20)).unwrap();
        assert!(matches!(&outcome, Outcome::Refused(reason) if reason.contains("tape")), "{outcome:?}");
    }
}
