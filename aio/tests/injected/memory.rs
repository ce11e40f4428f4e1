//! Memory that tells whether it was written to after it was given back.

use std::sync::{Arc, Mutex};

use aio::AioHandle;
use aio::backend::RegionId;
use aio::buf::{IoBuf, IoBufMut};

use crate::support::{Kind, Memory};

/// What freed memory is filled with: a transfer that comes late would change it, or carry it into the file.
const FREED: u8 = 0xCC;

/// Where memory goes when its owner drops it.
#[derive(Debug, Default)]
pub(crate) struct Yard {
    made: Mutex<usize>,
    freed: Mutex<Vec<Memory>>,
}

impl Yard {
    /// All memory was freed once, and not written to since.
    pub(crate) fn check(&self) {
        let freed = self.freed.lock().unwrap();
        assert_eq!(freed.len(), *self.made.lock().unwrap(), "buffers freed, of those made");
        let touched = freed.iter().filter(|memory| memory.bytes().iter().any(|byte| *byte != FREED)).count();
        assert_eq!(touched, 0, "buffers written to after they were given back");
    }
}

/// Memory of several kinds, watched by its [`Yard`].
#[derive(Debug)]
pub(crate) struct Guarded {
    memory: Option<Memory>,
    yard: Arc<Yard>,
}

impl Guarded {
    pub(crate) fn new(kind: Kind, content: &[u8], aio: &AioHandle, yard: &Arc<Yard>) -> Self {
        let mut memory = kind.memory(aio, content.len());
        memory.bytes_mut().copy_from_slice(content);
        *yard.made.lock().unwrap() += 1;
        Self { memory: Some(memory), yard: yard.clone() }
    }

    fn memory(&self) -> &Memory {
        self.memory.as_ref().expect("there until it is dropped")
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.memory().bytes()
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.as_mut().expect("there until it is dropped").bytes_mut()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Some(mut memory) = self.memory.take() {
            memory.bytes_mut().fill(FREED);
            self.yard.freed.lock().unwrap().push(memory);
        }
    }
}

// SAFETY: the bytes are at one address while the value lives, and only `&mut` changes them.
unsafe impl IoBuf for Guarded {
    fn byte_ptr(&self) -> *const u8 {
        self.memory().byte_ptr()
    }

    fn byte_len(&self) -> usize {
        self.memory().byte_len()
    }

    fn region(&self) -> Option<RegionId> {
        self.memory().region()
    }
}

// SAFETY: the same address, and u8 has no invalid values.
unsafe impl IoBufMut for Guarded {
    fn byte_mut_ptr(&mut self) -> *mut u8 {
        self.bytes_mut().as_mut_ptr()
    }
}
