//! The folder, and its file system.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aio_core::shown;
use nix::errno::Errno;

use super::Finding;
use super::Severity::{Error, Warning};
use super::finding;
use crate::host::disk;
use crate::probe::report::Report;
use crate::size;
use crate::swap::tensors::TensorSet;

pub(super) fn findings(report: &Report) -> Vec<Finding> {
    let found =
        if report.dir.writable { [no_device(report), little_space(report)] } else { [not_writable(report), None] };
    found.into_iter().flatten().collect()
}

fn not_writable(report: &Report) -> Option<Finding> {
    let (dir, reason) = (shown(&report.dir.path), report.dir.reason.as_deref()?.trim_end_matches('.'));
    Some(match report.dir.errno.map(Errno::from_raw) {
        Some(Errno::EROFS) => finding(
            Error,
            "folder-read-only",
            format!("{dir} is on a file system that is mounted read-only (EROFS)"),
            [
                &format!("`sudo mount -o remount,rw {}`", mount_point_of(&report.dir.path)),
                "in a container: a volume without `:ro`, and no `--read-only` for its place",
                "after an error of the device the kernel does this by itself: look at `dmesg`, and run fsck",
            ],
        ),
        Some(Errno::ENOSPC | Errno::EDQUOT) => finding(
            Error,
            "folder-full",
            format!("no file can be made in {dir}: no space, no inodes or no quota is left"),
            [&format!(
                "make room (`df -h {0}`, `df -i {0}`, `quota`), or name another folder",
                quoted(&report.dir.path)
            )],
        ),
        Some(errno @ (Errno::EACCES | Errno::EPERM)) => finding(
            Error,
            "folder-not-writable",
            format!("this user may not make files in {dir} ({errno:?})"),
            [
                &format!("`sudo chown $USER {0}`, or name a folder that is yours", quoted(&report.dir.path)),
                "in a container: `docker run --user`, with the id that owns the volume",
            ],
        ),
        _ => finding(Error, "folder-not-writable", reason, ["name a folder on a file system that takes files"]),
    })
}

/// A file system in memory has no device for direct I/O.
fn no_device(report: &Report) -> Option<Finding> {
    let (dir, fs) = (shown(&report.dir.path), report.dir.file_system.as_deref().unwrap_or("this file system"));
    let to_a_disk =
        "name a folder on an NVMe disk with ext4 or XFS: `findmnt -t ext4,xfs` shows where there are some";
    if disk::lies_in_memory(fs) {
        return Some(finding(
            Warning,
            "folder-in-memory",
            format!(
                "{dir} is on {fs}: files there lie in memory and take it from tensors, there is no device for direct I/O \
                 to go to, and figures say nothing of a disk"
            ),
            [to_a_disk],
        ));
    }
    // Without a backend, direct I/O is unknown.
    if report.dir.direct_io.is_some() || report.backends.iter().all(|row| !row.available) {
        return None;
    }
    let special = match fs {
        "overlayfs" => {
            "in a container its own layers are overlayfs: mount a volume from a disk of the host, `docker run -v \
             /mnt/nvme:/data ...`, and name /data"
        }
        "zfs" => {
            "OpenZFS does direct I/O from 2.3 on, unless the dataset has `direct=disabled`: `zfs set direct=standard`"
        }
        "ext4" => "ext4 does none with `data=journal`: mount it with `data=ordered`, its default",
        "btrfs" => "btrfs does none for compressed files: `chattr +C` on the new, empty folder",
        "nfs" | "fuse" => "it depends on the server or the program behind it, and on the options of the mount",
        _ => "not every file system has it",
    };
    Some(finding(
        Error,
        "no-direct-io",
        format!(
            "{dir} is on {fs}, where files cannot be opened for direct I/O: all goes through the page cache, which takes \
             memory and a copy by the CPU (11-12 GB/s per thread at best, whatever the device can), and `direct = \"on\"` fails"
        ),
        [to_a_disk, special],
    ))
}

/// Not even the default `swap` fits.
fn little_space(report: &Report) -> Option<Finding> {
    let need = TensorSet::gpt2().bytes();
    let free = report.dir.free_bytes.filter(|free| *free < need)?;
    let path = &report.dir.path;
    Some(finding(
        Warning,
        "little-space",
        format!(
            "{} has {} free; `tensor-aio swap` takes {} for GPT-2 small with its Adam moments",
            shown(path),
            size::show(free),
            size::show(need),
        ),
        [&format!("make room (`df -h {}`), or name another folder", quoted(path))],
    ))
}

