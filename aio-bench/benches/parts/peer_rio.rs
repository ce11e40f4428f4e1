//! rio, io_uring with a thread that reaps.
//!
//! For comparison only: it is under the GPL-3 and unsound (RUSTSEC-2020-0021: the memory of a forgotten completion can
//! be freed while the kernel uses it). Here each completion is waited for before its memory is freed.

use std::fs::File;

use aio_core::buf::Arena;

use crate::data_file::{BLOCK, Offsets};
use crate::read::Group;
use crate::skip;

pub(crate) fn bench(group: &mut Group<'_>, file: &File, depth: usize) {
    let ring = match rio::new() {
        Ok(ring) => ring,
        Err(error) => return skip("rio", error),
    };
    let mut memory = Arena::new(1 << 30).alloc(depth * BLOCK).expect("a few pages");
    let pages: Vec<&mut [u8]> = memory.chunks_mut(BLOCK).collect();
    let mut offsets = Offsets::default();
    group.bench_function("rio", |bencher| {
        let mut reads = Vec::with_capacity(depth);
        bencher.iter(|| {
            // The first wait submits them all.
            reads.extend(pages.iter().map(|page| ring.read_at(file, page, offsets.next())));
            for read in reads.drain(..) {
                assert_eq!(read.wait().expect("a hole reads as zeros"), BLOCK);
            }
        });
    });
}
