//! The invariants and promises of the engine that docs/design.md lists, each in a module of its own, against queues,
//! buffers and callbacks that misbehave.
//!
//! Forks have a binary of their own: a child holds the descriptors of every test that runs beside it.

#[path = "../support/scripted.rs"]
mod scripted;
#[path = "../support/mod.rs"]
mod support;

mod broken_queues;
mod cancelling;
mod capacity;
mod closing;
mod completions;
mod failures;
mod lost_memory;
mod memory_ownership;
mod on_caller;
mod other_handles;
mod panics;
mod registration;
mod waiting;

use std::sync::Arc;

use aio::op::Direction;
use aio::{AioFile, AioHandle, Backend, DirectMode, Error};
use support::staged::{Panics, Seen, Staged};
use support::{Folder, pattern, small, until_idle};

const BLOCK: usize = 16 << 10;

fn plain(backend: Backend, direct: DirectMode) -> AioHandle {
    aio::builder().backend(backend).config(small(1, 8, direct)).build().expect("the probe succeeded")
}

/// Staged memory in one piece.
fn staged(direction: Direction, file: &AioFile, offset: u64, bytes: Vec<u8>, panics: Panics) -> (Staged, Arc<Seen>) {
    let offset = offset as usize;
    Staged::new(direction, file.target(), vec![(offset..offset + bytes.len(), bytes)], panics, false)
}

/// Ops still work.
fn assert_alive(aio: &AioHandle, folder: &Folder) {
    let path = folder.file("alive", &pattern(9, 5 * BLOCK + 3));
    let file = aio.open(&path).unwrap();
    for _ in 0..4 {
        assert!(file.read(vec![0; 5 * BLOCK + 3], 0).wait().unwrap() == pattern(9, 5 * BLOCK + 3));
        file.write(pattern(9, BLOCK), 0).wait().unwrap();
    }
    file.sync_data().wait().unwrap();
    until_idle(aio);
}

fn died(error: &Error) -> bool {
    matches!(error, Error::WorkerDied { .. })
}
