//! Ops of every shape move the right bytes, and say so, on every backend and in every file mode.

mod support;

use aio::Error;
use aio::buf::IoBuf;
use support::{block_on, each, pattern};

/// Lengths and offsets around pages, sectors and blocks (16 KiB here).
const LENGTHS: &[usize] = &[0, 1, 511, 512, 4095, 4096, 4097, 16384, 16385, 100_000, 131_072];
const OFFSETS: &[u64] = &[0, 1, 512, 4095, 4096, 16384, 20_001];

#[test]
fn any_length_at_any_offset() {
    each(|_, aio, folder| {
        let mut seed = 0;
        for &offset in OFFSETS {
            for &len in LENGTHS {
                seed += 1;
                let base = pattern(1, 60_000);
                let path = folder.file("t", &base);
                let file = aio.open(&path).unwrap();
                let data = pattern(seed, len);
                let mut buffer = aio.alloc(len).unwrap();
                buffer.copy_from_slice(&data);
                file.write(buffer, offset).wait().unwrap();

                let mut expected = base.clone();
                let end = offset as usize + len;
                if len > 0 {
                    expected.resize(expected.len().max(end), 0);
                    expected[offset as usize..end].copy_from_slice(&data);
                }
                assert_eq!(std::fs::read(&path).unwrap(), expected, "{len} bytes at {offset}");
                let back = file.read(vec![0; len], offset).wait().unwrap();
                assert_eq!(back, data, "{len} bytes at {offset}");
            }
        }
    });
}

/// Those of `/proc` can be read and written, but not asynchronously.
#[test]
fn files_without_asynchronous_transfers() {
    each(|_, aio, folder| {
        let status = aio.open("/proc/self/status").unwrap();
        let mut buffer = aio.alloc(4096).unwrap();
        for len in [5, 4096] {
            // What is in flight beside it is none the worse for it.
            let (path, content) = (folder.path("t"), pattern(1, 100_000));
            let beside = aio.write_path(&path, content.clone());
            let ended = status.read(vec![0; len], 0).wait();
            let read = match ended {
                Ok(read) => read,
                Err(failed) => {
                    assert!(matches!(failed.error(), Error::UnexpectedEof { .. }), "{failed}");
                    failed.into_buffer().unwrap()
                }
            };
            assert!(read.starts_with(b"Name:"));
            beside.wait().unwrap();
            assert!(std::fs::read(path).unwrap() == content);
        }
        buffer.truncate(5);
        assert!(status.read(buffer, 0).wait().unwrap()[..] == *b"Name:");

        let path = "/proc/self/oom_score_adj";
        let same = std::fs::read(path).unwrap();
        aio.open(path).unwrap().write(same.clone(), 0).wait().unwrap();
        assert!(std::fs::read(path).unwrap() == same);
    });
}

#[test]
fn any_address() {
    each(|_, aio, folder| {
        let data = pattern(3, 70_000);
        let file = aio.create(folder.path("t")).unwrap();
        for shift in [0usize, 1, 7, 64, 511, 512, 4095] {
            let mut memory = vec![0; 80_000];
            memory[shift..shift + data.len()].copy_from_slice(&data);
            aio.scope(|scope| scope.write(&file, &memory[shift..shift + data.len()], 0)).unwrap();
            memory.fill(0);
            aio.scope(|scope| scope.read(&file, &mut memory[shift..shift + data.len()], 0)).unwrap();
            assert!(memory[shift..shift + data.len()] == data[..], "shifted by {shift}");
            assert!(memory[..shift].iter().chain(&memory[shift + data.len()..]).all(|byte| *byte == 0));
        }
    });
}

#[test]
fn vectored_extents_each_with_its_memory() {
    each(|_, aio, folder| {
        let file = aio.create(folder.path("t")).unwrap();
        let pieces: Vec<(u64, Vec<u8>)> =
            (0..50u64).map(|i| (i * 5000, pattern(i + 1, 100 + 90 * i as usize))).collect();
        let written = file.write_vectored(pieces.clone()).wait().unwrap();
        assert_eq!(written, pieces);
        let empty = pieces.iter().map(|(offset, bytes)| (*offset, vec![0; bytes.len()])).collect();
        assert_eq!(file.read_vectored(empty).wait().unwrap(), pieces);
    });
}

#[test]
fn blocking_calls() {
    each(|_, aio, folder| {
        let file = aio.create(folder.path("t")).unwrap();
        let data = pattern(9, 300_000);
        file.write_at(&data, 77).unwrap();
        let mut back = vec![0; data.len()];
        file.read_at(&mut back, 77).unwrap();
        assert!(back == data);
        let mut small = vec![0; 1000];
        file.read_at(&mut small, 5000).unwrap();
        assert_eq!(small, data[5000 - 77..6000 - 77]);
        file.write_at(&[1, 2, 3], 4095).unwrap();
        file.read_at(&mut small[..5], 4094).unwrap();
        assert_eq!(small[..5], [data[4094 - 77], 1, 2, 3, data[4098 - 77]]);
        let error = file.read_at(&mut small, 300_000).unwrap_err();
        assert!(matches!(error, Error::UnexpectedEof { offset: 300_000, length: 1000, read: 77, .. }), "{error:?}");
    });
}

