//! glommio, a thread-per-core runtime on io_uring: as many tasks as the queue is deep, each reading one block after the
//! other. Each read gets one of glommio's own registered buffers.

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use glommio::io::DmaFile;
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};

use crate::data_file::{BLOCK, Offsets};
use crate::read::Group;
use crate::skip;

pub(crate) fn bench(group: &mut Group<'_>, path: &Path, depth: usize) {
    let executor = match LocalExecutorBuilder::new(Placement::Unbound).io_memory(1 << 20).make() {
        Ok(executor) => executor,
        Err(error) => return skip("glommio", error),
    };
    let file = match executor.run(DmaFile::open(path)) {
        Ok(file) => Rc::new(file),
        Err(error) => return skip("glommio", error),
    };
    group.bench_function("glommio", |bencher| {
        bencher.iter_custom(|rounds| read_all(&executor, &file, depth, rounds));
    });
    executor.run(file.close_rc()).expect("a file that was read only");
}

fn read_all(executor: &LocalExecutor, file: &Rc<DmaFile>, depth: usize, rounds: u64) -> Duration {
    let mut offsets = Offsets::default();
    executor.run(async {
        let start = Instant::now();
        let task = |_| {
            let (file, mut offsets) = (file.clone(), offsets.split());
            glommio::spawn_local(async move {
                for _ in 0..rounds {
                    let read = file.read_at_aligned(offsets.next(), BLOCK).await.expect("a hole reads as zeros");
                    assert_eq!(read.len(), BLOCK);
                }
            })
        };
        let tasks: Vec<_> = (0..depth).map(task).collect();
        for task in tasks {
            task.await;
        }
        start.elapsed()
    })
}
