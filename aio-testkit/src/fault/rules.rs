//! What may be done to queues.

use std::fmt::Debug;
use std::io;

use aio_core::backend::{Completion, FileId, IoBlock};

/// What becomes of a block.
#[derive(Debug)]
pub enum Fate {
    /// The real queue gets it.
    Transfer,
    /// Only this many bytes are transferred, through the page cache, and that is what its completion says.
    Cut(usize),
    /// Nothing is transferred, and its completion says this.
    End(io::Result<usize>),
}

/// How long a block takes, in reaps of its queue. When the queue is waited for and has nothing else to give, what is
/// due next comes early.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delay {
    /// Before the real queue gets it.
    pub before: u32,
    /// After it was transferred, until its completion is reported.
    pub after: u32,
}

/// What is done to queues, which are numbered in the order in which they were opened. The defaults change nothing.
pub trait Rules: Send + Sync + Debug {
    /// How many of the blocks on offer the queue takes, on top of those in flight.
    fn submit(&self, queue: usize, offered: usize, in_flight: usize) -> io::Result<usize> {
        let _ = (queue, in_flight);
        Ok(offered)
    }

    /// For each block that the queue takes.
    fn block(&self, queue: usize, block: &IoBlock) -> Fate {
        let _ = (queue, block);
        Fate::Transfer
    }

    /// For each block that the queue takes.
    fn delay(&self, queue: usize, block: &IoBlock) -> Delay {
        let _ = (queue, block);
        Delay::default()
    }

    /// Before and after each reap: whether the queue is broken.
    fn reap(&self, queue: usize) -> io::Result<()> {
        let _ = queue;
        Ok(())
    }

    /// After each reap, with the completions it is about to report.
    fn reaped(&self, queue: usize, done: &mut Vec<Completion>) {
        let _ = (queue, done);
    }

    /// For each block that is transferred on the thread of a caller or of a copier.
    fn transfer(&self, block: &IoBlock) -> Fate {
        let _ = block;
        Fate::Transfer
    }

    /// For each block that is read on the thread of a caller if that takes no waiting. The default sends all of them to
    /// the queues, where the other rules hold.
    fn at_once(&self, block: &IoBlock) -> Fate {
        let _ = block;
        Fate::End(Err(io::ErrorKind::WouldBlock.into()))
    }

    /// Each time a queue is woken.
    fn woken(&self, queue: usize) {
        let _ = queue;
    }

    /// A file got a slot in a queue, or gave it back.
    fn registered(&self, queue: usize, file: FileId, there: bool) {
        let _ = (queue, file, there);
    }
}

/// Changes nothing.
#[derive(Debug, Default)]
pub struct Plain;

impl Rules for Plain {}
