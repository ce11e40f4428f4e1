//! Memory that cannot be had, or that an op does not have.

use aio::Error;
use aio::op::{Direction, RawOp};

use crate::support::fini::OnFini;
use crate::support::{each, pattern};

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

#[test]
fn memory_that_is_not_there_is_never_written() {
    each(|_, aio, folder| {
        let content = pattern(1, 16 << 10);
        let path = folder.file("t", &content);
        let file = aio.open(&path).unwrap();
        for direction in [Direction::Write, Direction::Read] {
            for len in [1, 4096, 32 << 10] {
                let op = RawOp::new(direction, file.target(), 0, std::ptr::null_mut(), len);
                // SAFETY: there is no memory, which is refused.
                let failed = unsafe { aio.submit_raw(op) }.wait().unwrap_err();
                assert!(matches!(failed.error(), Error::InvalidInput(_)), "{failed}");
                assert!(failed.to_string().contains(&format!("no memory for {len} bytes at offset 0")), "{failed}");
            }
            let op = RawOp::new(direction, file.target(), 0, std::ptr::null_mut(), 0);
            // SAFETY: no bytes need no memory.
            unsafe { aio.submit_raw(op) }.wait().unwrap();
            let op = OnFini::new(direction, &file, vec![1; 16 << 10], || ()).without_address();
            let failed = aio.submit(op).wait().unwrap_err();
            let expected = if direction == Direction::Write { "gather" } else { "scatter" };
            let Error::Panicked { callback, .. } = failed.error() else { panic!("{failed}") };
            assert_eq!(*callback, expected);
            assert!(std::fs::read(&path).unwrap() == content, "something was written");
        }
    });
}
