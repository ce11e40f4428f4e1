//! Several files and their index.
//!
//! New files never take the names of old ones, which an old index names until the new one replaces it, in one step.
//! After that the old ones are removed. So a crash at any moment leaves the old set or the new one, whole, and at most
//! files that no index names; the next save removes these.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use aio_core::{AioHandle, shown};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::commit::{Commit, Steps};
use crate::error::{Error, Result};
use crate::sources::{self, INDEX};

/// A sharded save.
#[derive(Debug)]
pub(crate) struct Shards {
    index: PathBuf,
    folder: PathBuf,
    /// What the file names begin with.
    name: String,
    /// The file names.
    files: Vec<String>,
    /// Held until the save is over.
    _lock: SaveLock,
}

impl Shards {
    /// If `path` is that of an index: the names of the files, and which tensors each of them gets.
    pub(crate) fn begin(path: &Path, sizes: &[u64], most: u64) -> Result<Option<(Self, Vec<Vec<usize>>)>> {
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some(name) = file_name.strip_suffix(INDEX).map(ToOwned::to_owned) else { return Ok(None) };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        // The working folder may be another one in the end.
        let folder = folder.canonicalize().map_err(Error::system("open", folder))?;
        let index = folder.join(path.file_name().unwrap_or_default());
        if fs::symlink_metadata(&index).is_ok_and(|found| found.is_symlink()) {
            return Err(Error::InvalidInput(format!(
                "{} is a symbolic link, and its files would lie beside the link: save to what it points to",
                shown(&index)
            )));
        }
        let lock = SaveLock::take(&folder, &name)?;
        let single = folder.join(format!("{name}.safetensors"));
        if single.exists() {
            return Err(Error::InvalidInput(format!(
                "{} is there, which other programs would load instead: save under another name, or remove it and its \
                 index first",
                shown(&single)
            )));
        }
        let groups = groups(sizes, most);
        let names = |word: &str| -> Vec<_> {
            let count = groups.len();
            (1..=count).map(|number| format!("{name}{word}-{number:05}-of-{count:05}.safetensors")).collect()
        };
        let is_free = |files: &[String]| files.iter().all(|file| fs::symlink_metadata(folder.join(file)).is_err());
        // With an index there, names that never were before: a reader of an old index that opens its files only after
        // several saves, would take new files for those that it names.
        let mut files = names("");
        let mut word = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        let mut may_be_old = fs::symlink_metadata(&index).is_ok();
        while std::mem::take(&mut may_be_old) || !is_free(&files) {
            files = names(&format!("{WORD}{word:016x}"));
            word = word.wrapping_add(1);
        }
        let shards = Self { index, folder, name, files, _lock: lock };
        Ok(Some((shards, groups)))
    }

    pub(crate) fn path(&self, file: usize) -> PathBuf {
        self.folder.join(&self.files[file])
    }

    /// Removes the files of a save that failed, unless the index names them all the same.
    pub(crate) fn give_up(&self, error: Error) -> Error {
        let named = match sources::read_index(&self.index) {
            Ok(named) => Some(named),
            Err(Error::System { source, .. }) if source.kind() == io::ErrorKind::NotFound => Some(BTreeMap::new()),
            // What it names is not known: the next save removes them.
            Err(_) => None,
        };
        let is_named = |file: &&String| named.as_ref().is_none_or(|named| named.values().any(|named| named == *file));
        for file in self.files.iter().filter(|file| !is_named(file)) {
            let _ = fs::remove_file(self.folder.join(file));
        }
        match error {
            // They were not to be in place before the index.
            Error::NotDurable { source, .. } => source.into(),
            error => error,
        }
    }

    /// Writes the index, and removes what only the old one named.
    pub(super) fn finish(
        self,
        aio: &AioHandle,
        tensors: &[(Vec<String>, u64)],
        durable: bool,
        steps: &Steps,
    ) -> Result<()> {
        self.check_files().map_err(|error| self.give_up(error))?;
        let had_index = sources::read_index(&self.index).is_ok();
        let placed = self.files.iter().zip(tensors);
        let weight_map: BTreeMap<_, _> =
            placed.flat_map(|(file, (names, _))| names.iter().map(|name| (name.clone(), file.clone()))).collect();
        let total = tensors.iter().map(|(_, bytes)| bytes).sum();
        let replaced = sources::index_json(total, &weight_map).and_then(|json| {
            let index = aio.create_atomic(&self.index)?;
            index.write(json, 0).wait()?;
            steps.done("index written");
            Commit::start(index, durable, steps).wait()
        });
        match replaced {
            Ok(()) | Err(Error::NotDurable { .. }) => {}
            Err(error) => return Err(self.give_up(error)),
        }
        replaced?;
        self.check_files()?;
        self.remove_old(had_index, steps);
        Ok(())
    }

