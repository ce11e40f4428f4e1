//! A backend of tests: it has no queues.

use crate::backend::{Capabilities, IoBackend, IoQueue, QueueConfig, Unavailable};

/// Blocking calls and operations on files need none.
#[derive(Debug)]
pub(crate) struct NoQueues;

impl IoBackend for NoQueues {
    fn name(&self) -> &'static str {
        "none"
    }

    fn probe(&self) -> Result<Capabilities, Unavailable> {
        Ok(Capabilities::default())
    }

    fn open_queue(&self, _: &QueueConfig) -> Result<Box<dyn IoQueue>, Unavailable> {
        Err(Unavailable::new("none", "it has no queues", None))
    }
}
