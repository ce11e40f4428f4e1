//! What bad input and bad luck get: one sentence with the path and the reason, and nothing else disturbed.

#[path = "support/disk.rs"]
mod disk;
mod support;

use std::fmt::Debug;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aio::op::{Direction, Extent, IoOpDesc, Outcome, PathMode, Target};
use aio::{AioConfig, Backend, Error, OpenOptions};
use disk::SmallDisk;
use support::child::{again_under, alone, assert_passes, is_child};
use support::{Folder, each, pattern};
use tracing::field::Field;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

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

/// A name that clears a terminal, and looks like two lines.
const ODD_NAME: &str = "a\u{1b}[2J\nb";

fn assert_one_line(text: &str) {
    assert!(!text.contains(char::is_control) && text.contains("a\\u{1b}[2J\\nb"), "{text:?}");
}

#[test]
fn errors_are_one_line_whatever_a_file_is_called() {
    each(|_, aio, folder| {
        let (path, missing) = (folder.file(ODD_NAME, &[1; 5000]), folder.path(&format!("missing {ODD_NAME}")));
        let file = aio.open(&path).unwrap();
        let new = aio.create_atomic(&path).unwrap();
        new.write(vec![0; 1], i64::MAX as u64 - 8192).wait().unwrap_err();
        let config = folder.file(&format!("{ODD_NAME}.json"), b"{\"aio\": {\"queue_depth\": 0}}");
        let errors: [Error; 9] = [
            aio.open(&missing).unwrap_err(),
            aio.create_atomic(missing.join("t")).unwrap_err(),
            aio.read_path(&missing, vec![0; 10]).wait().unwrap_err().into(),
            file.read(vec![0; 5000], 1).wait().unwrap_err().into(),
            file.read_at(&mut [0; 5000], 1).unwrap_err(),
            file.set_len(u64::MAX).wait().unwrap_err().into(),
            new.commit().unwrap_err(),
            AioConfig::from_json_file(&missing).unwrap_err(),
            AioConfig::from_json_file(&config).unwrap_err(),
        ];
        for error in errors {
            assert_one_line(&error.to_string());
            assert_one_line(&format!("{error:?}"));
        }
        let _what_was_dropped = aio.wait();
    });
}

/// Takes down what is logged.
#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = String::new();
        event.record(&mut |field: &Field, value: &dyn Debug| line.push_str(&format!("{field}={value:?} ")));
        self.0.lock().unwrap().push(line);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn log_lines_are_one_line_whatever_a_file_is_called() {
    alone("log_lines_are_one_line_whatever_a_file_is_called", || {
        let log = Arc::new(Log::default());
        // Of this process, whose only test this is: workers log.
        tracing::subscriber::set_global_default(log.clone()).unwrap();
        each(|_, aio, folder| {
            let file = aio.open(folder.file(ODD_NAME, &[1; 5000])).unwrap();
            log.0.lock().unwrap().clear();
            // Continued through the page cache at the end of the file; and nobody hears of its failure but the log.
            file.read(vec![0; 8192], 0).wait().unwrap_err();
            drop(file.read(vec![0; 8192], 0));
            aio.wait().unwrap_err();
            let mut lines = log.0.lock().unwrap();
            lines.retain(|line| line.contains("[2J"));
            assert!(!lines.is_empty());
            lines.iter().for_each(|line| assert_one_line(line));
        });
    });
}

#[test]
fn ranges_that_cannot_be() {
    each(|_, aio, folder| {
        let file = aio.create(folder.path("t")).unwrap();
        for offset in [u64::MAX, u64::MAX - 10, i64::MAX as u64] {
            let failed = file.read(vec![0; 100], offset).wait().unwrap_err();
            assert!(matches!(failed.error(), Error::InvalidInput(_)), "{failed}");
            assert!(failed.to_string().contains("past the largest file offset"), "{failed}");
            assert!(matches!(file.write_at(&[0; 100], offset).unwrap_err(), Error::InvalidInput(_)));
        }
        // A write far out that the file system refuses leaves the file as it was.
        file.write(vec![1; 5000], 0).wait().unwrap();
        let failed = file.write(vec![0; 100], i64::MAX as u64 - 8192).wait().unwrap_err();
        assert_eq!(failed.error().raw_os_error(), Some(libc::EFBIG), "{failed}");
        assert_eq!(file.len().unwrap(), 5000);
    });
}

/// Extents of any length, of zeros that lie nowhere.
struct Zeros {
    direction: Direction,
    target: Target,
    extents: Vec<Extent>,
    ended: Arc<AtomicUsize>,
}

// SAFETY: the getters return fields that nothing changes, no extent names memory, and `gather` writes every byte.
unsafe impl IoOpDesc for Zeros {
    fn direction(&self) -> Direction {
        self.direction
    }

    fn target(&self) -> &Target {
        &self.target
    }

    fn extents(&self) -> &[Extent] {
        &self.extents
    }

    fn gather(&self, _extent: usize, _at: usize, into: &mut [MaybeUninit<u8>]) {
        into.fill(MaybeUninit::new(0));
    }

