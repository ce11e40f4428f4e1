//! Ending early and leaving nothing behind.
//!
//! The first SIGINT, SIGTERM or SIGHUP sets a flag that the commands check between ops: they cancel what is in flight,
//! and their [`Made`] values remove their files. A second signal, for a device that hangs, removes the same files and
//! exits at once.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use aio_core::shown;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::failure::Failure;

/// The signal that asked for an early end; 0 if none did.
static ASKED: AtomicI32 = AtomicI32::new(0);

/// Paths that the process made and has neither removed nor decided to keep.
static MADE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Handles the signals. Also turns SIGXFSZ, which kills by default, into the error EFBIG.
///
/// Only a process calls this, at its start; this library never does.
pub fn install() -> Result<(), Failure> {
    handle_signals().map_err(|error| Failure::Failed(format!("cannot handle signals: {error}")))
}

fn handle_signals() -> io::Result<()> {
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if ASKED.swap(signal, Ordering::Relaxed) != 0 {
                remove_at_once();
                std::process::exit(128 + signal);
            }
        }
    })?;
    Ok(())
}

/// Fails once a signal asked for an early end. One relaxed load, cheap enough for every op.
pub fn check() -> Result<(), Failure> {
    match ASKED.load(Ordering::Relaxed) {
        0 => Ok(()),
        signal => Err(Failure::Interrupted(signal)),
    }
}

/// A file or folder that this process made in a user's folder. Drop removes it unless it is [kept](Self::keep).
#[derive(Debug)]
pub struct Made {
    path: PathBuf,
}

impl Made {
    /// Makes a new folder with a unique name in `dir`.
    pub fn folder_in(dir: &Path) -> Result<Self, Failure> {
        Self::try_folder_in(dir)
            .map_err(|error| Failure::Failed(format!("cannot make a folder in {}: {error}", shown(dir))))
    }

    /// Like [`folder_in`](Self::folder_in), with the kernel's error.
    pub(crate) fn try_folder_in(dir: &Path) -> io::Result<Self> {
        let made = Self::by(|| {
            // Unlike tempdir_in, this returns the kernel's error unchanged.
            let folder = tempfile::Builder::new().prefix("tensor-aio-").make_in(dir, |path| fs::create_dir(path))?;
            let ((), path) = folder.keep()?;
            Ok::<_, io::Error>((path, ()))
        });
        made.map(|(made, ())| made)
    }

    /// Remembers the path that `make` returns. `make` must have made it.
    pub fn by<T, E>(make: impl FnOnce() -> Result<(PathBuf, T), E>) -> Result<(Self, T), E> {
        // Under the lock, so that a second signal sees either nothing made or the path in the list.
        let mut list = made();
        let (path, value) = make()?;
        list.push(path.clone());
        Ok((Self { path }, value))
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps the file or folder.
    pub fn keep(self) {
        self.forget();
    }

    fn forget(&self) {
        made().retain(|path| *path != self.path);
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let listed = made().contains(&self.path);
        if listed {
            remove(&self.path);
            self.forget();
        }
    }
}

fn made() -> MutexGuard<'static, Vec<PathBuf>> {
    MADE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes what the process made. Gives up soon if another thread holds the list.
fn remove_at_once() {
    for _ in 0..10 {
        match MADE.try_lock() {
            Ok(list) => return list.iter().for_each(|path| remove(path)),
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn remove(path: &Path) {
    const TRIES: usize = 100;
    for attempt in 1..=TRIES {
        let removed = match path.is_dir() {
            true => fs::remove_dir_all(path),
            false => fs::remove_file(path),
        };
        match removed {
            Ok(()) => return,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            // Ops in flight can still make files in the folder, after a second signal.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && attempt < TRIES => {}
            Err(error) => return tracing::error!("cannot remove {}: {error}", shown(path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_goes_and_what_was_kept_stays() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Made::folder_in(dir.path()).unwrap();
        fs::write(folder.path().join("tensor"), b"bytes").unwrap();
        let file = dir.path().join("file");
        let (made, ()) = Made::by(|| fs::write(&file, b"").map(|()| (file.clone(), ()))).unwrap();
        drop(folder);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        made.keep();
        assert!(file.exists());
    }

    #[test]
    fn what_could_not_be_made_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("the user's");
        fs::write(&file, b"precious").unwrap();
        let made = Made::by(|| fs::File::create_new(&file).map(|_| (file.clone(), ())));
        assert!(made.is_err());
        drop(made);
        assert_eq!(fs::read(&file).unwrap(), b"precious");
    }
}
