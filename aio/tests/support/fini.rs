//! A descriptor that runs something of the test's in `fini`, on whatever thread ends its op.
#![allow(unreachable_pub, dead_code, reason = "each test file uses its part")]

use std::ptr::NonNull;
use std::sync::Mutex;

use aio::AioFile;
use aio::op::{Direction, Extent, ExtentMemory, IoOpDesc, Outcome, Target};

pub struct OnFini {
    direction: Direction,
    target: Target,
    extents: Vec<Extent>,
    _memory: Vec<u8>,
    run: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl OnFini {
    /// Reads or writes all of `memory` at offset 0.
    pub fn new(
        direction: Direction,
        file: &AioFile,
        mut memory: Vec<u8>,
        run: impl FnOnce() + Send + 'static,
    ) -> Self {
        let ptr = NonNull::new(memory.as_mut_ptr()).expect("an address");
        let extents = vec![Extent { offset: 0, len: memory.len(), memory: Some(ExtentMemory { ptr, region: None }) }];
        let run: Box<dyn FnOnce() + Send> = Box::new(run);
        Self { direction, target: file.target(), extents, _memory: memory, run: Mutex::new(Some(run)) }
    }

    /// Moves nothing.
    pub fn empty(file: &AioFile, run: impl FnOnce() + Send + 'static) -> Self {
        Self { extents: Vec::new(), ..Self::new(Direction::Read, file, Vec::new(), run) }
    }

    /// The bytes are there, and the extent does not say where.
    pub fn without_address(mut self) -> Self {
        self.extents.iter_mut().for_each(|extent| extent.memory = None);
        self
    }
}

// SAFETY: the memory belongs to the descriptor, which does nothing with it before it is dropped, after `fini`.
unsafe impl IoOpDesc for OnFini {
    fn direction(&self) -> Direction {
        self.direction
    }

    fn target(&self) -> &Target {
        &self.target
    }

    fn extents(&self) -> &[Extent] {
        &self.extents
    }

    fn fini(&self, _outcome: &Outcome) {
        if let Some(run) = self.run.lock().unwrap().take() {
            run();
        }
    }
}
