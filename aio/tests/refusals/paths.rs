//! What is no file, or takes no bytes, is refused with its path and the reason.

use std::io;
use std::os::unix::net::UnixListener;
use std::process::Command;

use aio::{Error, OpenOptions};

use crate::disk::SmallDisk;
use crate::support::each;

#[test]
fn files_that_are_none() {
    each(|_, aio, folder| {
        let missing = folder.path("missing");
        let error = aio.open(&missing).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cannot open {}: No such file or directory (os error 2)", missing.display())
        );
        assert!(!missing.exists());
        let failed = aio.read_path(&missing, vec![0; 10]).wait().unwrap_err();
        assert_eq!(failed.to_string(), error.to_string());

        let pipe = folder.path("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let socket = folder.path("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        let long = folder.path(&"x".repeat(300));
        for (path, kind, why) in [
            (folder.path(""), io::ErrorKind::IsADirectory, "Is a directory"),
            (pipe, io::ErrorKind::InvalidInput, "it is a FIFO, and only regular files and block devices"),
            (socket, io::ErrorKind::InvalidInput, "it is a socket, and only regular files and block devices"),
            ("/dev/null".into(), io::ErrorKind::InvalidInput, "it is a character device, and only regular files"),
            ("".into(), io::ErrorKind::InvalidInput, "cannot open \"\": the path is empty"),
            (folder.path("a\0b"), io::ErrorKind::InvalidInput, "a\\u{0}b: no path has a NUL byte in it"),
            (long, io::ErrorKind::InvalidFilename, "File name too long"),
        ] {
            let write = OpenOptions::new().write(true);
            let errors: [Error; 7] = [
                aio.open(&path).unwrap_err(),
                aio.open_with(&path, &OpenOptions::new().read(true)).unwrap_err(),
                aio.open_with(&path, &write).unwrap_err(),
                aio.create(&path).unwrap_err(),
                aio.read_path(&path, vec![0; 10]).wait().unwrap_err().into(),
                aio.write_path(&path, vec![0; 10]).wait().unwrap_err().into(),
                aio.create_atomic(&path).unwrap_err(),
            ];
            for error in errors {
                let text = error.to_string();
                assert!(text.starts_with("cannot open ") && text.contains(why), "{text}");
                assert_eq!(error.kind(), kind, "{text}");
            }
        }
    });
}

/// It has `read(2)` and `mmap(2)`, and `write(2)` fails with EINVAL.
#[test]
fn hugetlbfs_is_read_only() {
    let Some(disk) = SmallDisk::in_memory("hugetlbfs") else { return };
    each(|_, aio, _| {
        let path = disk.path().join("t");
        let new = disk.path().join("new");
        let errors: [Error; 3] = [
            aio.open_with(&new, &OpenOptions::new().create_new(true)).unwrap_err(),
            aio.write_new(&new, vec![1; 5000]).wait().unwrap_err().into(),
            aio.create_atomic(&path).unwrap_err(),
        ];
        for error in errors {
            assert!(error.to_string().contains("hugetlbfs can be mapped and read, but not written"), "{error}");
        }
        assert!(!new.exists());
        // A hole takes no page.
        std::fs::File::create(&path).unwrap().set_len(2 << 20).unwrap();
        let file = aio.open(&path).unwrap();
        assert!(file.read(vec![1; 5000], 1).wait().unwrap() == [0; 5000]);
        assert!(aio.read_path(&path, vec![1; 5000]).wait().unwrap() == [0; 5000]);
        std::fs::remove_file(&path).unwrap();
    });
}