    /// Fails if another save took this one's files for old ones, as it may where there are no locks. Its own files are
    /// not to go, too.
    fn check_files(&self) -> Result<()> {
        let is_there = |file: &&String| fs::symlink_metadata(self.folder.join(file)).is_ok();
        match self.files.iter().find(|file| !is_there(file)) {
            None => Ok(()),
            Some(gone) => {
                let gone = shown(Path::new(gone)).to_string();
                Err(Error::incomplete(&self.index, format_args!("another save removed {gone} meanwhile")))
            }
        }
    }

    /// What the other indices of the folder name: their files may look like leftovers of this one's.
    fn named_by_others(&self) -> Result<HashSet<PathBuf>> {
        let is_normal = |part: &Component<'_>| matches!(part, Component::Normal(_));
        let mut named = HashSet::new();
        let entries = fs::read_dir(&self.folder).map_err(Error::system("list", &self.folder))?;
        for entry in entries {
            let path = entry.map_err(Error::system("list", &self.folder))?.path();
            if sources::is_index(&path) && path.file_name() != self.index.file_name() {
                // Without "./".
                let normal = |file: String| -> PathBuf { Path::new(&file).components().filter(is_normal).collect() };
                named.extend(sources::read_index(&path)?.into_values().map(normal));
            }
        }
        Ok(named)
    }

    /// Removes the files of the save before, and those of saves that did not end. What cannot be removed stays. Without
    /// an index, a series may be a set of its own, and stays, too.
    fn remove_old(&self, had_index: bool, steps: &Steps) {
        let Ok(others) = self.named_by_others() else { return };
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()) {
            let Some(file) = path.file_name().and_then(|file| file.to_str()) else { continue };
            let is_new = self.files.iter().any(|new| new == file);
            let is_old = match kind(&self.name, file) {
                None => false,
                Some(Kind::OfSeries) => had_index,
                Some(Kind::OfSave) => true,
            };
            if is_old && !is_new && !others.contains(Path::new(file)) {
                let _ = fs::remove_file(path);
                steps.done("removed an old file");
            }
        }
    }
}

/// What the word of a save over another begins with.
const WORD: &str = "-aio";

/// What the name of a file says.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    /// It may be of a save of this library or of another program's.
    OfSeries,
    /// It has the word of a save over another, or is the temporary of an index: only such saves make these.
    OfSave,
}

/// Of a file of a save of that name, or its temporary.
fn kind(name: &str, file: &str) -> Option<Kind> {
    let temporary = file.strip_prefix('.').and_then(|file| Some(file.strip_suffix(".tmp")?.rsplit_once('.')?.0));
    let of_name = temporary.unwrap_or(file).strip_prefix(name)?;
    if of_name == INDEX {
        return temporary.map(|_| Kind::OfSave);
    }
    let (of, numbers) = of_name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
    let (word, number) = of.rsplit_once('-')?;
    let is_number = |text: &str| text.len() >= 5 && text.bytes().all(|digit| digit.is_ascii_digit());
    let is_word = word.is_empty()
        || word
            .strip_prefix(WORD)
            .is_some_and(|word| word.len() == 16 && word.bytes().all(|digit| digit.is_ascii_hexdigit()));
    let kind = if word.is_empty() { Kind::OfSeries } else { Kind::OfSave };
    (is_number(numbers) && is_number(number) && is_word).then_some(kind)
}

/// Keeps two saves of a name from the same folder: each would remove the files of the other. It is on a hidden file, since
/// network file systems lock a folder on one machine only.
#[derive(Debug)]
struct SaveLock {
    /// Not there where the file system has no locks.
    lock: Option<Flock<File>>,
    path: PathBuf,
    /// The process that has it: a forked child does not unlock it.
    process: u32,
}

