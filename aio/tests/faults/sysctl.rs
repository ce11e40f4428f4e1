//! A setting of the machine, changed for a while.

use std::fs;
use std::path::PathBuf;

/// Has its old value again when it is dropped.
pub(crate) struct Sysctl {
    path: PathBuf,
    before: String,
}

impl Sysctl {
    /// Sets `name`, such as "fs.aio-max-nr"; `None`, with a line on standard error, where this process may not.
    pub(crate) fn set(name: &str, value: &str) -> Option<Self> {
        let path = PathBuf::from("/proc/sys").join(name.replace('.', "/"));
        let changed = fs::read_to_string(&path).and_then(|before| fs::write(&path, value).map(|()| before));
        match changed {
            Ok(before) => Some(Self { path, before: before.trim().to_owned() }),
            Err(error) => {
                eprintln!("SKIPPED: the sysctl {name} cannot be set: {error}");
                None
            }
        }
    }
}

impl Drop for Sysctl {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.path, &self.before) {
            eprintln!("{} stays changed, it was {}: {error}", self.path.display(), self.before);
        }
    }
}
