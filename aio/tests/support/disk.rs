//! Small file systems, and devices, of a test's own: to be filled, or because they lack something. Needs root.
#![allow(unreachable_pub, dead_code, reason = "each test file uses its part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// Mounted until it is dropped.
pub struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// An ext4 disk of `mebibytes`; `None`, with a line on standard error, where this process may not mount one.
    pub fn new(mebibytes: u64) -> Option<Self> {
        Self::formatted("ext4", mebibytes)
    }

    /// Likewise with a file system of another kind.
    pub fn formatted(kind: &str, mebibytes: u64) -> Option<Self> {
        let disk = Self::unmounted();
        let image = image(disk.folder.path(), mebibytes);
        let made = run(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image))
            .and_then(|()| run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(disk.path())));
        or_skip("no small disk", made.map(|()| disk))
    }

    /// A file system that lives in memory: "ramfs", which grows with what it holds, or "tmpfs".
    pub fn in_memory(kind: &str) -> Option<Self> {
        let disk = Self::unmounted();
        let made = run(Command::new("mount").args(["-t", kind, kind]).arg(disk.path()));
        or_skip("no file system in memory", made.map(|()| disk))
    }

    fn unmounted() -> Self {
        let disk = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        std::fs::create_dir(disk.path()).expect("a mount point");
        disk
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

    /// What would be mounted if the power failed now: what has reached the device, and nothing else.
    pub fn after_power_failure(&self) -> Option<Self> {
        let survivor = Self::unmounted();
        let image = survivor.folder.path().join("image");
        let copied = run(Command::new("cp").arg("--sparse=always").arg(self.folder.path().join("image")).arg(&image));
        let mounted =
            copied.and_then(|()| run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(survivor.path())));
        or_skip("no small disk", mounted.map(|()| survivor))
    }

    /// The device ends after so many bytes from now on; what is past them gives EIO.
    pub fn lose_what_is_past(&self, bytes: u64) {
        let image = self.folder.path().join("image");
        std::fs::File::options().write(true).open(&image).and_then(|file| file.set_len(bytes)).expect("an image");
        let device = output(Command::new("losetup").args(["--noheadings", "--output", "NAME", "-j"]).arg(&image));
        let device = device.expect("the mount is on a loop device");
        run(Command::new("losetup").arg("--set-capacity").arg(device.trim())).expect("it may become smaller");
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

/// A block device whose bytes lie in a file; detached when it is dropped.
pub struct LoopDevice {
    folder: TempDir,
    node: PathBuf,
}

impl LoopDevice {
    /// A device of `mebibytes`; `None`, with a line on standard error, where this process may not have one.
    pub fn new(mebibytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let image = image(folder.path(), mebibytes);
        let attached = output(Command::new("losetup").args(["--find", "--show"]).arg(image));
        or_skip("no loop device", attached.map(|node| Self { folder, node: node.trim().into() }))
    }

    /// The device node.
    pub fn path(&self) -> &Path {
        &self.node
    }

    /// Another node of the same device.
    pub fn other_node(&self) -> Option<PathBuf> {
        let path = self.folder.path().join("node");
        let made = output(Command::new("stat").args(["-c", "%Hr %Lr"]).arg(&self.node)).and_then(|numbers| {
            run(Command::new("mknod").arg(&path).arg("b").args(numbers.split_whitespace()))?;
            std::fs::File::open(&path).map_err(|error| error.to_string())
        });
        or_skip("no second node of a device", made.map(|_open| path))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if let Err(reason) = run(Command::new("losetup").arg("--detach").arg(&self.node)) {
            eprintln!("{} stays attached: {reason}", self.node.display());
        }
    }
}

fn image(folder: &Path, mebibytes: u64) -> PathBuf {
    let image = folder.join("image");
    std::fs::File::create(&image).and_then(|file| file.set_len(mebibytes << 20)).expect("room for an image");
    image
}

fn or_skip<T>(what: &str, made: Result<T, String>) -> Option<T> {
    made.inspect_err(|reason| eprintln!("SKIPPED: {what}: {reason}")).ok()
}

fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1) == path.to_str())
}

fn run(command: &mut Command) -> Result<(), String> {
    output(command).map(drop)
}

fn output(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
