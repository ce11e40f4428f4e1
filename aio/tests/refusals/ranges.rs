//! Ranges, lengths and directions that cannot be are refused before a byte moves.

use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aio::op::{Direction, Extent, IoOpDesc, Outcome, PathMode, Target};
use aio::{Error, OpenOptions};

use crate::support::{each, pattern};

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
