//! Large reads and writes through the page cache, beside threads of `pread(2)` and `pwrite(2)`.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::thread;

use aio::{AioHandle, Backend, DirectMode};
use memmap2::MmapMut;

use crate::side_by_side::{SideBySide, Work, numbers_of_threads};

const MIB: usize = 1 << 20;

/// A kind of job.
#[derive(Clone, Copy)]
struct Job<'a> {
    path: &'a Path,
    /// Of the file, in bytes.
    len: usize,
    /// Of an op or a system call, in bytes.
    size: usize,
    reads: bool,
    /// Into memory that was never touched, as a loader has it.
    fresh: bool,
}

pub(crate) fn compare(lines: &mut SideBySide) {
    let len = lines.scaled(1 << 30, 8 << 20) as usize;
    let path = lines.file("cached", len as u64);
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    for backend in [Backend::Uring, Backend::Libaio, Backend::Pthread] {
        for (reads, fresh, what) in [
            (true, true, "cached reads, fresh memory"),
            (true, false, "cached reads"),
            (false, false, "buffered writes"),
        ] {
            for (size, in_flight) in [(64 * MIB, 16), (MIB, 32)] {
                let job = Job { path: &path, len, size, reads, fresh };
                let direct = if reads { DirectMode::Auto } else { DirectMode::Off };
                let mut config = aio::AioConfig::default();
                config.max_pending_ops = in_flight;
                let builder = aio::builder().config(config).backend(backend).direct(direct);
                let aio = builder.build().expect("a handle");
                // All use the same pages: some lie better than others.
                let memory = RefCell::new(job.memory());
                let mut ours = || job.through_engine(&aio, &mut memory.borrow_mut());
                let mut others: Vec<Box<Work<'_>>> = numbers_of_threads()
                    .map(|threads| {
                        let memory = &memory;
                        Box::new(move || job.by_threads(threads, &mut memory.borrow_mut())) as Box<Work<'_>>
                    })
                    .collect();
                let name = format!("{what}, {} MiB, {backend}", size / MIB);
                let wanted = if reads && cpus > 2 { 0.9 } else { 0.95 };
                lines.line(&name, wanted, &mut ours, &mut others);
            }
        }
    }
}

impl Job<'_> {
    fn memory(&self) -> MmapMut {
        MmapMut::map_anon(self.len).expect("memory")
    }

    fn through_engine(self, aio: &AioHandle, memory: &mut MmapMut) -> u64 {
        if self.fresh {
            *memory = self.memory();
        }
        let file = if self.reads { aio.open(self.path) } else { aio.create(self.path) }.expect("the file");
        aio.scope(|scope| {
            for (index, chunk) in memory.chunks_mut(self.size).enumerate() {
                let offset = (index * self.size) as u64;
                if self.reads {
                    scope.read(&file, chunk, offset);
                } else {
                    scope.write(&file, &*chunk, offset);
                }
            }
        })
        .expect("the bytes");
        self.len as u64
    }

    fn by_threads(self, threads: usize, memory: &mut MmapMut) -> u64 {
        if self.fresh {
            *memory = self.memory();
        }
        let file = if self.reads { File::open(self.path) } else { File::options().write(true).open(self.path) };
        let file = file.expect("the file");
        let chunks = Mutex::new(memory.chunks_mut(self.size.min(MIB)).enumerate());
        let transfer = || {
            while let Some((index, chunk)) = { chunks.lock().expect("no panic").next() } {
                let offset = (index * self.size.min(MIB)) as u64;
                let moved =
                    if self.reads { file.read_exact_at(chunk, offset) } else { file.write_all_at(chunk, offset) };
                moved.expect("the bytes");
            }
        };
        thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(transfer))));
        self.len as u64
    }
}