    fn scatter(&self, _extent: usize, _at: usize, _from: &[u8]) {}

    fn fini(&self, outcome: &Outcome) {
        assert!(outcome.is_err());
        self.ended.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn lengths_that_cannot_be() {
    const LONGEST: usize = i64::MAX as usize;
    each(|_, aio, folder| {
        let (path, ended) = (folder.file("t", &[1; 10_000]), Arc::<AtomicUsize>::default());
        let file = aio.open(&path).unwrap();
        let submit = |direction, target: &Target, extents| {
            let extents = vec![Extent { offset: 0, len: LONGEST, memory: None }; extents];
            let failed =
                aio.submit(Zeros { direction, target: target.clone(), extents, ended: ended.clone() }).wait();
            assert_eq!(ended.swap(0, Ordering::SeqCst), 1);
            failed.unwrap_err().into_error()
        };
        let by_path = Target::Path(path.clone(), PathMode::Read);
        for (direction, target) in
            [(Direction::Read, &file.target()), (Direction::Write, &file.target()), (Direction::Read, &by_path)]
        {
            let error = submit(direction, target, 3);
            assert!(matches!(error, Error::InvalidInput(_)), "{error}");
            assert!(error.to_string().contains("longer together than 2^64 - 1"), "{error}");
        }
        // Just below it: the file ends first.
        for target in [&file.target(), &by_path] {
            let error = submit(Direction::Read, target, 2);
            assert!(
                matches!(error, Error::UnexpectedEof { length, read: 10_000, .. } if length == u64::MAX - 1),
                "{error}"
            );
        }
        let error = submit(Direction::Write, &file.target(), 2);
        assert!(matches!(error.raw_os_error(), Some(libc::EFBIG | libc::ENOSPC)), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), [1; 10_000]);
    });
}

#[test]
fn directions_that_a_file_is_not_open_for() {
    each(|_, aio, folder| {
        let path = folder.file("t", &pattern(1, 10_000));
        let reader = aio.open_with(&path, &OpenOptions::new().read(true)).unwrap();
        let failed = reader.write(vec![0; 100], 0).wait().unwrap_err();
        assert!(failed.to_string().contains("open for reading only"), "{failed}");
        let writer = aio.open_with(&path, &OpenOptions::new().write(true)).unwrap();
        let failed = writer.read(vec![0; 100], 0).wait().unwrap_err();
        assert!(failed.to_string().contains("open for writing only"), "{failed}");
        // Odd offsets reopen the file for the edges, with the same rights.
        writer.write(vec![9; 9000], 1).wait().unwrap();
        assert!(std::fs::read(&path).unwrap()[1..9001].iter().all(|byte| *byte == 9));
        let failed = writer.validated(true).write(vec![0; 100], 0).wait().unwrap_err();
        assert!(failed.to_string().contains("validate reads back"), "{failed}");
        assert!(reader.set_len(0).wait().unwrap_err().to_string().contains("cannot set the length"));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 10_000);
    });
}

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
    if !limited("more_paths_than_files_may_be_open", "-n 48") {
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
        // The limit itself is told, when there is nothing to wait for.
        let held: Vec<_> = std::iter::from_fn(|| std::fs::File::open(folder.path("0")).ok()).collect();
        let error = aio.open(folder.path("0")).unwrap_err();
        assert!(error.to_string().contains("ulimit -n"), "{error}");
        assert!(aio.read_path(folder.path("0"), vec![0; 1]).wait().unwrap_err().to_string().contains("ulimit -n"));
        drop(held);
    });
}

#[test]
fn a_file_size_limit() {
    if !limited("a_file_size_limit", "-f 100") {
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
    // The test binary may lie where only its owner can read, so it is copied to where nobody can.
    let copy = folder.path("test");
    std::fs::copy(test, &copy).unwrap();
    let status = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(&copy)
        .args(["no_permission", "--exact"])
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

#[test]
fn configurations_that_cannot_work() {
    let refused = |builder: aio::Builder| builder.build().unwrap_err().to_string();
    let text = refused(aio::builder().queue_depth(0));
    assert!(text.contains("queue_depth = 0"), "{text}");
    for builder in [
        aio::builder().queue_depth(usize::MAX),
        aio::builder().block_size(0),
        aio::builder().block_size(4097),
        aio::builder().threads(0),
        aio::builder().threads(1 << 30),
    ] {
        let text = refused(builder);
        assert!(text.contains("is not valid"), "{text}");
    }
    let text = "fastest".parse::<Backend>().unwrap_err().to_string();
    assert_eq!(text, "backend = \"fastest\" is not valid: it is one of auto, uring, libaio, pthread");
}

#[test]
fn memory_that_is_not_there() {
    let aio = aio::builder().arena_limit(8 << 20).build().unwrap();
    let error = aio.alloc(16 << 20).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { limit: 8_388_608, .. }), "{error}");
    let held = aio.alloc(6 << 20).unwrap();
    assert!(matches!(aio.try_alloc(6 << 20).unwrap_err(), Error::OutOfMemory { .. }));
    drop(held);
    drop(aio.try_alloc(6 << 20).unwrap());
}
