//! Submitting to each backend's queue and reaping from it, without the engine: plain blocks, and, if the backend can,
//! with memory and file registered, as the engine does it.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use aio::Backend;
use aio_core::backend::{FileId, IoBackend, IoBlock, IoQueue, QueueConfig, Region, RegionId, RegionMemory};
use aio_core::buf::{AlignedBuf, Arena};
use aio_core::op::Direction;

use crate::data_file::{BLOCK, Offsets};
use crate::read::Group;
use crate::skip;

/// The block's registered file.
const FILE: FileId = FileId { slot: 0, generation: 0 };
const REGION: RegionId = RegionId { slot: 0, generation: 0 };

pub(crate) fn bench(group: &mut Group<'_>, file: &File, depth: usize) {
    for backend in Backend::COMPILED {
        let Some(implementation) = backend.implementation() else { continue };
        match implementation.probe() {
            Err(unavailable) => skip(backend, unavailable.reason),
            Ok(capabilities) => {
                bench_queue(group, backend.name(), Queue::open(&*implementation, file, depth, false));
                if capabilities.registered_memory && capabilities.registered_files {
                    let id = format!("{backend}-registered");
                    bench_queue(group, &id, Queue::open(&*implementation, file, depth, true));
                }
            }
        }
    }
}

fn bench_queue(group: &mut Group<'_>, id: &str, queue: Result<Queue<'_>, String>) {
    match queue {
        Ok(mut queue) => {
            group.bench_function(id, |bencher| bencher.iter(|| queue.read_all()));
        }
        Err(reason) => skip(id, reason),
    }
}

/// A queue, and a block for each of its places.
struct Queue<'a> {
    // Before what its blocks use, so that it is dropped first and waits for those in flight.
    queue: Box<dyn IoQueue>,
    blocks: Vec<IoBlock>,
    offsets: Offsets,
    done: Vec<aio_core::backend::Completion>,
    _memory: Arc<Memory>,
    _file: &'a File,
}

impl<'a> Queue<'a> {
    fn open(backend: &dyn IoBackend, file: &'a File, depth: usize, registered: bool) -> Result<Self, String> {
        let memory = Arc::new(Memory::new(depth * BLOCK));
        let mut config = QueueConfig::new(depth);
        (config.regions, config.files) = if registered { (1, 1) } else { (0, 0) };
        let mut queue = backend.open_queue(&config).map_err(|unavailable| unavailable.reason)?;
        if queue.capacity() < depth {
            return Err(format!("its queues hold {} blocks", queue.capacity()));
        }
        if registered {
            queue.add_region(&Region::new(REGION, memory.clone())).map_err(|error| format!("memory: {error}"))?;
            queue.add_file(FILE, file.as_fd()).map_err(|error| format!("file: {error}"))?;
        }
        let block = |index: usize| IoBlock {
            token: index as u64,
            file: registered.then_some(FILE),
            region: registered.then_some(REGION),
            ..IoBlock::new(Direction::Read, file.as_raw_fd(), memory.ptr.wrapping_add(index * BLOCK), BLOCK, 0)
        };
        let blocks = (0..depth).map(block).collect();
        Ok(Self { queue, blocks, offsets: Offsets::default(), done: Vec::new(), _memory: memory, _file: file })
    }

    fn read_all(&mut self) {
        for block in &mut self.blocks {
            block.offset = self.offsets.next();
        }
        let mut rest = &self.blocks[..];
        while self.done.len() < self.blocks.len() {
            // SAFETY: each block has its own page of `_memory`, which nothing else touches and which is dropped, like
            // the borrow of the file, after the queue.
            rest = &rest[unsafe { self.queue.submit(rest) }.expect("a queue that works")..];
            self.queue.reap(self.blocks.len(), None, &mut self.done).expect("a queue that works");
        }
        for completion in self.done.drain(..) {
            assert_eq!(completion.result.expect("a hole reads as zeros"), BLOCK);
        }
    }
}

/// An arena's memory, as one region.
#[derive(Debug)]
struct Memory {
    ptr: *mut u8,
    buffer: AlignedBuf,
}

impl Memory {
    fn new(len: usize) -> Self {
        let mut buffer = Arena::new(1 << 30).alloc(len).expect("a few pages");
        Self { ptr: buffer.as_mut_ptr(), buffer }
    }
}

// SAFETY: the pointer is to memory of the buffer beside it, which is Send; only the kernel uses it.
unsafe impl Send for Memory {}
// SAFETY: as above; nothing is read or written through a shared reference.
unsafe impl Sync for Memory {}

// SAFETY: the buffer owns its memory, readable and writable, until it is dropped with this value; neither field
// changes.
unsafe impl RegionMemory for Memory {
    fn ptr(&self) -> *mut u8 {
        self.ptr
    }

    fn len(&self) -> usize {
        self.buffer.len()
    }
}
