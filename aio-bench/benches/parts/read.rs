//! Direct reads of 4 KiB at scattered offsets of a sparse file, one and 32 at a time: the plain system call, each
//! backend's queue, and other libraries. All read the same file on one thread, which waits for all it submitted.

use std::fs::File;
use std::os::unix::fs::FileExt;

use aio_core::buf::Arena;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};

use crate::data_file::{BLOCK, DataFile, Offsets};
use crate::{queues, skip};

/// The reads at one queue depth.
pub(crate) type Group<'a> = BenchmarkGroup<'a, WallTime>;

pub(crate) fn bench(criterion: &mut Criterion) {
    let data = DataFile::new();
    let file = match data.open_direct() {
        Ok(file) => file,
        Err(error) => return skip("read_4K", format_args!("no direct I/O in the temporary folder: {error}")),
    };
    for depth in [1, 32] {
        let mut group = criterion.benchmark_group(format!("read_4K/qd{depth}"));
        group.throughput(Throughput::Elements(depth as u64));
        std_fs(&mut group, &file, depth);
        queues::bench(&mut group, &file, depth);
        #[cfg(feature = "peer-rio")]
        crate::peer_rio::bench(&mut group, &file, depth);
        #[cfg(feature = "peer-glommio")]
        crate::peer_glommio::bench(&mut group, data.path(), depth);
    }
}

/// `pread(2)`, which has no queue: one read after the other.
fn std_fs(group: &mut Group<'_>, file: &File, depth: usize) {
    let mut memory = Arena::new(1 << 20).alloc(BLOCK).expect("a page");
    let mut offsets = Offsets::default();
    group.bench_function("std", |bencher| {
        bencher.iter(|| {
            for _ in 0..depth {
                file.read_exact_at(&mut memory, offsets.next()).expect("a hole reads as zeros");
            }
        });
    });
}
