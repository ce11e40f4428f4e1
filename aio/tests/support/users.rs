//! Threads of another user, who may less than root.
#![allow(unreachable_pub, dead_code, reason = "each test file uses its part")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use super::Folder;

/// A user that owns nothing.
pub const NOBODY: u32 = 65_534;

/// Runs it on a thread of another user, as root may.
pub fn as_nobody(run: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let ran = scope.spawn(|| {
            // Of this thread alone, and only for files.
            setfsgid(Gid::from_raw(NOBODY));
            setfsuid(Uid::from_raw(NOBODY));
            // It tells whom it replaces, and no failure.
            assert_eq!(setfsuid(Uid::from_raw(NOBODY)).as_raw(), NOBODY);
            run();
        });
        ran.join().unwrap();
    });
}

/// False, with a line on standard error, where files cannot be given away.
pub fn give_to_nobody(path: &Path) -> bool {
    let given = std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY));
    given.inspect_err(|error| eprintln!("SKIPPED: a file of another owner: {error}")).is_ok()
}

/// `chmod(2)`.
pub fn set_mode(path: &Path, bits: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap();
}

/// A folder and a file in it that are both another user's, who can get there.
pub fn nobodys(folder: &Folder) -> Option<(PathBuf, PathBuf)> {
    let dir = folder.path("d");
    fs::create_dir(&dir).unwrap();
    let path = dir.join("t");
    fs::write(&path, b"old").unwrap();
    set_mode(&folder.path(""), 0o755);
    (give_to_nobody(&path) && give_to_nobody(&dir)).then_some((dir, path))
}
