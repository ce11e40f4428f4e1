//! A file that lies in the page cache is read from there in `DirectMode::Auto`, and only then, and never stale.

mod support;

use std::os::fd::AsRawFd;
use std::path::Path;

use aio::{AioFile, AioHandle, DirectMode};
use support::{Folder, backends, evict, pattern};

const PAGE: usize = 4096;
const MIB: usize = 1 << 20;
/// More reads than lie between two samples.
const MANY: usize = 1200;

/// `cachestat(2)`: pages of a file in the page cache. `None` where the kernel does not tell.
fn cached_pages(path: &Path) -> Option<u64> {
    let file = std::fs::File::open(path).unwrap();
    let (range, mut found) = ([0u64, 1 << 40], [0u64; 5]);
    // SAFETY: two and five 64-bit numbers are the structures of the call.
    let status = unsafe { libc::syscall(451, file.as_raw_fd(), range.as_ptr(), found.as_mut_ptr(), 0) };
    (status == 0).then_some(found[0])
}

/// A handle on each backend with a direct file of these many bytes that is in the page cache, where that can be.
fn each_resident(mode: DirectMode, len: usize, test: impl Fn(&AioHandle, &AioFile, &[u8])) {
    for backend in backends() {
        let aio = aio::builder().backend(backend).direct(mode).block_size(64 << 10).build().unwrap();
        let folder = Folder::new();
        let content = pattern(1, len);
        let path = folder.file("t", &content);
        make_resident(&path, &content);
        // Some kernels take pages away again by themselves, a few at a time.
        let pages = len.div_ceil(PAGE) as u64;
        if cached_pages(&path).is_none_or(|cached| cached < pages - pages / 32) {
            eprintln!("SKIPPED {backend}: cachestat(2) does not tell here that a file is cached");
            continue;
        }
        // Whether there is direct I/O here, whose lack is no error in this mode.
        let file = match aio.open(&path) {
            Ok(file) if file.is_direct() => file,
            _ => {
                eprintln!("SKIPPED {backend}: no direct I/O on the file system of the temporary folder");
                continue;
            }
        };
        eprintln!("on {backend}");
        test(&aio, &file, &content);
    }
}

fn make_resident(path: &Path, content: &[u8]) {
    assert!(std::fs::read(path).unwrap() == content);
}

/// How many bytes `run` moved directly, and how many through the page cache.
fn moved(aio: &AioHandle, run: impl FnOnce()) -> (usize, usize) {
    let before = aio.stats();
    run();
    let after = aio.stats();
    ((after.bytes_direct - before.bytes_direct) as usize, (after.bytes_buffered - before.bytes_buffered) as usize)
}

/// Pages of the file, over and over, in an order that is no stream.
fn read_pages(file: &AioFile, content: &[u8], reads: usize) {
    let mut page = vec![0; PAGE];
    for read in 0..reads {
        let at = read * 5 * PAGE % content.len();
        file.read_at(&mut page, at as u64).unwrap();
        assert!(page == content[at..at + PAGE], "at {at}");
    }
}

#[test]
fn a_resident_file_is_read_from_the_page_cache() {
    // Looked at whole, and in windows.
    for len in [1, PAGE, MIB, 9 * MIB] {
        each_resident(DirectMode::Auto, len, |aio, file, content| {
            let mut bytes = vec![0; len.min(64 << 10)];
            assert_eq!(moved(aio, || file.read_at(&mut bytes, 0).unwrap()), (0, bytes.len()));
            assert!(bytes == content[..bytes.len()]);
            let read = moved(aio, || assert!(file.read(vec![0; len], 0).wait().unwrap() == content));
            assert_eq!(read, (0, len));
            let by_path = moved(aio, || assert!(aio.read_path(file.path(), vec![0; len]).wait().unwrap() == content));
            assert_eq!(by_path, (0, len));
            // Open for reading only.
            let only = aio.open_with(file.path(), &aio::OpenOptions::new().read(true)).unwrap();
            assert_eq!(moved(aio, || only.read_at(&mut bytes, 0).unwrap()), (0, bytes.len()));
        });
    }
}

