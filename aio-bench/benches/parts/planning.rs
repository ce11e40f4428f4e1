//! Cutting an op into blocks, on the thread that submits it: one aligned extent, which is what tensors should be; one
//! whose edges go through the page cache; and a vectored op.

use std::hint::black_box;
use std::ptr::NonNull;

use aio_core::bench::plan;
use aio_core::op::{Extent, ExtentMemory};
use criterion::{BenchmarkId, Criterion, Throughput};

const UNIT: u32 = 4096;
const BLOCK_SIZE: usize = 1 << 20;

pub(crate) fn bench(criterion: &mut Criterion) {
    let aligned = extent(0, 64 << 20);
    let odd = extent(100, (64 << 20) + 11);
    let vectored: Vec<Extent> = (0..64).map(|index| extent(index << 20, 1 << 20)).collect();
    let mut group = criterion.benchmark_group("planning");
    for (id, extents) in [("aligned", &[aligned][..]), ("odd", &[odd]), ("vectored", &vectored)] {
        group.throughput(Throughput::Elements(extents.len() as u64));
        group.bench_function(BenchmarkId::new(id, extents.len()), |bencher| {
            bencher.iter(|| plan(black_box(extents), UNIT, BLOCK_SIZE));
        });
    }
}

/// Memory that is never touched, and as far off a page boundary as the offset is.
fn extent(offset: u64, len: usize) -> Extent {
    let ptr = NonNull::new(std::ptr::without_provenance_mut((1 << 40) + offset as usize));
    Extent { offset, len, memory: ptr.map(|ptr| ExtentMemory { ptr, region: None }) }
}
