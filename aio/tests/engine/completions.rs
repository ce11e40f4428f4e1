//! Invariant 3: Ok means every byte, however often the kernel stops short or asks to try again.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use aio::{AioHandle, Error};
use aio_core::backend::IoBlock;
use aio_testkit::fault::{Fate, Rules};

use crate::BLOCK;
use crate::support::{Folder, Memory, each_backend, gated, pattern, small};

/// Cuts every block somewhere, at least once.
#[derive(Debug, Default)]
struct Cuts {
    aligned: bool,
    state: AtomicU64,
    cuts: AtomicU64,
}

impl Rules for Cuts {
    fn block(&self, _queue: usize, block: &IoBlock) -> Fate {
        let random = pattern(self.state.fetch_add(1, Ordering::Relaxed), 8);
        let random = usize::from_le_bytes(random.try_into().unwrap());
        let cut = match self.aligned {
            true => (random % (block.len / 4096 + 1)) * 4096,
            false => random % block.len + 1,
        };
        if cut == 0 || cut == block.len {
            return Fate::Transfer;
        }
        self.cuts.fetch_add(1, Ordering::Relaxed);
        Fate::Cut(cut)
    }
}

#[test]
fn short_transfers_are_resumed_where_they_stopped() {
    each_backend("short transfers", |backend, direct| {
        for aligned in [true, false] {
            let rules = Arc::new(Cuts { aligned, ..Cuts::default() });
            let (aio, gate) = gated(backend, &rules, small(2, 4, direct));
            round_trip(&aio, &Folder::new());
            round_trip(&aio.validated(true), &Folder::new());
            let cuts = rules.cuts.load(Ordering::Relaxed);
            // A cut past the end of the file is none.
            let resumed = aio.stats().short_transfers;
            assert!(cuts > 20 && resumed > cuts / 2, "{cuts} cuts, {resumed} resumed");
            assert_eq!(gate.offences(), Vec::<String>::new());
        }
    });
}

/// Refuses blocks and submissions again and again with errors that mean "later".
#[derive(Debug, Default)]
struct Storm {
    state: AtomicU64,
    errors: AtomicU64,
}

impl Storm {
    fn random(&self) -> usize {
        let random = pattern(self.state.fetch_add(1, Ordering::Relaxed) + 99, 8);
        usize::from_le_bytes(random.try_into().unwrap())
    }
}

const LATER: [i32; 3] = [libc::EINTR, libc::EAGAIN, libc::EBUSY];

impl Rules for Storm {
    fn submit(&self, _queue: usize, offered: usize, _in_flight: usize) -> io::Result<usize> {
        match self.random() % 4 {
            0 => Err(io::Error::from_raw_os_error(LATER[self.random() % 3])),
            1 => Ok(0),
            2 => Ok(1.min(offered)),
            _ => Ok(offered),
        }
    }

    fn block(&self, _queue: usize, _block: &IoBlock) -> Fate {
        // Often enough that some blocks see it more than twenty times in a row.
        if self.random() % 100 < 85 {
            self.errors.fetch_add(1, Ordering::Relaxed);
            return Fate::End(Err(io::Error::from_raw_os_error(LATER[self.random() % 3])));
        }
        Fate::Transfer
    }
}

#[test]
fn what_means_later_is_tried_again() {
    each_backend("storm", |backend, direct| {
        for depth in [1, 4] {
            let rules = Arc::new(Storm::default());
            let (aio, gate) = gated(backend, &rules, small(2, depth, direct));
            round_trip(&aio, &Folder::new());
            let errors = rules.errors.load(Ordering::Relaxed);
            assert!(errors > 50, "{errors} errors");
            let stats = aio.stats();
            assert_eq!((stats.retries, stats.short_transfers), (errors, stats.short_transfers));
            assert_eq!(gate.offences(), Vec::<String>::new());
        }
    });
}

/// Writes and reads all kinds of extents, and compares.
fn round_trip(aio: &AioHandle, folder: &Folder) {
    let base = pattern(1, 200_000);
    let path = folder.file("t", &base);
    let file = aio.open(&path).unwrap();
    let mut expected = base;
    let mut tickets = Vec::new();
    for (i, (offset, len)) in [(0, 40_000), (40_000, 65_536), (131_072, 49_152), (190_001, 90_000)].iter().enumerate()
    {
        let data = pattern(i as u64 + 7, *len);
        expected.resize(expected.len().max(offset + len), 0);
        expected[*offset..offset + len].copy_from_slice(&data);
        let mut memory = match i % 2 {
            0 => Memory::odd(*len),
            _ => Memory::Arena(aio.alloc(*len).unwrap()),
        };
        memory.bytes_mut().copy_from_slice(&data);
        tickets.push(file.write(memory, *offset as u64));
    }
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    assert!(std::fs::read(&path).unwrap() == expected);
    let reads = [(0, 280_001), (4096, 131_072), (77, 100_000)];
    let tickets: Vec<_> = reads.map(|(offset, len)| file.read(Memory::odd(len), offset as u64)).into();
    for (ticket, (offset, len)) in tickets.into_iter().zip(reads) {
        assert!(ticket.wait().unwrap().bytes() == &expected[offset..offset + len]);
    }
    // The count of a read past the end is exact.
    let failed = file.read(vec![0; 100_000], 250_000).wait().unwrap_err();
    assert!(matches!(failed.error(), Error::UnexpectedEof { read: 30_001, .. }), "{failed}");
    assert!(failed.into_buffer().unwrap()[..30_001] == expected[250_000..]);
    file.sync_all().wait().unwrap();
}

/// Reports fewer or more bytes than there are, or an error, for one block.
#[derive(Debug)]
struct Once {
    result: Mutex<Option<io::Result<usize>>>,
}

impl Rules for Once {
    fn block(&self, _queue: usize, _block: &IoBlock) -> Fate {
        self.result.lock().unwrap().take().map_or(Fate::Transfer, Fate::End)
    }
}

#[test]
fn a_block_that_fails_fails_its_op_alone() {
    each_backend("one failure", |backend, direct| {
        let results: [io::Result<usize>; 4] =
            [Err(io::Error::from_raw_os_error(libc::EIO)), Ok(0), Ok(usize::MAX), Ok(BLOCK + 1)];
        for result in results {
            let what = format!("{result:?}");
            let rules = Arc::new(Once { result: Mutex::new(Some(result)) });
            let (aio, _) = gated(backend, &rules, small(1, 4, direct));
            let folder = Folder::new();
            let path = folder.file("t", &pattern(1, 4 * BLOCK));
            let file = aio.open(&path).unwrap();
            let tickets: Vec<_> =
                (1..9).map(|i| file.write(pattern(i + 1, 2 * BLOCK), i * 2 * BLOCK as u64)).collect();
            let results: Vec<_> = tickets.into_iter().map(|ticket| ticket.wait()).collect();
            let failed: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
            assert_eq!(failed.len(), 1, "{what}: {failed:?}");
            let Error::Io(error) = failed[0].error() else { panic!("{what}: {:?}", failed[0]) };
            assert_eq!(
                (error.op, error.backend, &error.path),
                (aio::error::OpKind::Write, Some(backend.name()), &path)
            );
            let data = std::fs::read(&path).unwrap();
            for (i, _) in results.iter().enumerate().filter(|(_, result)| result.is_ok()) {
                let at = (i + 1) * 2 * BLOCK;
                assert!(data[at..at + 2 * BLOCK] == pattern(i as u64 + 2, 2 * BLOCK), "{what}: op {i}");
            }
        }
    });
}
