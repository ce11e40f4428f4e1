//! Small reads of a cached file by many tasks, beside `std::fs` on the runtime's threads for blocking calls.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use aio::Backend;
use tokio::runtime::Runtime;

use crate::side_by_side::{SideBySide, Work};

const TASKS: u64 = 200;

pub(crate) fn compare(lines: &mut SideBySide) {
    let len = lines.scaled(1 << 30, 8 << 20);
    let reads = lines.scaled(200, 2);
    let path = lines.file("requests", len);
    let runtime = tokio::runtime::Builder::new_multi_thread().build().expect("a runtime");
    for backend in [Backend::Uring, Backend::Libaio, Backend::Pthread] {
        for size in [4096, 8192, 64 << 10] {
            let aio = aio::builder().backend(backend).build().expect("a handle");
            let file = aio.open(&path).expect("the file");
            let mut ours = || {
                each_task(&runtime, |task| {
                    let file = file.clone();
                    async move {
                        let mut memory = vec![0; size];
                        for offset in offsets(task, reads, len, size) {
                            memory = file.read(memory, offset).await.expect("the bytes");
                        }
                    }
                });
                TASKS * reads * size as u64
            };
            let std_file = Arc::new(File::open(&path).expect("the file"));
            let plain: Box<Work<'_>> = Box::new(|| {
                each_task(&runtime, |task| {
                    let file = std_file.clone();
                    async move {
                        let mut memory = vec![0; size];
                        for offset in offsets(task, reads, len, size) {
                            let file = file.clone();
                            let read = move || file.read_exact_at(&mut memory, offset).map(|()| memory);
                            memory = tokio::task::spawn_blocking(read).await.expect("no panic").expect("the bytes");
                        }
                    }
                });
                TASKS * reads * size as u64
            });
            lines.line(&format!("{TASKS} tasks, cached, {size} bytes, {backend}"), 1.0, &mut ours, &mut [plain]);
        }
    }
}

/// Runs the task of each number, and waits for all.
fn each_task<F: Future<Output = ()> + Send + 'static>(runtime: &Runtime, task: impl Fn(u64) -> F) {
    runtime.block_on(async {
        let tasks: Vec<_> = (0..TASKS).map(|number| tokio::spawn(task(number))).collect();
        for task in tasks {
            task.await.expect("no panic");
        }
    });
}

/// Places of a task's reads, all over the file.
fn offsets(task: u64, reads: u64, len: u64, size: usize) -> impl Iterator<Item = u64> {
    let places = (len - size as u64) / 512;
    (0..reads).map(move |read| (task * reads + read).wrapping_mul(0x9E37_79B9_7F4A_7C15) % places * 512)
}
