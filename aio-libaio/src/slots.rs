//! The requests of a queue: one slot per block that may be in flight, allocated once.

use std::io;

use aio_core::backend::{Completion, IoBlock};

use crate::abi::{io_event, iocb};
use crate::request::request;

/// A slab of requests, their blocks' tokens, and the blocks that were over without a request in the kernel.
///
/// A slot is free, staged (between [`stage`](Self::stage) and [`settle`](Self::settle)) or in the kernel. Its number
/// is the request's `data`, by which the completion finds it.
#[derive(Debug)]
pub(crate) struct Slots {
    /// The kernel reads and writes these during `io_submit` only, so they are ours at all other times.
    requests: Box<[iocb]>,
    /// The block's token, while the slot is staged or in the kernel.
    tokens: Box<[Option<u64>]>,
    free: Vec<u32>,
    staged: Vec<u32>,
    pointers: Vec<*mut iocb>,
    in_kernel: usize,
    over: Vec<Completion>,
}

impl Slots {
    pub(crate) fn new(capacity: u32) -> Self {
        let count = capacity as usize;
        Self {
            requests: vec![iocb::default(); count].into_boxed_slice(),
            tokens: vec![None; count].into_boxed_slice(),
            // Popped from the back: low numbers first, so that a shallow load stays in few cache lines.
            free: (0..capacity).rev().collect(),
            staged: Vec::with_capacity(count),
            pointers: Vec::with_capacity(count),
            in_kernel: 0,
            over: Vec::new(),
        }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.tokens.len()
    }

    /// Accepted and not reported.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_kernel + self.over.len()
    }

    /// Those of them that the kernel has.
    pub(crate) fn in_kernel(&self) -> usize {
        self.in_kernel
    }

    /// Prepares requests for as many `blocks` as there is room for, and returns how many. `resfd` is the eventfd to
    /// signal on completion, if any.
    pub(crate) fn stage(&mut self, blocks: &[IoBlock], resfd: Option<u32>) -> usize {
        let room = self.capacity().saturating_sub(self.in_flight());
        self.staged.clear();
        for block in blocks.iter().take(room) {
            let Some(slot) = self.free.pop() else { break };
            self.requests[slot as usize] = request(block, slot, resfd);
            self.tokens[slot as usize] = Some(block.token);
            self.staged.push(slot);
        }
        // Made after the last write to a request: pointers made earlier would not survive it.
        let base = self.requests.as_mut_ptr();
        self.pointers.clear();
        self.pointers.extend(self.staged.iter().map(|slot| base.wrapping_add(*slot as usize)));
        self.staged.len()
    }

    /// The staged requests, in the order of their blocks. Each points into the slab.
    pub(crate) fn pointers(&mut self) -> &mut [*mut iocb] {
        &mut self.pointers
    }

    /// The kernel took `count` more of the staged requests.
    pub(crate) fn took(&mut self, count: usize) {
        self.in_kernel += count;
    }

    /// The kernel did not take the staged request number `at`: the block completes with `result`.
    pub(crate) fn refused(&mut self, at: usize, result: io::Result<usize>) {
        let slot = self.staged[at];
        if let Some(token) = self.tokens[slot as usize].take() {
            self.free.push(slot);
            self.over.push(Completion { token, result });
        }
    }

    /// Ends the staging: requests from number `accepted` on were neither taken nor refused.
    pub(crate) fn settle(&mut self, accepted: usize) {
        for slot in self.staged.drain(..).skip(accepted) {
            self.tokens[slot as usize] = None;
            self.free.push(slot);
        }
    }

    /// Reports the blocks whose requests the kernel did not take.
    pub(crate) fn report_over(&mut self, done: &mut Vec<Completion>) {
        done.append(&mut self.over);
    }

    /// Reports the block that `event` completes. False: there is none, so the event is not the kernel's doing.
    pub(crate) fn complete(&mut self, event: &io_event, done: &mut Vec<Completion>) -> bool {
        let Ok(slot) = u32::try_from(event.data) else { return false };
        let Some(token) = self.tokens.get_mut(slot as usize).and_then(Option::take) else { return false };
        self.in_kernel -= 1;
        self.free.push(slot);
        done.push(Completion::from_kernel(token, event.res));
        true
    }

    /// Forgets every block, once the kernel is known to have none.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.capacity() as u32);
    }
}
