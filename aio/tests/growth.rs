//! Files that grow, files that need not be there, and syncs that wait for what makes them worth it.

#[path = "support/disk.rs"]
mod disk;
mod support;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aio::error::OpKind;
use aio::{AioFile, AioHandle, Backend, DirectMode, Error, OpenOptions};
use aio_testkit::conformance::refusing;
use aio_testkit::fault::{Gate, Plain};
use disk::{LoopDevice, SmallDisk};
use support::{Folder, backends, gated, pattern, small};

const BLOCK: usize = 16 << 10;

/// Whether the file system of `folder` has no fallocate(2); says so if it has.
fn lacks_fallocate(folder: &Path) -> bool {
    let path = folder.join("probe");
    let file = std::fs::File::create(&path).unwrap();
    // SAFETY: no memory is involved, and the descriptor is open.
    let status = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, 4096) };
    let error = io::Error::last_os_error();
    std::fs::remove_file(path).unwrap();
    let lacks = status != 0 && error.raw_os_error() == Some(libc::EOPNOTSUPP);
    if !lacks {
        eprintln!("SKIPPED: this file system preallocates: {error}");
    }
    lacks
}

#[test]
fn growing_at_many_ends_at_once_where_nothing_can_be_preallocated() {
    const WRITES: usize = 64;
    const LEN: usize = 64 << 10;
    let Some(disk) = SmallDisk::formatted("ext3", 64) else { return };
    if !lacks_fallocate(&disk.path()) {
        return;
    }
    for backend in backends() {
        for round in 0..8 {
            let threads = 1 + round % 4;
            let aio = aio::builder().backend(backend).threads(threads).build().unwrap();
            let path = disk.path().join("grows");
            let file = aio.create(&path).unwrap();
            let content = pattern(round as u64, WRITES * LEN);
            let parts = content.chunks(LEN).enumerate();
            let tickets: Vec<_> = parts.map(|(i, part)| file.write(part.to_vec(), (i * LEN) as u64)).collect();
            for ticket in tickets {
                ticket.wait().unwrap();
            }
            let found = std::fs::read(&path).unwrap();
            let wrong =
                (0..WRITES).find(|i| found.get(i * LEN..(i + 1) * LEN) != content.get(i * LEN..(i + 1) * LEN));
            assert_eq!(wrong, None, "on {backend}, {threads} threads: a write that was Ok is not in the file");
            file.close().unwrap();
            std::fs::remove_file(path).unwrap();
        }
    }
}

/// By a sandbox, whose filter of system calls says "not permitted".
#[test]
fn files_grow_where_preallocation_is_refused() {
    for backend in backends() {
        let folder = Folder::new();
        for errno in [libc::EPERM, libc::EACCES, libc::ENOSYS] {
            refusing(&[libc::SYS_fallocate], errno, || {
                let aio = aio::builder().backend(backend).build().unwrap();
                for len in [8192, 5000, 300_001] {
                    let (path, content) = (folder.path("t"), pattern(1, len));
                    aio.write_new(&path, content.clone()).wait().unwrap();
                    assert!(std::fs::read(&path).unwrap() == content);
                    let file = aio.open(&path).unwrap();
                    file.write(content.clone(), len as u64).wait().unwrap();
                    assert!(std::fs::read(&path).unwrap() == [&content[..], &content].concat());
                    // A call that asks for the space itself gets the error.
                    let error = Error::from(file.allocate(0, 1 << 20).wait().unwrap_err());
                    assert_eq!((error.raw_os_error(), file.len().unwrap()), (Some(errno), 2 * len as u64), "{error}");
                    std::fs::remove_file(&path).unwrap();
                }
            });
        }
    }
}

#[test]
fn a_file_that_may_not_grow_says_so() {
    // SAFETY: the name ends with a NUL.
    let made = unsafe { libc::memfd_create(c"sealed".as_ptr(), libc::MFD_ALLOW_SEALING) };
    assert!(made >= 0, "{}", io::Error::last_os_error());
    // SAFETY: it was made above, and is no one else's.
    let file = unsafe { std::fs::File::from_raw_fd(made) };
    file.set_len(5000).unwrap();
    // SAFETY: no memory is involved, and the descriptor is open.
    assert_eq!(unsafe { libc::fcntl(made, libc::F_ADD_SEALS, libc::F_SEAL_GROW) }, 0);
    for backend in backends() {
        let aio = aio::builder().backend(backend).build().unwrap();
        let sealed = aio.open(format!("/proc/self/fd/{made}")).unwrap();
        let error = Error::from(sealed.write(vec![1; 5000], 4000).wait().unwrap_err());
        assert!(matches!(&error, Error::Io(error) if error.op == OpKind::Write), "{error}");
        assert_eq!((error.raw_os_error(), sealed.len().unwrap()), (Some(libc::EPERM), 5000), "{error}");
        sealed.write(pattern(1, 1000), 4000).wait().unwrap();
    }
    let mut end = vec![0; 1000];
    file.read_exact_at(&mut end, 4000).unwrap();
    assert!(end == pattern(1, 1000));
}

