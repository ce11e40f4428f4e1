//! Memory that blocking calls pass through when the caller's own cannot be transferred directly.

use crate::memory::{AlignedBuf, Arena};
use crate::sync::{Mutex, MutexGuard, lock};

const BOUNCE_BUFFERS: usize = 4;

/// Bounce buffers: as many blocking calls at once pass through one, each a block long.
#[derive(Debug)]
pub(crate) struct Bounce {
    arena: Arena,
    block_size: usize,
    buffers: Mutex<BounceBuffers>,
}

#[derive(Debug, Default)]
struct BounceBuffers {
    free: Vec<AlignedBuf>,
    /// How many there are, with those in use.
    made: usize,
}

impl Bounce {
    pub(crate) fn new(arena: Arena, block_size: usize) -> Self {
        Self { arena, block_size, buffers: Mutex::default() }
    }

    fn buffers(&self) -> MutexGuard<'_, BounceBuffers> {
        lock(&self.buffers)
    }

    /// A buffer of at least `len` bytes, if one can be had. Only the lists are under the lock: the drop of a buffer
    /// calls the wakers of allocations that wait.
    pub(super) fn take(&self, len: usize) -> Option<AlignedBuf> {
        let free = {
            let mut buffers = self.buffers();
            let free = buffers.free.pop();
            if free.is_none() {
                if buffers.made == BOUNCE_BUFFERS {
                    return None;
                }
                buffers.made += 1;
            }
            free
        };
        let long_enough = free.filter(|buffer| buffer.len() >= len);
        let buffer = long_enough.or_else(|| self.arena.alloc_staging(len.max(self.block_size), false));
        if buffer.is_none() {
            self.buffers().made -= 1;
        }
        buffer
    }

    pub(super) fn give(&self, buffer: AlignedBuf) {
        if self.arena.is_waited_for() {
            self.buffers().made -= 1;
            drop(buffer);
        } else {
            self.buffers().free.push(buffer);
        }
    }

    /// Gives the buffers that are not in use back to the arena.
    pub(super) fn give_back_unused(&self) {
        let unused = {
            let mut buffers = self.buffers();
            buffers.made -= buffers.free.len();
            std::mem::take(&mut buffers.free)
        };
        drop(unused);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::{Arc, mpsc};
    use std::task::{Context, Wake, Waker};
    use std::time::Duration;

    use super::*;
    use crate::memory::page_size;

    /// A waker that finds out, on another thread, whether a bounce buffer can be asked for.
    struct Asks(Arc<Bounce>, mpsc::Sender<bool>);

    impl Wake for Asks {
        fn wake(self: Arc<Self>) {
            let (bounce, (done, is_done)) = (self.0.clone(), mpsc::channel());
            std::thread::spawn(move || {
                bounce.take(1);
                let _ = done.send(());
            });
            let _ = self.1.send(is_done.recv_timeout(Duration::from_secs(5)).is_ok());
        }
    }

    #[test]
    fn no_waker_is_called_while_the_bounce_buffers_are_locked() {
        for is_in_use in [true, false] {
            let page = page_size();
            let arena = Arena::new(4 * page as u64);
            let bounce = Arc::new(Bounce::new(arena.clone(), page));
            let mut buffer = bounce.take(page);
            if !is_in_use {
                buffer.take().into_iter().for_each(|buffer| bounce.give(buffer));
            }
            let (woken, is_woken) = mpsc::channel();
            let waker = Waker::from(Arc::new(Asks(bounce.clone(), woken)));
            let mut all = pin!(arena.alloc_async(4 * page));
            assert!(all.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            match buffer {
                Some(buffer) => bounce.give(buffer),
                None => bounce.give_back_unused(),
            }
            assert_eq!(is_woken.try_recv(), Ok(true), "in use: {is_in_use}");
        }
    }
}