#[test]
fn an_evicted_file_is_direct_again_after_a_while_and_back_when_it_is_back() {
    each_resident(DirectMode::Auto, 9 * MIB, |aio, file, content| {
        read_pages(file, content, MANY);
        evict(file.path());
        read_pages(file, content, MANY);
        // What those reads brought in is a tenth at most.
        assert!(!file.is_resident());
        assert_eq!(moved(aio, || read_pages(file, content, 10)), (10 * PAGE, 0));
        let by_path = moved(aio, || drop(aio.read_path(file.path(), vec![0; 9 * MIB]).wait().unwrap()));
        assert_eq!(by_path, (9 * MIB, 0));
        make_resident(file.path(), content);
        read_pages(file, content, MANY);
        assert!(file.is_resident());
        assert_eq!(moved(aio, || read_pages(file, content, 10)), (0, 10 * PAGE));
        // Ops are counted as well.
        evict(file.path());
        let mut buffer = aio.alloc(PAGE).unwrap();
        for read in 0..MANY {
            buffer = file.read(buffer, (read % 8 * PAGE) as u64).wait().unwrap();
        }
        let read = moved(aio, || drop(file.read(buffer, 0).wait().unwrap()));
        assert_eq!(read, (PAGE, 0));
    });
}

#[test]
fn what_must_be_direct_is() {
    each_resident(DirectMode::On, MIB, |aio, file, content| {
        assert_eq!(moved(aio, || read_pages(file, content, MANY)), (MANY * PAGE, 0));
        let by_path = moved(aio, || drop(aio.read_path(file.path(), vec![0; MIB]).wait().unwrap()));
        assert_eq!(by_path, (MIB, 0));
    });
    each_resident(DirectMode::Auto, MIB, |aio, file, _| {
        let file = file.validated(true);
        assert_eq!(moved(aio, || drop(file.read(vec![0; MIB], 0).wait().unwrap())), (2 * MIB, 0));
        assert_eq!(moved(aio, || drop(file.write(vec![1; MIB], 0).wait().unwrap())), (2 * MIB, 0));
    });
}

#[test]
fn a_write_makes_what_was_known_void() {
    each_resident(DirectMode::Auto, MIB, |aio, file, content| {
        let only = aio.open_with(file.path(), &aio::OpenOptions::new().read(true)).unwrap();
        let mut page = vec![0; PAGE];
        for file in [file, &only] {
            assert_eq!(moved(aio, || file.read_at(&mut page, 0).unwrap()), (0, PAGE));
        }
        assert_eq!(moved(aio, || file.write_at(&[7; PAGE], 0).unwrap()), (PAGE, 0));
        for file in [file, &only] {
            assert_eq!(moved(aio, || file.read_at(&mut page, 0).unwrap()), (PAGE, 0));
            assert!(page == [7; PAGE]);
        }
        // All other pages are where they were, but the first is one of 256.
        let mut expected = content.to_vec();
        expected[..PAGE].fill(7);
        read_pages(file, &expected, MANY);
        assert_eq!(moved(aio, || read_pages(file, &expected, 10)), (0, 10 * PAGE));
        // By path, through an open file of its own.
        let wrote = moved(aio, || drop(aio.write_path(file.path(), vec![8; MIB]).wait().unwrap()));
        assert_eq!(wrote, (MIB, 0));
        assert_eq!(moved(aio, || read_pages(file, &[8; MIB], 10)), (10 * PAGE, 0));
    });
}

#[test]
fn reads_after_writes_are_never_stale() {
    each_resident(DirectMode::Auto, MIB, |aio, file, content| {
        let mut expected = content.to_vec();
        for round in 0..200usize {
            // Aligned ones are direct, odd ones have edges in the cache.
            let (at, len) = if round % 2 == 0 { (round * PAGE, PAGE) } else { (round * 5003, 3 * PAGE + 1) };
            let bytes = pattern(round as u64, len);
            expected[at..at + len].copy_from_slice(&bytes);
            file.write(bytes, at as u64).wait().unwrap();
            let from = at.saturating_sub(PAGE);
            let read = file.read(vec![0; len + PAGE], from as u64).wait().unwrap();
            assert!(read == expected[from..from + len + PAGE], "round {round}");
            if round % 20 == 0 {
                file.sync_data().wait().unwrap();
                make_resident(file.path(), &expected);
                read_pages(file, &expected, MANY);
            }
        }
        file.sync_all().wait().unwrap();
        evict(file.path());
        assert!(aio.read_path(file.path(), vec![0; MIB]).wait().unwrap() == expected);
    });
}