/// The path, quoted for the shell.
fn quoted(path: &Path) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    match path.to_str() {
        Some(text) if !text.starts_with('-') && text.chars().all(plain) => text.to_owned(),
        Some(text) if !text.chars().any(char::is_control) => format!("'{}'", text.replace('\'', r"'\''")),
        // Control characters and other bytes: bash and zsh read `\xHH` here, so the name stays the same.
        _ => {
            let letters = path.as_os_str().as_bytes().iter().map(|byte| match char::from(*byte) {
                c @ ' '..='~' if !r"'\".contains(c) => c.to_string(),
                _ => format!(r"\x{byte:02x}"),
            });
            format!("$'{}'", letters.collect::<String>())
        }
    }
}

fn mount_point_of(path: &Path) -> String {
    format!("\"$(findmnt -n -o TARGET -T {})\"", quoted(path))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::super::tests::{assert_only, found};
    use super::*;
    use crate::probe::report::tests::refuse;

    fn refused(errno: Option<Errno>) -> impl FnOnce(&mut Report) {
        move |report| {
            (report.dir.writable, report.dir.direct_io) = (false, None);
            report.dir.reason = Some("cannot make a file in /data: the reason".to_owned());
            report.dir.errno = errno.map(|errno| errno as i32);
        }
    }

    #[test]
    fn a_folder_that_takes_no_files() {
        for (errno, id, words) in [
            (Some(Errno::EROFS), "folder-read-only", "remount,rw \"$(findmnt -n -o TARGET -T /data)\""),
            (Some(Errno::ENOSPC), "folder-full", "df -i /data"),
            (Some(Errno::EDQUOT), "folder-full", "quota"),
            (Some(Errno::EACCES), "folder-not-writable", "chown $USER /data"),
            (Some(Errno::ENOENT), "folder-not-writable", "the reason"),
            (None, "folder-not-writable", "the reason"),
        ] {
            assert_only(Error, id, &["/data", words], refused(errno));
        }
    }

    #[test]
    fn no_direct_io_is_explained_by_the_file_system() {
        for (fs, words) in [
            ("overlayfs", "docker run -v"),
            ("zfs", "direct=standard"),
            ("ext4", "data=ordered"),
            ("btrfs", "chattr +C"),
            ("nfs", "server"),
            ("0x9fa0", "on 0x9fa0"),
        ] {
            assert_only(Error, "no-direct-io", &["direct I/O", "page cache", words], |report| {
                report.dir.file_system = Some(fs.to_owned());
                report.dir.direct_io = None;
                report.dir.reason = Some("this file system has no direct I/O".to_owned());
            });
        }
    }

    #[test]
    fn what_nothing_could_look_at_is_not_said_to_lack_it() {
        let found = found(|report| {
            (report.auto, report.dir.direct_io) = (None, None);
            ["uring", "libaio", "pthread"].into_iter().for_each(|name| refuse(report, name, None));
        });
        assert!(found.iter().all(|(_, id, _)| *id != "no-direct-io"), "{found:?}");
    }

    #[test]
    fn files_in_memory_are_told_from_a_disk_whatever_they_say_of_direct_io() {
        for fs in ["tmpfs", "ramfs"] {
            assert_only(Warning, "folder-in-memory", &[&format!("/data is on {fs}"), "findmnt"], |report| {
                report.dir.file_system = Some(fs.to_owned());
            });
        }
    }

    #[test]
    fn space_for_less_than_the_default_job() {
        let free = |bytes| move |report: &mut Report| report.dir.free_bytes = Some(bytes);
        assert_only(Warning, "little-space", &["1.0 GiB free", "1.4 GiB", "df -h /data"], free(1 << 30));
        assert_eq!(found(free(2 << 30)), []);
    }

    #[test]
    fn a_path_is_one_word_for_the_shell() {
        assert_eq!(quoted(Path::new("/mnt/nvme0")), "/mnt/nvme0");
        assert_eq!(quoted(Path::new("a b'c")), r"'a b'\''c'");
        assert_eq!(quoted(Path::new("-rf")), "'-rf'");
        let odd = Path::new(OsStr::from_bytes(b"a \n'\xff\\"));
        assert_eq!(quoted(odd), r"$'a \x0a\x27\xff\x5c'");
    }
}
