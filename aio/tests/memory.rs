//! What an op costs in memory: allocations per op and none per block, and staging that the queues' depth bounds.
#![allow(unsafe_code, reason = "an allocator that counts is an unsafe trait")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use aio::buf::AlignedBuf;
use aio::{AioHandle, Backend, DirectMode};
use support::{Folder, backends};

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands everything to the system's allocator, whose promises hold for this one too.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the same, and `ptr` came from the system's allocator.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const BLOCK: usize = 16 << 10;
const DEPTH: usize = 8;
const THREADS: usize = 2;
const BLOCKS: usize = 512;

/// One test, because the counters are the process's: what runs beside it would be counted.
#[test]
fn allocations_and_staging_are_bounded() {
    for backend in backends() {
        for direct in [DirectMode::On, DirectMode::Off] {
            let builder = aio::builder().backend(backend).direct(direct).block_size(BLOCK);
            let handle = builder.queue_depth(DEPTH).threads(THREADS).build().expect("the probe succeeded");
            blocks_allocate_nothing(&handle, backend, direct);
        }
        staging_is_bounded(backend);
    }
}

fn blocks_allocate_nothing(handle: &AioHandle, backend: Backend, direct: DirectMode) {
    let folder = Folder::new();
    let file = handle.create(folder.path("file")).unwrap();
    let mut buffer: AlignedBuf = handle.alloc(BLOCK * BLOCKS).unwrap();
    buffer.fill(7);
    let mut buffer = file.write(buffer, 0).wait().unwrap();
    let before_blocks = handle.stats().blocks;
    let mut counts = Vec::new();
    for _ in 0..8 {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        buffer = file.read(buffer, 0).wait().unwrap();
        counts.push(ALLOCATIONS.load(Ordering::Relaxed) - before);
    }
    assert!(handle.stats().blocks - before_blocks >= 8 * BLOCKS as u64, "fewer blocks than the test is about");
    // The first ones grow the tables; the harness may allocate now and then.
    let fewest = counts.iter().min().unwrap();
    assert!(*fewest <= 16, "{backend}, direct {direct}: {counts:?} allocations for ops of {BLOCKS} blocks each");
}

/// An op at an odd address passes through staging, whose size goes with the queues and not with the op.
fn staging_is_bounded(backend: Backend) {
    let builder = aio::builder().backend(backend).direct(DirectMode::On).block_size(BLOCK);
    let handle = builder.queue_depth(DEPTH).threads(THREADS).build().expect("the probe succeeded");
    let folder = Folder::new();
    let path = folder.path("file");
    let bound = (THREADS * DEPTH * BLOCK) as u64 + (16 << 20);
    let contents: Vec<u8> = (0..32 << 20).map(|at| (at / 4096) as u8).collect();
    assert!(contents.len() as u64 > bound, "an op that would fit into what is allowed shows nothing");
    std::fs::write(&path, &contents).unwrap();
    let file = handle.open(&path).unwrap();
    let mut memory = vec![0u8; contents.len() + 1];
    let mapped = handle.arena().mapped();
    handle.scope(|scope| scope.read(&file, &mut memory[1..], 0)).unwrap();
    assert!(memory[1..] == contents, "{backend}: staged bytes differ");
    assert_eq!(handle.stats().bytes_staged, contents.len() as u64, "{backend}: the op was not staged");
    let grown = handle.arena().mapped() - mapped;
    assert!(grown <= bound, "{backend}: {grown} bytes of staging, more than {bound}");
    let again = handle.arena().mapped();
    handle.scope(|scope| scope.read(&file, &mut memory[1..], 0)).unwrap();
    assert_eq!(handle.arena().mapped(), again, "{backend}: staging buffers are not used again");
}
