//! The file that `--write` makes: blocks to paste into a DeepSpeed configuration.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use aio::AioConfig;
use aio_core::shown;
use tempfile::NamedTempFile;

use crate::failure::Failure;
use crate::host::disk;
use crate::output;

/// The target of `--write`, checked before the minutes of work.
#[derive(Debug)]
pub(crate) struct Destination {
    path: PathBuf,
    overwrite: bool,
}

impl Destination {
    /// Refuses an existing path, unless it is a file that may be replaced, and a folder in which no file can be made.
    pub(crate) fn look(path: &Path, overwrite: bool) -> Result<Self, Failure> {
        let cannot = |reason: &str| Failure::Failed(format!("cannot write {}: {reason}", shown(path)));
        match fs::metadata(path).or_else(|_| fs::symlink_metadata(path)) {
            Ok(existing) if existing.is_dir() => return Err(cannot("it is a folder, not a file")),
            Ok(existing) if !existing.is_file() && !existing.is_symlink() => {
                return Err(cannot("it exists and is not a regular file"));
            }
            Ok(_) if !overwrite => {
                return Err(Failure::Failed(format!(
                    "{} exists: writing would destroy what it holds; add --overwrite to allow that",
                    shown(path)
                )));
            }
            Ok(_) | Err(_) => {}
        }
        // Dropping it removes it at once.
        temporary_beside(path).map(drop).map_err(|error| cannot(&error.to_string()))?;
        Ok(Self { path: path.to_owned(), overwrite })
    }

    /// Writes it in one step: a reader sees no file, the old one, or all of the new one.
    pub(crate) fn write(&self, config: &AioConfig) -> Result<(), Failure> {
        let text = format!("{}\n", config.to_json());
        match self.overwrite {
            true => output::to_file(&self.path, text.as_bytes()),
            false => self.put(text.as_bytes()).map_err(|error| output::cannot_write(&self.path, &error)),
        }
    }

    /// Without `--overwrite`, a file that appeared meanwhile stays; a rename would replace it.
    fn put(&self, bytes: &[u8]) -> io::Result<()> {
        let mut file = temporary_beside(&self.path)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist_noclobber(&self.path).map(drop).map_err(|failed| failed.error)
    }
}

/// Makes a new file in the folder of `target`, with the mode of any new file.
fn temporary_beside(target: &Path) -> io::Result<NamedTempFile> {
    // Unlike tempfile_in, this returns the kernel's error unchanged.
    tempfile::Builder::new().prefix(".tensor-aio-").make_in(disk::folder_of(target), |path| File::create_new(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_stays_unless_it_may_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("aio.json");
        fs::write(&path, "precious").unwrap();
        let error = Destination::look(&path, false).unwrap_err().to_string();
        assert!(error.contains("aio.json exists") && error.contains("--overwrite"), "{error}");
        let mut config = AioConfig::default();
        config.queue_depth = 7;
        Destination::look(&path, true).unwrap().write(&config).unwrap();
        assert_eq!(AioConfig::from_json_file(&path).unwrap(), config);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_appears_meanwhile_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("aio.json");
        let destination = Destination::look(&path, false).unwrap();
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert!(destination.write(&AioConfig::default()).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [dir.path(), &dir.path().join("no/file"), &fifo, Path::new("/dev/null")] {
            assert!(Destination::look(path, true).is_err(), "{}", path.display());
        }
    }
}