#[test]
fn the_end_of_the_file_is_counted() {
    each(|_, aio, folder| {
        for len in [0usize, 1, 4096, 5000, 40_000, 65_536] {
            let path = folder.file("t", &pattern(5, len));
            let file = aio.open(&path).unwrap();
            for asked in [len + 1, len + 4096, len + 100_000] {
                let failed = file.read(vec![0; asked], 0).wait().unwrap_err();
                match failed.error() {
                    Error::UnexpectedEof { read, length, .. } => {
                        assert_eq!((*read, *length), (len as u64, asked as u64));
                    }
                    other => panic!("{other:?}"),
                }
                let buffer = failed.into_buffer().unwrap();
                assert!(buffer[..len] == pattern(5, len)[..], "what did arrive is there");
            }
        }
    });
}

#[test]
fn paths_are_opened_by_workers() {
    each(|_, aio, folder| {
        let tensors: Vec<Vec<u8>> = (0..40).map(|i| pattern(i, 1 + 3001 * i as usize)).collect();
        let path = |i: usize| folder.path(&format!("tensor{i}"));
        aio.scope(|scope| {
            for (i, tensor) in tensors.iter().enumerate() {
                scope.write_new(path(i), &tensor[..]);
            }
        })
        .unwrap();
        for (i, tensor) in tensors.iter().enumerate() {
            assert_eq!(&std::fs::read(path(i)).unwrap(), tensor);
        }
        let tickets: Vec<_> =
            tensors.iter().enumerate().map(|(i, tensor)| aio.read_path(path(i), vec![0; tensor.len()])).collect();
        for (ticket, tensor) in tickets.into_iter().zip(&tensors) {
            assert_eq!(&ticket.wait().unwrap(), tensor);
        }
        // A new file is not made over an old one, and the old one stays.
        let error = aio.write_new(path(3), vec![1; 10]).wait().unwrap_err();
        assert_eq!(error.error().raw_os_error(), Some(libc::EEXIST), "{error}");
        assert_eq!(std::fs::read(path(3)).unwrap(), tensors[3]);
        // Whole contents are replaced, shorter or longer.
        for len in [0, 10, 5000, 200_000] {
            aio.write_path(path(3), pattern(99, len)).wait().unwrap();
            assert_eq!(std::fs::read(path(3)).unwrap(), pattern(99, len));
        }
    });
}

#[test]
fn tickets_are_futures() {
    each(|_, aio, folder| {
        let file = aio.create(folder.path("t")).unwrap();
        let data = pattern(2, 50_000);
        let copy = data.clone();
        let back: aio::Result<Vec<u8>> = block_on(async move {
            let mut buffer = file.write(copy, 10).await?;
            buffer.fill(0);
            file.sync_data().await?;
            let buffer = file.read(buffer, 10).await?;
            Ok(buffer)
        });
        assert!(back.unwrap() == data);
    });
}

#[test]
fn everything_is_read_back_when_asked() {
    each(|_, aio, folder| {
        let aio = aio.validated(true);
        let file = aio.create(folder.path("t")).unwrap();
        let before = aio.stats();
        file.write(pattern(4, 100_001), 3).wait().unwrap();
        file.read(vec![0; 100_001], 3).wait().unwrap();
        let after = aio.stats();
        let moved = after.bytes_direct + after.bytes_buffered - before.bytes_direct - before.bytes_buffered;
        assert_eq!(moved, 4 * 100_001);
    });
}

#[test]
fn files_can_be_resized_allocated_and_punched() {
    each(|_, aio, folder| {
        let path = folder.path("t");
        let file = aio.create(&path).unwrap();
        file.write(pattern(1, 100_000), 0).wait().unwrap();
        file.set_len(50_000).wait().unwrap();
        assert_eq!(file.len().unwrap(), 50_000);
        file.allocate(0, 200_000).wait().unwrap();
        assert_eq!(file.len().unwrap(), 200_000);
        file.punch_hole(4096, 8192).wait().unwrap();
        file.sync_all().wait().unwrap();
        let mut expected = pattern(1, 50_000);
        expected[4096..4096 + 8192].fill(0);
        expected.resize(200_000, 0);
        assert!(std::fs::read(&path).unwrap() == expected);
        file.close().unwrap();
    });
}

#[test]
fn handle_wait_counts_and_reports() {
    each(|_, aio, folder| {
        let file = aio.open(folder.file("t", &pattern(1, 10_000))).unwrap();
        for i in 0..10 {
            drop(file.read(vec![0; 100], i * 100));
        }
        assert_eq!(aio.wait().unwrap(), 10);
        assert_eq!(aio.wait().unwrap(), 0);
        drop(file.read(vec![0; 100], 0));
        drop(file.read(vec![0; 100], 9_950));
        drop(aio.read_path(folder.path("missing"), vec![0; 1]));
        let Error::Failures(failures) = aio.wait().unwrap_err() else { panic!() };
        assert_eq!((failures.completed, failures.errors.len()), (1, 2), "{failures}");
        assert_eq!(aio.wait().unwrap(), 0);
    });
}

#[test]
fn closing_refuses_what_comes_later() {
    each(|builder, _, folder| {
        let aio = builder().build().unwrap();
        let file = aio.open(folder.file("t", &pattern(1, 10_000))).unwrap();
        let clone = aio.clone();
        let ticket = file.read(vec![0; 10_000], 0);
        aio.close().unwrap();
        assert!(ticket.is_done());
        ticket.wait().unwrap();
        let failed = file.read(vec![7; 10], 0).wait().unwrap_err();
        assert!(matches!(failed.error(), Error::Closed));
        assert_eq!(failed.into_buffer().unwrap().byte_len(), 10);
        assert!(matches!(clone.open("x").unwrap_err(), Error::Closed));
        assert!(matches!(file.read_at(&mut [0; 10], 0).unwrap_err(), Error::Closed));
    });
}
