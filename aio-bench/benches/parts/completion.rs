//! The cost of a block once its op is under way: claim, slot, submission, completion, account. Ops have more and more
//! blocks; the slope is the cost of each. They are blocks of one extent, or of an extent each, which the planner cuts
//! one by one; the difference is the cost of that.

use aio_core::buf::AlignedBuf;
use aio_core::{AioFile, AioHandle};
use criterion::{BenchmarkId, Criterion, Throughput};

use crate::data_file::{BLOCK, DataFile};
use crate::null_backend;

pub(crate) fn bench(criterion: &mut Criterion) {
    let data = DataFile::new();
    let engine = null_backend::engine(BLOCK);
    let file = engine.open(data.path()).expect("the file was made");
    let mut group = criterion.benchmark_group("completion");
    for blocks in [32, 256, 2048] {
        group.throughput(Throughput::Elements(blocks as u64));
        let mut buffer = engine.alloc(blocks * BLOCK).expect("8 MiB at most");
        group.bench_function(BenchmarkId::new("one_extent", blocks), |bencher| {
            bencher.iter(|| one_extent(&engine, &file, &mut buffer));
        });
        group.bench_function(BenchmarkId::new("extent_per_block", blocks), |bencher| {
            bencher.iter(|| extent_per_block(&engine, &file, &mut buffer));
        });
    }
}

fn one_extent(engine: &AioHandle, file: &AioFile, buffer: &mut AlignedBuf) {
    engine.scope(|scope| scope.read(file, &mut **buffer, 0)).expect("nothing that could fail");
}

fn extent_per_block(engine: &AioHandle, file: &AioFile, buffer: &mut AlignedBuf) {
    // Every other page of the file, so that no two are adjacent.
    let extents = buffer.chunks_mut(BLOCK).enumerate();
    let extents = extents.map(|(index, memory)| ((2 * index * BLOCK) as u64, memory)).collect();
    engine.scope(|scope| scope.read_vectored(file, extents)).expect("nothing that could fail");
}
