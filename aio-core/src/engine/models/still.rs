//! A backend that moves nothing: a block completes, in full, at the first `reap` after its submission. It waits as the
//! real queues do, by the same [`Word`], on a bell made of the model's locks.
#![allow(unsafe_code)]

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::parts::Word;
use crate::backend::{Capabilities, Completion, IoBackend, IoBlock, IoQueue, QueueConfig, Unavailable, Wake};
use crate::sync::ThreadSync;

#[derive(Debug)]
pub(super) struct Still;

#[derive(Debug)]
struct StillQueue {
    depth: usize,
    accepted: Vec<(u64, usize)>,
    waker: Arc<Belled>,
}

/// [`EventWaker`](crate::backend::parts::EventWaker) with another bell.
#[derive(Debug)]
pub(super) struct Belled {
    word: Word,
    bell: ThreadSync<bool>,
}

impl Belled {
    pub(super) fn new() -> Self {
        Self { word: Word::new(), bell: ThreadSync::new(false) }
    }

    /// What a queue does that waits for nothing but its waker.
    pub(super) fn wait(&self) {
        loop {
            *self.bell.lock() = false;
            if !self.word.announce() {
                break;
            }
            drop(self.bell.wait_until(self.bell.lock(), None, |rung| *rung));
        }
        self.word.retract();
    }

    /// What a queue does that returns without having waited.
    fn pass(&self) {
        self.word.retract();
    }
}

impl Wake for Belled {
    fn wake(&self) {
        if self.word.wake() {
            *self.bell.lock() = true;
            self.bell.notify_all();
        }
    }
}

impl IoBackend for Still {
    fn name(&self) -> &'static str {
        "still"
    }

    fn probe(&self) -> Result<Capabilities, Unavailable> {
        Ok(Capabilities::default())
    }

    fn open_queue(&self, config: &QueueConfig) -> Result<Box<dyn IoQueue>, Unavailable> {
        Ok(Box::new(StillQueue { depth: config.depth, accepted: Vec::new(), waker: Arc::new(Belled::new()) }))
    }
}

impl IoQueue for StillQueue {
    fn capacity(&self) -> usize {
        self.depth
    }

    fn in_flight(&self) -> usize {
        self.accepted.len()
    }

    unsafe fn submit(&mut self, blocks: &[IoBlock]) -> io::Result<usize> {
        let accepted = blocks.len().min(self.depth - self.accepted.len());
        self.accepted.extend(blocks[..accepted].iter().map(|block| (block.token, block.len)));
        Ok(accepted)
    }

    fn reap(&mut self, _min: usize, timeout: Option<Duration>, done: &mut Vec<Completion>) -> io::Result<()> {
        if self.accepted.is_empty() && timeout.is_none() {
            self.waker.wait();
        } else {
            self.waker.pass();
        }
        done.extend(self.accepted.drain(..).map(|(token, len)| Completion { token, result: Ok(len) }));
        Ok(())
    }

    fn drain(&mut self) -> usize {
        self.accepted.clear();
        0
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.waker.clone()
    }
}
