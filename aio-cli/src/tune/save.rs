//! The file that `--write` makes: blocks to paste into a DeepSpeed configuration.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use aio::AioConfig;

use crate::failure::Failure;
use crate::replace::temporary_beside;

/// Where a configuration will go, looked at before the minutes of work.
#[derive(Debug)]
pub(crate) struct Destination {
    path: PathBuf,
    overwrite: bool,
}

impl Destination {
    /// Refuses what exists (unless it may be replaced), and folders that no file can be made in.
    pub(crate) fn look(path: &Path, overwrite: bool) -> Result<Self, Failure> {
        let cannot = |reason: String| Failure::Failed(format!("cannot write {}: {reason}", path.display()));
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_dir() => return Err(cannot("it is a folder, not a file".to_owned())),
            Ok(_) if !overwrite => {
                return Err(Failure::Failed(format!(
                    "{} exists: writing would destroy what it holds; add --overwrite to allow that",
                    path.display()
                )));
            }
            Ok(_) | Err(_) => {}
        }
        // It is gone again at once.
        temporary_beside(path).map(drop).map_err(|error| cannot(error.to_string()))?;
        Ok(Self { path: path.to_owned(), overwrite })
    }

    /// Writes it in one step: who reads it finds nothing, the old one, or all of the new one.
    pub(crate) fn write(&self, config: &AioConfig) -> Result<(), Failure> {
        self.put(config).map_err(|error| Failure::Failed(format!("cannot write {}: {error}", self.path.display())))
    }

    fn put(&self, config: &AioConfig) -> std::io::Result<()> {
        let mut file = temporary_beside(&self.path)?;
        writeln!(file, "{}", config.to_json())?;
        file.as_file().sync_all()?;
        let kept = match self.overwrite {
            true => file.persist(&self.path),
            false => file.persist_noclobber(&self.path),
        };
        kept.map(drop).map_err(|failed| failed.error)
    }
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
    fn folders_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Destination::look(dir.path(), true).is_err());
        assert!(Destination::look(&dir.path().join("no/file"), true).is_err());
    }
}
