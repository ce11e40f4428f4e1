//! Loom's versions of what the engine synchronises with.

pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard, mpsc};

/// As `std::thread_local`; loom's does not take the `const` that makes `std`'s cheap.
macro_rules! modeled_thread_local {
    ($(#[$attribute:meta])* static $name:ident: $type:ty = const $init:block;) => {
        loom::thread_local! { $(#[$attribute])* static $name: $type = $init; }
    };
    ($(#[$attribute:meta])* static $name:ident: $type:ty = $init:expr;) => {
        loom::thread_local! { $(#[$attribute])* static $name: $type = $init; }
    };
}
pub(crate) use modeled_thread_local as thread_local;

/// As `std::thread`.
///
/// Parking is made of loom's locks: its own `unpark` also releases a thread that waits for a mutex, which then finds the
/// mutex taken, and what it leaves for a thread that runs is lost when that thread waits for a mutex.
pub(crate) mod thread {
    use std::sync::Arc;
    use std::time::Duration;

    use loom::sync::{Condvar, Mutex};

    pub(crate) use loom::thread::{Builder, JoinHandle, yield_now};

    #[derive(Debug, Clone)]
    pub(crate) struct Thread(Arc<Parker>);

    #[derive(Debug)]
    struct Parker {
        token: Mutex<bool>,
        given: Condvar,
    }

    loom::thread_local! {
        static CURRENT: Thread = Thread(Arc::new(Parker { token: Mutex::new(false), given: Condvar::new() }));
    }

    pub(crate) fn current() -> Thread {
        CURRENT.with(Thread::clone)
    }

    pub(crate) fn park() {
        let Thread(parker) = current();
        let mut token = parker.token.lock().unwrap();
        while !*token {
            token = parker.given.wait(token).unwrap();
        }
        *token = false;
    }

    /// Time means nothing to a model, so this one is always over at once.
    pub(crate) fn park_timeout(_timeout: Duration) {
        yield_now();
    }

    impl Thread {
        pub(crate) fn unpark(&self) {
            *self.0.token.lock().unwrap() = true;
            self.0.given.notify_one();
        }
    }
}
