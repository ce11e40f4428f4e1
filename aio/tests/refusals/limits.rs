//! Limits and permissions of the process: each in a child that has them.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::support::child::{again_under, assert_passes, is_child};
use crate::support::{Folder, each, pattern};

/// Runs a test of this file again, in a child process under a limit of the shell's: limits are the process's. True in
/// the child.
fn limited(test: &str, ulimit: &str) -> bool {
    if is_child(test) {
        return true;
    }
    let command = format!("ulimit {ulimit} && exec \"$0\" \"$@\"");
    assert_passes(&mut again_under(&["sh", "-c", &command], test));
    false
}

#[test]
fn more_paths_than_files_may_be_open() {
    if !limited("limits::more_paths_than_files_may_be_open", "-n 48") {
        return;
    }
    each(|_, aio, folder| {
        // Odd lengths take two descriptors each.
        let tensors: Vec<Vec<u8>> = (0..300).map(|i| pattern(i, 10_001)).collect();
        aio.scope(|scope| {
            for (i, tensor) in tensors.iter().enumerate() {
                scope.write_new(folder.path(&i.to_string()), tensor);
            }
        })
        .unwrap();
        let read = |i| aio.read_path(folder.path(&format!("{i}")), vec![0; 10_001]);
        let tickets: Vec<_> = (0..tensors.len()).map(read).collect();
        for (ticket, tensor) in tickets.into_iter().zip(&tensors) {
            assert!(&ticket.wait().unwrap() == tensor);
        }
        // The error names the limit itself when there is nothing to wait for.
        let held: Vec<_> = std::iter::from_fn(|| std::fs::File::open(folder.path("0")).ok()).collect();
        let error = aio.open(folder.path("0")).unwrap_err();
        assert!(error.to_string().contains("ulimit -n"), "{error}");
        assert!(aio.read_path(folder.path("0"), vec![0; 1]).wait().unwrap_err().to_string().contains("ulimit -n"));
        drop(held);
    });
}

#[test]
fn a_file_size_limit() {
    if !limited("limits::a_file_size_limit", "-f 100") {
        return;
    }
    // The limit is in units of 512 or 1024 bytes, as the shell has it.
    each(|_, aio, folder| {
        let path = folder.path("t");
        let failed = aio.write_new(&path, vec![1; 1 << 20]).wait().unwrap_err();
        assert_eq!(failed.error().raw_os_error(), Some(libc::EFBIG), "{failed}");
        assert!(failed.to_string().contains("ulimit -f"), "{failed}");
        assert!(!path.exists());
        let file = aio.create(&path).unwrap();
        file.write_at(&[1; 5000], 0).unwrap();
        assert_eq!(file.write_at(&[1; 5000], 1 << 20).unwrap_err().raw_os_error(), Some(libc::EFBIG));
        assert_eq!(file.len().unwrap(), 5000);
    });
}

#[test]
fn no_permission() {
    // Root may do anything, so a child gives that up.
    const VARIABLE: &str = "AIO_TEST_NO_PERMISSION";
    if let Some(folder) = std::env::var_os(VARIABLE) {
        let path = std::path::Path::new(&folder).join("secret");
        let aio = aio::builder().build().unwrap();
        let error = aio.open(&path).unwrap_err();
        assert!(error.to_string().contains("Permission denied"), "{error}");
        return;
    }
    let folder = Folder::new();
    let secret = folder.file("secret", b"x");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o000)).unwrap();
    std::fs::set_permissions(folder.path(""), std::fs::Permissions::from_mode(0o755)).unwrap();
    let test = std::env::current_exe().unwrap();
    // The test binary may lie where only its owner can read, so it is copied to where user "nobody" can.
    let copy = folder.path("test");
    std::fs::copy(test, &copy).unwrap();
    let status = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(&copy)
        .args(["limits::no_permission", "--exact"])
        .env(VARIABLE, folder.path(""))
        .status();
    match status {
        Ok(status) if status.code() == Some(127) || status.code() == Some(1) => {
            eprintln!("SKIPPED: setpriv cannot change the user here");
        }
        Ok(status) => assert!(status.success(), "{status}"),
        Err(error) => eprintln!("SKIPPED: no setpriv: {error}"),
    }
}
