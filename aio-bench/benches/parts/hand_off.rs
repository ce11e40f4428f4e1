//! The way of an op from the submitting thread to a worker and back: descriptor, plan, FIFO, claim, complete queue,
//! promise, and waking the waiting thread. One op at a time is all latency; 32 at a time, as in a busy queue, share the
//! wake-ups.

use criterion::{BenchmarkId, Criterion, Throughput};

use crate::data_file::{BLOCK, DataFile};
use crate::null_backend;

pub(crate) fn bench(criterion: &mut Criterion) {
    let data = DataFile::new();
    let engine = null_backend::engine(BLOCK);
    let file = engine.open(data.path()).expect("the file was made");
    let mut group = criterion.benchmark_group("hand_off");
    for ops in [1, 32] {
        let mut buffers: Vec<_> = (0..ops).map(|_| engine.alloc(BLOCK).expect("a page")).collect();
        let mut tickets = Vec::with_capacity(ops);
        group.throughput(Throughput::Elements(ops as u64));
        group.bench_function(BenchmarkId::new("ops", ops), |bencher| {
            bencher.iter(|| {
                tickets.extend(buffers.drain(..).map(|buffer| file.read(buffer, 0)));
                buffers.extend(tickets.drain(..).map(|ticket| ticket.wait().expect("nothing that could fail")));
            });
        });
    }
}
