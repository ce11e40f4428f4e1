//! Noticing a fork.
//!
//! A forked child has this process's memory but none of its threads, and its rings and AIO contexts belong to the
//! parent. So every call compares the generation that its handle was made in with the current one, which a
//! `pthread_atfork(3)` handler counts up in the child; `getpid(2)` would cost a system call each time.
#![allow(unsafe_code)]

use std::io;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::foreign::log;

static GENERATION: AtomicU32 = AtomicU32::new(0);
static REGISTERED: Once = Once::new();

extern "C" fn count_up_in_child() {
    // Only an atomic: between fork and exec nothing else is safe.
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// The process in which something was made. A forked child is another one; asking costs an atomic load.
///
/// A child made without the C library's `fork(3)`, as by a bare `clone(2)`, is not noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(u32);

impl Generation {
    /// This process.
    pub fn now() -> Self {
        REGISTERED.call_once(|| {
            // SAFETY: the handler is a static function that only touches an atomic.
            let refused = unsafe { libc::pthread_atfork(None, None, Some(count_up_in_child)) };
            if refused != 0 {
                log(|| tracing::warn!("pthread_atfork failed: a forked child will not be told to open a new handle"));
            }
        });
        Self(GENERATION.load(Ordering::Relaxed))
    }

    /// How many forks it is away from the first process.
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }

    /// Whether the process was forked since, and this is the child.
    pub fn is_forked(self) -> bool {
        GENERATION.load(Ordering::Relaxed) != self.0
    }

    /// For what a queue is asked to do: an error in a forked child, where the queue is not its own.
    pub fn check(self) -> io::Result<()> {
        if self.is_forked() { Err(io::Error::other("the queue belongs to the parent process")) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_another_generation() {
        let here = Generation::now();
        assert!(!here.is_forked());
        // SAFETY: the child calls nothing but an atomic load and _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(if here.is_forked() { 0 } else { 1 }) };
        }
        let mut status = 0;
        // SAFETY: waits for the child made above.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0, "the child did not notice the fork");
        assert!(!here.is_forked());
    }
}
