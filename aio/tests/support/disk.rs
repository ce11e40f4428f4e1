//! Small file systems, and devices, of a test's own: to be filled, or because they lack something. Needs root.
#![allow(unreachable_pub, dead_code, reason = "each test file uses its part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// The name of the file that a disk or device lies in.
const IMAGE: &str = "image";

/// Mounted until it is dropped.
pub struct SmallDisk {
    folder: TempDir,
    /// What it lies on, if it is not on an image in its folder.
    device: Option<LoopDevice>,
}

impl SmallDisk {
    /// An ext4 disk of `mebibytes`; `None`, with a line on standard error, where this process may not mount one.
    pub fn new(mebibytes: u64) -> Option<Self> {
        Self::formatted("ext4", mebibytes)
    }

    /// A disk with a file system of another kind.
    pub fn formatted(kind: &str, mebibytes: u64) -> Option<Self> {
        let disk = Self::unmounted();
        let image = image(disk.folder.path(), mebibytes);
        let made = run(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image));
        let made = made.and_then(|()| disk.mount_image());
        or_skip("no small disk", made.map(|()| disk))
    }

    /// The smallest that a file system of this kind may be, or where it has no disk of its own ("overlay", "tmpfs").
    pub fn of(kind: &str) -> Option<Self> {
        match kind {
            "tmpfs" | "ramfs" => Self::in_memory(kind),
            "overlay" => Self::overlay(),
            "xfs" => Self::formatted(kind, 300),
            "btrfs" => Self::formatted(kind, 256),
            _ => Self::formatted(kind, 128),
        }
    }

    /// An ext4 without a journal, which an error of the device does not end, on a device that a test may take sectors
    /// from.
    pub fn on_device(mebibytes: u64) -> Option<Self> {
        let (mut disk, device) = (Self::unmounted(), LoopDevice::new(mebibytes)?);
        let made =
            run(Command::new("mkfs.ext4").args(["-q", "-O", "^has_journal"]).arg(device.path())).and_then(|()| {
                run(Command::new("mount").args(["-o", "errors=continue"]).arg(device.path()).arg(disk.path()))
            });
        disk.device = Some(device);
        or_skip("no disk on a loop device", made.map(|()| disk))
    }

    /// The device of [`on_device`](Self::on_device).
    pub fn device(&self) -> &LoopDevice {
        self.device.as_ref().expect("a disk made on a device")
    }

    /// A file system that lives in memory: "ramfs", which grows with what it holds, or "tmpfs".
    pub fn in_memory(kind: &str) -> Option<Self> {
        let disk = Self::unmounted();
        let made = run(Command::new("mount").args(["-t", kind, kind]).arg(disk.path()));
        or_skip("no file system in memory", made.map(|()| disk))
    }

    /// An overlay, as containers have it, over the file system of the temporary folder.
    fn overlay() -> Option<Self> {
        let disk = Self::unmounted();
        let folder = disk.folder.path().to_owned();
        disk.mount_overlay(&folder)
    }

    /// An overlay over new folders "lower" and "upper" in `folder`.
    pub fn overlay_on(folder: &Path) -> Option<Self> {
        Self::unmounted().mount_overlay(folder)
    }

    fn mount_overlay(self, folder: &Path) -> Option<Self> {
        let layers = ["lower", "upper", "work"].map(|name| folder.join(name));
        layers.iter().for_each(|layer| std::fs::create_dir(layer).expect("a layer"));
        let [lower, upper, work] = layers.each_ref().map(|layer| layer.display());
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        let made = run(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(self.path()));
        or_skip("no overlay", made.map(|()| self))
    }

    fn unmounted() -> Self {
        let disk = Self { folder: folder(), device: None };
        std::fs::create_dir(disk.path()).expect("a mount point");
        disk
    }

    /// Mounts the image that lies in its folder.
    fn mount_image(&self) -> Result<(), String> {
        run(Command::new("mount").args(["-o", "loop"]).arg(self.folder.path().join(IMAGE)).arg(self.path()))
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
        let image = |disk: &Self| disk.folder.path().join(IMAGE);
        let copied = run(Command::new("cp").arg("--sparse=always").arg(image(self)).arg(image(&survivor)));
        let mounted = copied.and_then(|()| survivor.mount_image());
        or_skip("no small disk", mounted.map(|()| survivor))
    }

    /// Takes all the room that is there but for `mebibytes`.
    pub fn leave(&self, mebibytes: u64) {
        let len = self.free().checked_sub(mebibytes << 20).expect("the disk is larger than that");
        let ballast = self.path().join("ballast");
        run(Command::new("fallocate").args(["-l", &len.to_string()]).arg(ballast)).expect("fallocate");
    }

    /// Waits until everything is written and every block that was freed is free.
    pub fn sync(&self) {
        run(Command::new("sync").arg("-f").arg(self.path())).expect("a sync of the disk");
    }

    /// Mounts it again with other options.
    pub fn remount(&self, options: &str) {
        run(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(self.path())).expect("a remount");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a child that another test has just forked has all open files until it executes its program.
        if is_mounted(&self.path())
            && let Err(reason) = run(Command::new("umount").arg("--lazy").arg(self.path()))
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
        let folder = folder();
        let image = image(folder.path(), mebibytes);
        let attached = output(Command::new("losetup").args(["--find", "--show"]).arg(image));
        or_skip("no loop device", attached.map(|node| Self { folder, node: node.trim().into() }))
    }

    /// Takes all sectors from the device but for the first `mebibytes`: I/O of the others fails.
    pub fn shrink(&self, mebibytes: u64) {
        let image = std::fs::OpenOptions::new().write(true).open(self.folder.path().join(IMAGE));
        image.and_then(|image| image.set_len(mebibytes << 20)).expect("a shorter image");
        run(Command::new("losetup").arg("--set-capacity").arg(&self.node)).expect("a smaller device");
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

/// Named so that what is left of its images can be told.
fn folder() -> TempDir {
    tempfile::Builder::new().prefix(&image_prefix()).tempdir().expect("a temporary folder")
}

fn image(folder: &Path, mebibytes: u64) -> PathBuf {
    let image = folder.join(IMAGE);
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

/// What the folders of this process's images are called.
pub fn image_prefix() -> String {
    format!("aio-disk-{}-", std::process::id())
}