impl SaveLock {
    fn take(folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(format!(".{name}.safetensors.lock"));
        // More than once only if other saves begin and end just then.
        for _ in 0..ATTEMPTS {
            let lock = match Flock::lock(open_lock(&path)?, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => Some(lock),
                Err((_, Errno::EINTR)) => continue,
                Err((_, Errno::EWOULDBLOCK)) => {
                    let why = format!("another save to {} is going on", shown(folder));
                    return Err(Error::InvalidInput(why));
                }
                Err((_, Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL | Errno::ENOLCK)) => None,
                Err((_, errno)) => return Err(Error::system("lock", &path)(errno.into())),
            };
            // The save that had it before removed it, perhaps after this one had opened it.
            if lock.as_ref().is_none_or(|lock| is_at(lock, &path)) {
                return Ok(Self { lock, path, process: std::process::id() });
            }
        }
        Err(Error::InvalidInput(format!("{} cannot be locked: it is replaced again and again", shown(&path))))
    }
}

impl Drop for SaveLock {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            std::mem::forget(self.lock.take());
        } else if self.lock.as_ref().is_none_or(|lock| is_at(lock, &self.path)) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// How often a lock is tried.
const ATTEMPTS: usize = 100;

/// Opens the file of a lock, and makes it if it is not there.
fn open_lock(path: &Path) -> Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let opened = File::options().write(true).create(true).truncate(false).custom_flags(flags).open(path);
    let opened = match opened {
        // Another user's, which a save that was killed has left.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            File::options().read(true).custom_flags(flags).open(path).map_err(|_| error)
        }
        opened => opened,
    };
    let file = opened.map_err(Error::system("make", path))?;
    if file.metadata().is_ok_and(|found| found.is_file()) {
        return Ok(file);
    }
    Err(Error::InvalidInput(format!("{} is no regular file, and saves lock it: remove it", shown(path))))
}

/// Whether the path names this very file.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |found: fs::Metadata| (found.dev(), found.ino());
    let (open, named) = (file.metadata().map(identity), fs::symlink_metadata(path).map(identity));
    open.is_ok_and(|open| named.is_ok_and(|named| named == open))
}

/// Which tensors go together: in their order, as many as fit.
fn groups(sizes: &[u64], most: u64) -> Vec<Vec<usize>> {
    let mut groups = Vec::<Vec<usize>>::new();
    let mut taken = 0u64;
    for (tensor, bytes) in sizes.iter().enumerate() {
        if groups.is_empty() || taken.saturating_add(*bytes) > most {
            groups.push(Vec::new());
            taken = 0;
        }
        taken = taken.saturating_add(*bytes);
        groups.last_mut().into_iter().for_each(|group| group.push(tensor));
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_go_together_as_long_as_they_fit() {
        assert_eq!(groups(&[3, 3, 3, 10, 1], 6), [vec![0, 1], vec![2], vec![3], vec![4]]);
        assert!(groups(&[], 6).is_empty());
        assert_eq!(groups(&[0, 7, 0], 6), [vec![0], vec![1], vec![2]]);
    }

    #[test]
    fn only_files_of_such_saves_are_recognised() {
        for (file, of) in [
            ("m-00001-of-00002.safetensors", Kind::OfSeries),
            ("m-aio00000000deadbeef-00001-of-00002.safetensors", Kind::OfSave),
            (".m-00001-of-00002.safetensors.a1B2c3.tmp", Kind::OfSeries),
            (".m-aio00000000deadbeef-00001-of-00002.safetensors.a1B2c3.tmp", Kind::OfSave),
            (".m.safetensors.index.json.a1B2c3.tmp", Kind::OfSave),
        ] {
            assert_eq!(kind("m", file), Some(of), "{file}");
        }
        for file in [
            "m.safetensors",
            "m.safetensors.index.json",
            ".m.safetensors.a1B2c3.tmp",
            "other-00001-of-00002.safetensors",
            "m-mine-00001-of-00002.safetensors",
            "m-1-of-2.safetensors",
            "m-00001-of-00002.bin",
            "m-aio0000deadbeef-00001-of-00002.safetensors",
            "m-00000000deadbeef-00001-of-00002.safetensors",
            ".m-00001-of-00002.safetensors",
        ] {
            assert_eq!(kind("m", file), None, "{file}");
        }
    }
}
