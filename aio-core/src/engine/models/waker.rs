//! Proved: a queue that announced its wait is woken by every wake-up that comes after it looked for work, whatever the
//! bell's order, and sees what the waker did before it woke.
//!
//! The word of `EventWaker` with a bell made of a lock; one queue, one or two wakers, any number of preemptions for one
//! waker and three for two.

use std::sync::Arc;

use loom::thread;

use super::explore;
use super::still::Belled;
use crate::backend::Wake;
use crate::sync::{AtomicUsize, Ordering};

/// Each waker adds to `work` and wakes; the queue takes until it has had all of it.
fn wakers(count: usize) -> impl Fn() + Send + Sync {
    move || {
        let (waker, work) = (Arc::new(Belled::new()), Arc::new(AtomicUsize::new(0)));
        let wakers: Vec<_> = (0..count)
            .map(|_| {
                let (waker, work) = (waker.clone(), work.clone());
                thread::spawn(move || {
                    // The wake-up itself has to publish it.
                    work.fetch_add(1, Ordering::Relaxed);
                    waker.wake();
                })
            })
            .collect();
        while work.load(Ordering::Relaxed) < count {
            waker.wait();
        }
        wakers.into_iter().for_each(|waker| waker.join().unwrap());
    }
}

#[test]
fn one_wake_up_is_not_lost() {
    explore("waker: one waker", None, wakers(1));
}

#[test]
fn of_two_wake_ups_none_is_lost() {
    explore("waker: two wakers", 4, wakers(2));
}
