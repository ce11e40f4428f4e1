//! A small ext4 file system on a loop device, for tests that fill a disk. Needs root.
#![allow(unreachable_pub, reason = "a module of a test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// Mounted until it is dropped.
pub struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// A disk of `mebibytes`; `None`, with a line on standard error, where this process may not mount one.
    pub fn new(mebibytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let image = folder.path().join("image");
        std::fs::File::create(&image).and_then(|file| file.set_len(mebibytes << 20)).expect("room for an image");
        let disk = Self { folder };
        std::fs::create_dir(disk.path()).expect("a mount point");
        let made = run(Command::new("mkfs.ext4").arg("-q").arg(&image))
            .and_then(|()| run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(disk.path())));
        match made {
            Ok(()) => Some(disk),
            Err(reason) => {
                eprintln!("SKIPPED: no small disk: {reason}");
                None
            }
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mount")
    }

    /// Bytes that root may still use.
    pub fn free(&self) -> u64 {
        let output = Command::new("stat").args(["-f", "-c", "%f %S"]).arg(self.path()).output().expect("stat runs");
        let text = String::from_utf8(output.stdout).expect("numbers");
        let mut numbers = text.split_whitespace().map(|number| number.parse::<u64>().expect("a number"));
        numbers.next().expect("blocks") * numbers.next().expect("block size")
    }

    /// Mounts it again with other options.
    pub fn remount(&self, options: &str) {
        run(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(self.path())).expect("a remount");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if is_mounted(&self.path())
            && let Err(reason) = run(Command::new("umount").arg(self.path()))
        {
            eprintln!("{} stays mounted: {reason}", self.path().display());
        }
    }
}

fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1) == path.to_str())
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
