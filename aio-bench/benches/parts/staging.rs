//! The cost of memory at an odd address: the same ops with memory that the kernel accepts, and with memory that goes
//! through a staging buffer. The backend moves nothing, so the difference is the copy and the work around it; the copy
//! alone is measured beside it.

use aio_core::buf::AlignedBuf;
use criterion::{BenchmarkId, Criterion, Throughput};

use crate::data_file::DataFile;
use crate::{null_backend, skip};

const LEN: usize = 1 << 20;

pub(crate) fn bench(criterion: &mut Criterion) {
    let data = DataFile::new();
    let engine = null_backend::engine(LEN);
    let file = engine.open(data.path()).expect("the file was made");
    if !file.is_direct() {
        return skip("staging", "the temporary folder's file system has no direct I/O, so nothing is staged");
    }
    let alloc = |len| -> AlignedBuf { engine.alloc(len).expect("a few MiB") };
    let mut buffer = alloc(LEN + 1);
    let (mut to, mut from) = (alloc(LEN + 1), alloc(LEN));
    from.fill(1);
    let mut group = criterion.benchmark_group("staging");
    group.throughput(Throughput::Bytes(LEN as u64));
    for (id, at) in [("aligned", 0), ("odd", 1)] {
        let memory = &mut buffer[at..at + LEN];
        let before = engine.stats().bytes_staged;
        engine.scope(|scope| scope.read(&file, &mut *memory, 0)).expect("nothing can fail");
        assert_eq!(engine.stats().bytes_staged - before, if id == "odd" { LEN as u64 } else { 0 }, "staged bytes");
        group.bench_function(BenchmarkId::new("read", id), |bencher| {
            bencher.iter(|| engine.scope(|scope| scope.read(&file, &mut *memory, 0)).expect("nothing can fail"));
        });
        group.bench_function(BenchmarkId::new("write", id), |bencher| {
            bencher.iter(|| engine.scope(|scope| scope.write(&file, &*memory, 0)).expect("nothing can fail"));
        });
        group.bench_function(BenchmarkId::new("copy", id), |bencher| {
            bencher.iter(|| to[at..at + LEN].copy_from_slice(&from));
        });
    }
}
