//! Proved: an allocation that waits for a queue to give memory back, or for a buffer to be dropped, is woken by
//! either, on a thread and as a future; and one that is dropped lets the next one go ahead.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use loom::thread;

use super::explore;
use super::still::Belled;
use super::tickets::Unpark;
use crate::backend::Wake;
use crate::inbox::Inbox;
use crate::memory::{Arena, Holder, page_size};
use crate::op::buf::IoBuf;
use crate::sync::thread::{current, park};

/// Three pages in one region that a queue has registered, of which the middle one is a buffer. Two in one piece can
/// be had when the queue has given the region back, or its end let go of it; `drops`: or the buffer is dropped.
fn wait_for_two_pages(closes: bool, drops: bool, awaits: bool) {
    let page = page_size();
    let arena = Arena::new(3 * page as u64);
    let inboxes: Arc<[Inbox]> = [Inbox::default()].into();
    let bell = Arc::new(Belled::new());
    inboxes[0].set_waker(bell.clone());
    arena.serve(&inboxes);
    let [first, middle, last] = [(); 3].map(|()| arena.alloc(page).unwrap());
    let region = arena.region(IoBuf::region(&middle).unwrap(), &Holder::new(&inboxes, 0));
    drop((first, last));
    let worker = {
        let (inboxes, bell) = (inboxes.clone(), bell.clone());
        thread::spawn(move || {
            bell.wait();
            // In this order: the queue lets go, and then the question goes.
            drop(region);
            drop(if closes { inboxes[0].close() } else { inboxes[0].take_requests() });
        })
    };
    let other = thread::spawn(move || {
        if drops {
            drop(middle);
            return None;
        }
        Some(middle)
    });
    drop(if awaits { block_on(arena.alloc_async(2 * page)) } else { arena.alloc(2 * page) }.unwrap());
    // The worker's end.
    bell.wake();
    worker.join().unwrap();
    drop(other.join().unwrap());
    assert!(arena.mapped() <= 3 * page as u64);
}

#[test]
fn a_region_comes_back() {
    for (closes, drops) in [(false, false), (true, false), (false, true), (true, true)] {
        for awaits in [false, true] {
            let what = format!(
                "memory: a queue gives a region back, ends: {closes}, a buffer is dropped: {drops}, awaited: {awaits}"
            );
            explore(&what, 3, move || wait_for_two_pages(closes, drops, awaits));
        }
    }
}

/// One page, which a buffer takes, and two tasks that wait for it, or a task and a thread; or one task gives up.
#[test]
fn one_after_the_other_is_served() {
    for (first_is_dropped, awaits) in [(false, false), (false, true), (true, false), (true, true)] {
        let what = format!(
            "memory: a buffer is dropped, two allocations wait, the first is dropped: {first_is_dropped}, the second is \
             awaited: {awaits}"
        );
        explore(&what, 3, move || {
            let page = page_size();
            let arena = Arena::new(page as u64);
            let held = arena.alloc(page).unwrap();
            let other = {
                let arena = arena.clone();
                thread::spawn(move || {
                    let mut first = arena.alloc_async(page);
                    if first_is_dropped {
                        let _ = Pin::new(&mut first).poll(&mut Context::from_waker(Waker::noop()));
                        return;
                    }
                    drop(block_on(first).unwrap());
                })
            };
            let third = {
                let arena = arena.clone();
                thread::spawn(move || {
                    drop(if awaits { block_on(arena.alloc_async(page)) } else { arena.alloc(page) }.unwrap());
                })
            };
            drop(held);
            other.join().unwrap();
            third.join().unwrap();
            drop(arena.alloc(page).unwrap());
        });
    }
}

/// Polls, and parks until the waker is called.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => park(),
        }
    }
}