#[test]
fn a_write_far_out_takes_no_room_for_the_gap_before_it() {
    const FAR: u64 = 64 << 30;
    for backend in backends() {
        for direct in [DirectMode::Auto, DirectMode::Off] {
            let folder = Folder::new();
            let aio = aio::builder().backend(backend).direct(direct).build().unwrap();
            let path = folder.path("sparse");
            let file = aio.create(&path).unwrap();
            file.write(pattern(1, 4096), FAR).wait().unwrap();
            let facts = std::fs::metadata(&path).unwrap();
            assert_eq!(facts.len(), FAR + 4096);
            assert!(facts.blocks() * 512 < 1 << 20, "{} bytes are allocated", facts.blocks() * 512);
            assert_eq!(
                file.read(vec![1; 8192], FAR - 4096).wait().unwrap(),
                [vec![0; 4096], pattern(1, 4096)].concat()
            );
            // Several extents of one op: the gap between them need not exist either, but may.
            file.write_vectored(vec![(0, vec![1; 10]), (FAR + 8192, vec![2; 10])]).wait().unwrap();
            assert_eq!(file.len().unwrap(), FAR + 8202);
        }
    }
}

/// A write through `writer` is in flight for as long as the gate is closed, and a sync through `syncer` for as long.
fn assert_waits(gate: &Gate, writer: &AioFile, syncer: &AioFile) {
    for sync in [AioFile::sync_data, AioFile::sync_all] {
        gate.close();
        let write = writer.write(vec![7; BLOCK], 0);
        gate.wait_for(1);
        let sync = sync(syncer);
        // Long enough to find a sync that does not wait; one that does cannot end, however slow the machine.
        let early = sync.wait_timeout(Duration::from_millis(200)).unwrap();
        let in_flight = (gate.kept(), write.is_done());
        gate.open();
        assert_eq!(in_flight, (1, false));
        assert!(!early, "it did not wait for the write");
        sync.wait().unwrap();
        write.wait().unwrap();
        // With no write in flight there is nothing to wait for.
        syncer.sync_data().wait().unwrap();
    }
}

fn each_backend(what: &'static str, test: impl Fn(&AioHandle, &Gate, Backend) + Send + Sync + 'static) {
    support::each_backend(what, move |backend, direct| {
        let (aio, gate) = gated(backend, &Arc::new(Plain), small(1, 4, direct));
        test(&aio, &gate, backend);
    });
}

#[test]
fn a_sync_waits_for_writes_through_another_open_of_the_file() {
    each_backend("sync of a reader", |aio, gate, backend| {
        let folder = Folder::new();
        let path = folder.file("t", &pattern(1, 4 * BLOCK));
        let writer = aio.open(&path).unwrap();
        let reader = aio.open_with(&path, &OpenOptions::new().read(true)).unwrap();
        assert_waits(gate, &writer, &reader);
        // A hard link is another path to the same inode, and another handle knows it as well.
        let link = folder.path("link");
        std::fs::hard_link(&path, &link).unwrap();
        let other = aio::builder().backend(backend).build().unwrap();
        assert_waits(gate, &writer, &other.open_with(&link, &OpenOptions::new().read(true)).unwrap());
        assert_waits(gate, &writer, &other.open(&link).unwrap());
        assert!(std::fs::read(&path).unwrap()[..BLOCK].iter().all(|byte| *byte == 7));
    });
}

#[test]
fn a_sync_of_a_block_device_waits_for_writes_through_any_node_of_it() {
    each_backend("sync of a device", |aio, gate, _| {
        let Some(device) = LoopDevice::new(1) else { return };
        let file = aio.open(device.path()).unwrap();
        assert_waits(gate, &file, &file);
        assert_waits(gate, &file, &aio.open_with(device.path(), &OpenOptions::new().read(true)).unwrap());
        if let Some(node) = device.other_node() {
            assert_waits(gate, &file, &aio.open_with(node, &OpenOptions::new().read(true)).unwrap());
        }
        assert_eq!(file.read(vec![0; BLOCK], 0).wait().unwrap(), vec![7; BLOCK]);
    });
}

/// Whether files of `folder` have no direct I/O; says so if they have.
fn lacks_direct(folder: &Path) -> bool {
    let path = folder.join("probe");
    let opened = std::fs::OpenOptions::new().write(true).create(true).custom_flags(libc::O_DIRECT).open(&path);
    std::fs::remove_file(&path).unwrap();
    if opened.is_ok() {
        eprintln!("SKIPPED: direct I/O works on {}", folder.display());
    }
    opened.is_err()
}

#[test]
fn a_new_file_that_cannot_be_opened_as_asked_is_not_left_behind() {
    let Some(disk) = SmallDisk::in_memory("ramfs") else { return };
    if !lacks_direct(&disk.path()) {
        return;
    }
    let path = disk.path().join("new");
    let why = "does not offer it";
    for backend in backends() {
        let aio = aio::builder().backend(backend).direct(DirectMode::On).build().unwrap();
        // The second time tells whether the first one was undone.
        for _ in 0..2 {
            let error = aio.open_with(&path, &OpenOptions::new().create_new(true)).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
            assert!(!path.exists());
            let failed = aio.write_new(&path, pattern(1, 10_000)).wait().unwrap_err();
            assert!(failed.to_string().contains(why), "{failed}");
            assert_eq!(failed.into_buffer().unwrap(), pattern(1, 10_000));
            assert!(!path.exists());
        }
        // A file that was there before is not the op's to remove.
        std::fs::File::create(&path).unwrap().write_all_at(b"old", 0).unwrap();
        assert!(aio.open(&path).unwrap_err().to_string().contains(why));
        let failed = aio.write_new(&path, vec![0; 10]).wait().unwrap_err();
        assert_eq!(failed.error().raw_os_error(), Some(libc::EEXIST), "{failed}");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        std::fs::remove_file(&path).unwrap();
        // Where direct I/O is only preferred, the page cache does.
        let aio = aio::builder().backend(backend).direct(DirectMode::Auto).build().unwrap();
        aio.write_new(&path, pattern(1, 10_000)).wait().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), pattern(1, 10_000));
        std::fs::remove_file(&path).unwrap();
    }
}
