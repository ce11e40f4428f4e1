//! Taking a buffer from the arena and giving it back, once its pages are resident: a small one, one of a usual tensor's
//! size, and a small one while a thousand others fragment the free memory.

use aio_core::buf::{AlignedBuf, Arena};
use criterion::{BenchmarkId, Criterion};

pub(crate) fn bench(criterion: &mut Criterion) {
    let arena = Arena::new(1 << 30);
    let alloc = |len| -> AlignedBuf { arena.alloc(len).expect("far below the limit") };
    let mut group = criterion.benchmark_group("arena");
    for (id, len) in [("4K", 4 << 10), ("1M", 1 << 20)] {
        group.bench_function(BenchmarkId::new("alloc_free", id), |bencher| bencher.iter(|| alloc(len)));
    }
    let mut held: Vec<_> = (0..2000).map(|_| alloc(4 << 10)).collect();
    let mut keep = false;
    held.retain(|_| {
        keep = !keep;
        keep
    });
    group.bench_function(BenchmarkId::new("alloc_free_between", held.len()), |bencher| {
        bencher.iter(|| alloc(4 << 10));
    });
}
