//! Files and buffers of one handle work in ops of another, which knows neither by its own registration.

use std::sync::Arc;

use aio::op::Direction;
use aio::{AioHandle, Backend, DirectMode};
use aio_testkit::fault::Plain;

use crate::support::fini::OnFini;
use crate::support::{Folder, each_backend, gated, pattern, small};
use crate::{BLOCK, plain};

#[test]
fn files_of_one_handle_in_ops_of_another() {
    each_backend("files of another handle", |backend, direct| {
        let folder = Folder::new();
        let (first, second) = (plain(backend, direct), plain(backend, direct));
        let paths = [folder.file("a", &[b'a'; BLOCK]), folder.file("b", &[b'b'; BLOCK])];
        // Both were the first file of their handle.
        let (a, b) = (first.open(&paths[0]).unwrap(), second.open(&paths[1]).unwrap());
        for (file, byte) in [(&a, b'a'), (&b, b'b')] {
            assert_eq!(file.read(vec![0; BLOCK], 0).wait().unwrap(), vec![byte; BLOCK]);
        }
        let mut found = second.alloc(BLOCK).unwrap();
        second.scope(|scope| scope.read(&a, &mut found[..], 0)).unwrap();
        assert!(found.iter().all(|byte| *byte == b'a'), "the other file was read");
        found.fill(b'X');
        second.scope(|scope| scope.write(&a, &found[..], 0)).unwrap();
        let contents = || paths.each_ref().map(|path| std::fs::read(path).unwrap());
        assert!(contents() == [vec![b'X'; BLOCK], vec![b'b'; BLOCK]], "the bytes went into the other file");
        second.submit(OnFini::new(Direction::Write, &a, vec![b'Y'; BLOCK], || ())).wait().unwrap();
        assert!(contents() == [vec![b'Y'; BLOCK], vec![b'b'; BLOCK]], "the bytes went into the other file");
        first.submit(OnFini::new(Direction::Write, &b, vec![b'Z'; BLOCK], || ())).wait().unwrap();
        assert!(contents() == [vec![b'Y'; BLOCK], vec![b'Z'; BLOCK]], "the bytes went into the other file");
        // Also when the handle that opened it is closed: the file is open still.
        first.close().unwrap();
        second.submit(OnFini::new(Direction::Write, &a, vec![b'W'; BLOCK], || ())).wait().unwrap();
        assert!(contents() == [vec![b'W'; BLOCK], vec![b'Z'; BLOCK]]);
    });
}

/// A handle with an arena of its own.
fn limited(backend: Backend, direct: DirectMode) -> AioHandle {
    let mut config = small(1, 4, direct);
    config.arena_limit = Some(64 << 20);
    gated(backend, &Arc::new(Plain), config).0
}

#[test]
fn buffers_of_one_handle_in_ops_of_another() {
    each_backend("buffers of another handle", |backend, direct| {
        let folder = Folder::new();
        let content = pattern(1, BLOCK);
        let path = folder.file("t", &content);
        let read = |aio: &AioHandle, of: &AioHandle| {
            let file = aio.open(&path).unwrap();
            // Memory is registered when it is used again.
            let buffer = file.read(of.alloc(BLOCK).unwrap(), 0).wait().unwrap();
            let before = aio.stats().bytes_fixed;
            let buffer = file.read(buffer, 0).wait().unwrap();
            assert!(buffer[..] == content, "the bytes are not where they belong");
            aio.stats().bytes_fixed - before
        };
        let control = limited(backend, direct);
        let own = read(&control, &control);
        for own_first in [true, false] {
            let (aio, other) = (limited(backend, direct), limited(backend, direct));
            // Each has memory in the slot in which the other's is.
            let (mine, theirs) = (aio.alloc(BLOCK).unwrap(), other.alloc(BLOCK).unwrap());
            if own_first {
                assert_eq!(read(&aio, &aio), own);
            }
            assert_eq!(read(&aio, &other), 0, "registered with another handle's queues");
            assert_eq!(read(&other, &aio), 0, "registered with another handle's queues");
            // And what it was given before does not keep it from using its own.
            assert_eq!(read(&aio, &aio), own);
            assert_eq!(read(&other, &other), own);
            drop((mine, theirs));
            // Nor does memory of a region that it does not have yet.
            let (aio, other) = (limited(backend, direct), limited(backend, direct));
            assert_eq!(read(&aio, &other), 0);
            assert_eq!(read(&aio, &aio), own);
        }
        let (buffer, other) = (control.alloc(BLOCK).unwrap(), limited(backend, direct));
        drop(control);
        // The memory outlives its handle.
        let buffer = other.open(&path).unwrap().read(buffer, 0).wait().unwrap();
        assert!(buffer[..] == content);
    });
}
